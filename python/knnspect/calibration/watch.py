"""Drift of several quantities of judged images, with one probability of a false alarm."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from numpy.typing import ArrayLike

from knnspect.calibration.alarm import DriftAlarm
from knnspect.calibration.drift import DriftMonitor
from knnspect.calibration.ranks import check_score
from knnspect.errors import DTypeError, ParameterError, StoreError, errors_about
from knnspect.files import as_damage, check_path, read_json, write_json
from knnspect.validation import check_positive

__all__ = ["DriftWatch"]

_KIND, _FORMAT = "drift watch", 1
_MAX_SCORES = 20_000


class DriftWatch:
    """Watch several quantities of judged images; each has a `DriftMonitor`.

    Each monitor gets the same part of the probability, so that the probability that any of them
    ever raises an alarm without a change is at most the whole, however quantities depend on each
    other.

    Parameters
    ----------
    calibration : mapping of str to array-like of float, shape (n,)
        For each quantity its values for normal images, by the name of the quantity; as
        `calibration_scores` of `DriftMonitor`, so that there may be none.
    false_alarm_probability : float, default 0.01
        In (0, 1).
    seed : int, default 0
        Of the random numbers that break ties.

    Attributes
    ----------
    monitors : dict of str to DriftMonitor
        One for each quantity.
    last_image : str or None
        The name that came with the last image.

    Raises
    ------
    ParameterError, DTypeError, ShapeError
        If there is no quantity, or a parameter lies outside its values.

    Examples
    --------
    >>> watch = DriftWatch({"score": [1.0, 1.2, 1.1], "brightness": ()})
    >>> for i in range(200):
    ...     found = watch.update({"score": 1 + i % 7 / 10, "brightness": 0.5 - i // 100 / 10})
    ...     if found:
    ...         print(found)
    {'brightness': DriftAlarm(at=123, since=99, direction='lower', image=None, since_image=None)}
    """

    def __init__(
        self,
        calibration: Mapping[str, ArrayLike],
        *,
        false_alarm_probability: float = 0.01,
        seed: int = 0,
    ) -> None:
        if not calibration:
            raise ParameterError("calibration: expected quantities, got none")
        name = "false_alarm_probability"
        self._probability = check_positive(name, false_alarm_probability, below=1)
        self.monitors: dict[str, DriftMonitor] = {}
        for number, (name, scores) in enumerate(calibration.items()):
            with errors_about(parameter=name):
                self.monitors[name] = DriftMonitor(
                    scores,
                    false_alarm_probability=self._probability / len(calibration),
                    # So that ties of several quantities are not broken in the same way.
                    seed=seed * len(calibration) + number,
                    max_scores=_MAX_SCORES,
                )
        self.last_image: str | None = None

    @property
    def false_alarm_probability(self) -> float:
        """The probability of any alarm without a change."""
        return self._probability

    @property
    def n(self) -> int:
        """How many images there were."""
        return next(iter(self.monitors.values())).n

    @property
    def alarms(self) -> dict[str, DriftAlarm]:
        """The alarms that were raised, by the quantity."""
        return {
            name: monitor.alarm
            for name, monitor in self.monitors.items()
            if monitor.alarm is not None
        }

    def update(
        self, quantities: Mapping[str, float], image: str | None = None
    ) -> dict[str, DriftAlarm]:
        """Take in the quantities of the next image.

        Parameters
        ----------
        quantities : mapping of str to float
            The value of each.
        image : str, optional
            A name for the image, which an alarm will say.

        Returns
        -------
        dict of str to DriftAlarm
            The alarms that this image raised.

        Raises
        ------
        ParameterError, DTypeError
            If a quantity is missing or unknown, or its value is not a finite number. Nothing is
            taken in.
        """
        if set(quantities) != set(self.monitors):
            raise ParameterError(
                f"quantities: expected {', '.join(self.monitors)}, got {', '.join(quantities)}",
                parameter="quantities",
            )
        values = {name: check_score(value, name) for name, value in quantities.items()}
        self.last_image = image
        found = {name: each.update(values[name], image) for name, each in self.monitors.items()}
        return {name: alarm for name, alarm in found.items() if alarm is not None}

    def to_json(self) -> dict[str, Any]:
        """Return all that it knows, of types that JSON has."""
        return {
            "kind": _KIND,
            "format": _FORMAT,
            "false_alarm_probability": self._probability,
            "last_image": self.last_image,
            "monitors": {name: monitor.to_json() for name, monitor in self.monitors.items()},
        }

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> DriftWatch:
        """Return the watch that `to_json` described; it goes on to the bit as that one would.

        Raises
        ------
        StoreError
            If `state` describes none, or one of a later version.

        Examples
        --------
        >>> watch = DriftWatch({"score": [1.0]})
        >>> watch.update({"score": 2.0}, "a.png")
        {}
        >>> DriftWatch.from_json(watch.to_json()).last_image
        'a.png'
        """
        with as_damage("state", "the state of a drift watch"):
            return cls._from_json(state)

    @classmethod
    def _from_json(cls, state: dict[str, Any]) -> DriftWatch:
        if state["kind"] != _KIND:
            raise ParameterError(f"expected the kind {_KIND!r}, got {state['kind']!r}")
        if state["format"] != _FORMAT:
            raise StoreError(
                f"its format version is {state['format']!r}, this knnspect reads {_FORMAT}"
            )
        monitors = {str(name): DriftMonitor.from_json(m) for name, m in state["monitors"].items()}
        watch = cls(
            dict.fromkeys(monitors, ()), false_alarm_probability=state["false_alarm_probability"]
        )
        if len({monitor.n for monitor in monitors.values()}) > 1:
            raise ParameterError("expected monitors of the same images")
        watch.monitors = monitors
        if not isinstance(state["last_image"], (str, type(None))):
            raise DTypeError("last_image: expected a name")
        watch.last_image = state["last_image"]
        return watch

    def save(self, path: str | os.PathLike[str], *, follow_links: bool = True) -> None:
        """Write the state to a file, as `DriftMonitor.save` does.

        Parameters
        ----------
        path : path-like
            The file, JSON.
        follow_links : bool, default True
            Replace the file that a symbolic link points to; if False, a link is refused.

        Raises
        ------
        StoreError
            If the file cannot be written.
        """
        write_json(path, self.to_json(), follow_links=follow_links)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, follow_links: bool = True) -> DriftWatch:
        """Return the watch that was saved in a file; it goes on to the bit as that one would.

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
        """
        file = check_path(path)
        state = read_json(file, follow_links=follow_links)
        with errors_about(path=file), as_damage(file, "the state of a drift watch"):
            return cls._from_json(state)
