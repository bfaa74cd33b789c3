"""Drift: an alarm when the scores of judged images stop being like those before them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import repeat
from math import log
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knnspect.calibration.alarm import DIRECTIONS, DriftAlarm
from knnspect.calibration.betting import Martingale
from knnspect.calibration.ranks import Ranks, check_score, check_scores
from knnspect.errors import ParameterError, ShapeError, StoreError, errors_about
from knnspect.files import as_damage, check_path, read_json, write_json
from knnspect.validation import check_count, check_positive

__all__ = ["DriftMonitor"]

_KIND, _FORMAT = "drift", 1
#: Scores that fit, twice, into JSON of ours.
_MOST_SCORES = 250_000


class DriftMonitor:
    """Watch the scores of judged images, and raise an alarm when they change.

    Each score gets a p-value: its rank among those of calibration and all that were judged before,
    with ties broken at random. As long as all of these scores come in an order that means nothing
    (they are exchangeable, as those of independent images are), the p-values are independent and
    uniform, whatever the scores are. A martingale bets against that, see `Martingale`. The
    alarm is raised when its capital reaches ``1 / false_alarm_probability``: without a change
    that happens, ever, with at most this probability, however many images are judged.

    The alarm stays until `reset`.

    Parameters
    ----------
    calibration_scores : array-like of float, shape (n,), default ()
        Scores of normal images by the same detector, which it did not learn from. With
        none, judged images are compared with one another alone: what is wrong from the first on is
        not found.
    false_alarm_probability : float, default 0.01
        In (0, 1).
    ceiling : float, optional
        Scores at or above it are left out, of calibration as of judged images. None by default.
    seed : int, default 0
        Of the random numbers that break ties; the same scores with the same seed give the same
        p-values.
    max_scores : int, default 50_000
        How many scores are kept to rank the next ones; beyond that, one at random is dropped with
        each that comes. At most 250_000.

    Attributes
    ----------
    n : int
        How many scores were ranked.
    n_left_out : int
        How many were not, because of `ceiling`.
    p_value : float or None
        That of the last one; small for a high score.
    log_martingale, max_log_martingale : float
        Natural logarithm of the capital, and the largest one so far.
    alarm : DriftAlarm or None
        The alarm, once it was raised.

    Raises
    ------
    ParameterError, DTypeError, ShapeError
        If a parameter lies outside its values, or a score is not a finite number.

    Notes
    -----
    What is promised depends on calibration scores being like those of images to come. Those of
    held-out images are. Leave-one-out scores come of one normal image less, and are higher: of 100
    solar cells they are so with a probability of .65, and the monitor rightly takes new images for
    a change. Without calibration scores the promise is exact.

    p-values against a calibration set that stays as it is would not do: images that are judged by
    the same set have dependent p-values, and in the long run any chance unevenness of the set
    raises an alarm. So each judged score joins those that the next ones are ranked among, see
    `Ranks`. The monitor gets used to a change in time: a level that is new becomes the usual one.
    It says when there was a change, not whether all is well now.

    Defects are high scores, but few of them are no change: one image multiplies the capital by at
    most 1.75, so that at .01 an alarm takes 14 defects in a row from the first image on, and about
    20 later. A constant share of defects becomes part of what is usual, though its first
    appearance, in 1 image of 10 say, is a change. To watch normal images alone, give the threshold
    of the verdict as `ceiling`: that it is one of the calibration scores does no harm. A drift that
    lifts all images above it is not seen then: watch `n_left_out`.

    Source
    ------
    Vovk, "Testing randomness online", Statistical Science 36, 2021; Vovk, Nouretdinov and
    Gammerman, "Testing exchangeability on-line", ICML 2003; Ville, "Étude critique de la notion de
    collectif", 1939.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> monitor = DriftMonitor(rng.normal(size=100))
    >>> monitor.update_all(rng.normal(size=300)) is None
    True
    >>> monitor.update_all(rng.normal(1.5, size=100))
    DriftAlarm(at=330, since=300, direction='higher', image=None, since_image=None)
    """

    def __init__(
        self,
        calibration_scores: ArrayLike = (),
        *,
        false_alarm_probability: float = 0.01,
        ceiling: float | None = None,
        seed: int = 0,
        max_scores: int = 50_000,
    ) -> None:
        name = "false_alarm_probability"
        self._probability = check_positive(name, false_alarm_probability, below=1)
        self._ceiling = None if ceiling is None else check_score(ceiling, "ceiling")
        self._seed = check_count("seed", seed, minimum=0)
        self._max_scores = check_count("max_scores", max_scores, 1, _MOST_SCORES)
        self.reset(calibration_scores)

    @property
    def false_alarm_probability(self) -> float:
        """The probability of an alarm without a change."""
        return self._probability

    @property
    def ceiling(self) -> float | None:
        """The score from which on scores are left out."""
        return self._ceiling

    @property
    def calibration_scores(self) -> NDArray[np.float64]:
        """The scores that it began with, in order of size; those from `ceiling` on are left out."""
        return np.array(self._calibration, np.float64)

    @property
    def n(self) -> int:
        """How many scores were ranked."""
        return self._martingale.n

    @property
    def log_martingale(self) -> float:
        """Natural logarithm of the capital."""
        return self._martingale.log_capital

    def reset(self, calibration_scores: ArrayLike | None = None) -> None:
        """Begin anew: without an alarm, and without what was judged.

        Parameters
        ----------
        calibration_scores : array-like of float, shape (n,), optional
            Those to begin with; by default the same as before.

        Raises
        ------
        ParameterError, DTypeError, ShapeError
            If a score is not a finite number, or there are more than `max_scores`.

        Examples
        --------
        >>> monitor = DriftMonitor([1.0, 2.0, 3.0])
        >>> monitor.update(2.5)
        >>> monitor.reset()
        >>> monitor.n, monitor.calibration_scores.tolist()
        (0, [1.0, 2.0, 3.0])
        """
        if calibration_scores is not None:
            scores = check_scores(calibration_scores, "calibration_scores")
            kept = sorted(score for score in scores if not self._is_left_out(score))
            if len(kept) > self._max_scores:
                raise ParameterError(
                    f"calibration_scores: expected at most {self._max_scores} (max_scores), got "
                    f"{len(kept)}",
                    parameter="calibration_scores",
                )
            self._calibration = kept
        self._ranks = Ranks(self._calibration, self._max_scores, self._seed)
        self._martingale = Martingale()
        self.n_left_out = 0
        self.p_value: float | None = None
        self.max_log_martingale = 0.0
        self.alarm: DriftAlarm | None = None

    def update(self, score: float, image: str | None = None) -> DriftAlarm | None:
        """Take in the score of the next image.

        Parameters
        ----------
        score : float
            The score.
        image : str, optional
            A name for it, which an alarm will say.

        Returns
        -------
        DriftAlarm or None
            The alarm, if this score raised it; None, also after it was raised before.

        Raises
        ------
        ParameterError, DTypeError
            If the score is not a finite number.

        Examples
        --------
        >>> monitor = DriftMonitor(range(100))
        >>> alarms = [monitor.update(200 + i, f"{i}.png") for i in range(40)]
        >>> monitor.alarm.since_image, monitor.alarm in alarms
        ('0.png', True)
        """
        value = check_score(score, "score")
        index = self.n + self.n_left_out
        if self._is_left_out(value):
            self.n_left_out += 1
            return None
        self.p_value = self._ranks.p_value(value, index)
        self._martingale.bet(self.p_value, index, image)
        self.max_log_martingale = max(self.max_log_martingale, self.log_martingale)
        if self.alarm is not None or self.log_martingale < -log(self._probability):
            return None
        change = self._martingale.change()
        direction = DIRECTIONS[0 if change.are_small else 1]
        self.alarm = DriftAlarm(index, change.since, direction, image, change.name)
        return self.alarm

    def update_all(
        self, scores: ArrayLike, images: Sequence[str] | None = None
    ) -> DriftAlarm | None:
        """Take in the scores of some images, in the order in which they were judged.

        Parameters
        ----------
        scores : array-like of float, shape (n,)
            The scores.
        images : sequence of str, optional
            Names for them.

        Returns
        -------
        DriftAlarm or None
            The alarm, if one of these scores raised it.

        Raises
        ------
        ParameterError, DTypeError, ShapeError
            If a score is not a finite number, or there are not as many names. Nothing is taken in.
        """
        values = check_scores(scores, "scores")
        if images is not None and len(images) != len(values):
            raise ShapeError(f"images: expected {len(values)} names, got {len(images)}")
        names: Iterable[str | None] = repeat(None) if images is None else images
        alarms = [self.update(value, name) for value, name in zip(values, names, strict=False)]
        return next((alarm for alarm in alarms if alarm is not None), None)

    def to_json(self) -> dict[str, Any]:
        """Return all that it knows, of types that JSON has.

        >>> sorted(DriftMonitor([1.0]).to_json())[:4]
        ['alarm', 'calibration_scores', 'ceiling', 'false_alarm_probability']
        """
        return {
            "kind": _KIND,
            "format": _FORMAT,
            "false_alarm_probability": self._probability,
            "ceiling": self._ceiling,
            "seed": self._seed,
            "max_scores": self._max_scores,
            "calibration_scores": self._calibration.copy(),
            "scores": self._ranks.scores.copy(),
            "n_left_out": self.n_left_out,
            "p_value": self.p_value,
            "max_log_martingale": self.max_log_martingale,
            "alarm": None if self.alarm is None else asdict(self.alarm),
            "martingale": self._martingale.to_json(),
        }

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> DriftMonitor:
        """Return the monitor that `to_json` described; it goes on to the bit as that one would.

        Raises
        ------
        StoreError
            If `state` describes none, or one of a later version.

        Examples
        --------
        >>> monitor = DriftMonitor([1.0, 2.0])
        >>> monitor.update(1.5)
        >>> DriftMonitor.from_json(monitor.to_json()).p_value == monitor.p_value
        True
        """
        with as_damage("state", "the state of a drift monitor"):
            return cls._from_json(state)

    @classmethod
    def _from_json(cls, state: dict[str, Any]) -> DriftMonitor:
        if state["kind"] != _KIND:
            raise ParameterError(f"expected the kind {_KIND!r}, got {state['kind']!r}")
        if state["format"] != _FORMAT:
            raise StoreError(
                f"its format version is {state['format']!r}, this knnspect reads {_FORMAT}"
            )
        monitor = cls(
            state["calibration_scores"],
            false_alarm_probability=state["false_alarm_probability"],
            ceiling=state["ceiling"],
            seed=state["seed"],
            max_scores=state["max_scores"],
        )
        monitor._ranks.scores = sorted(check_scores(state["scores"], "scores"))
        monitor._martingale = Martingale.from_json(state["martingale"])
        expected = min(len(monitor._calibration) + monitor.n, monitor._max_scores)
        if len(monitor._ranks.scores) != expected:
            raise ParameterError(f"scores: expected {expected}, got {len(monitor._ranks.scores)}")
        monitor.n_left_out = check_count("n_left_out", state["n_left_out"], minimum=0)
        if state["p_value"] is not None:
            monitor.p_value = check_positive("p_value", state["p_value"], or_zero=True)
        monitor.max_log_martingale = check_score(state["max_log_martingale"], "max_log_martingale")
        if state["alarm"] is not None:
            monitor.alarm = DriftAlarm.from_json(state["alarm"])
        return monitor

    def save(self, path: str | os.PathLike[str], *, follow_links: bool = True) -> None:
        """Write the state to a file, in one step: a reader finds the old one or the new one.

        Parameters
        ----------
        path : path-like
            The file, JSON. That of a model is ``drift.json`` in its folder, or beside its file
            ``MODEL.drift.json``.
        follow_links : bool, default True
            Replace the file that a symbolic link points to; if False, a link is refused.

        Raises
        ------
        StoreError
            If the file cannot be written.
        """
        write_json(path, self.to_json(), follow_links=follow_links)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, follow_links: bool = True) -> DriftMonitor:
        """Return the monitor that was saved in a file; it goes on to the bit as that one would.

        Parameters
        ----------
        path : path-like
            The file.
        follow_links : bool, default True
            Read the file that a symbolic link points to; if False, a link is refused.

        Raises
        ------
        StoreError
            If it cannot be read, is damaged, or was written by a later version.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     DriftMonitor([1.0], seed=3).save(f"{folder}/drift.json")
        ...     DriftMonitor.load(f"{folder}/drift.json").calibration_scores.tolist()
        [1.0]
        """
        file = check_path(path)
        state = read_json(file, follow_links=follow_links)
        with errors_about(path=file), as_damage(file, "the state of a drift monitor"):
            return cls._from_json(state)

    def _is_left_out(self, score: float) -> bool:
        return self._ceiling is not None and score >= self._ceiling
