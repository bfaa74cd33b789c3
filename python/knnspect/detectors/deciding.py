"""Decisions: what the scores of normal images allow to be said of others."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from knnspect.calibration import Calibration
from knnspect.calibration.blocks import Blocks, blocks_of, merged_blocks
from knnspect.calibration.conformal import n_needed
from knnspect.constraints import Optional, Positive
from knnspect.data import open_to_learn
from knnspect.data.loading import OnBad
from knnspect.data.sources import ImageSource
from knnspect.detectors.judging import FeatureJudge
from knnspect.detectors.prediction import Prediction
from knnspect.detectors.state import State
from knnspect.errors import CalibrationError, CalibrationWarning
from knnspect.features import Features
from knnspect.model_files import StoredModel
from knnspect.model_files.layout import CALIBRATION
from knnspect.parameters import learnt, parameter
from knnspect.progress import Stopwatch
from knnspect.validation import some_ids

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Decider", "shortened_digests"]

#: What scores do not depend on.
_NO_MATTER = frozenset({"false_alarm_rate", "thumbnails"})
#: Bytes of a digest that are kept: two of a million images agree by accident once in 10^7 models.
_DIGEST_TYPE = np.dtype("<i8")


class Decider(FeatureJudge):
    """Judges images, and decides by the scores of normal ones whether they are normal.

    Parameters
    ----------
    false_alarm_rate : float, optional
        The share of normal images that may be called anomalous, above 0 and below 1: where the
        threshold lies. It may be changed after `fit`. None: 0.01, or the smallest rate that so many
        normal images can promise.

    Attributes
    ----------
    calibration_ : Calibration or None
        Scores of normal images that were not learnt from, or left out; None for models of earlier
        versions, and where one normal image is all there is.
    """

    false_alarm_rate: float | None = parameter(
        Optional(Positive(below=1.0)), default=None, changes_training=False
    )

    calibration_: Calibration | None = learnt()
    #: The settings that gave its scores.
    _calibrated_with: Mapping[str, Any] = learnt()
    #: Of the images that were learnt from, shortened, in the order of their ids; None where they
    #: are not known. Those of earlier versions have an order of their own.
    _digests: NDArray[np.int64] | None = learnt()
    _digests_are_in_order: bool = learnt()

    def calibrate(
        self,
        images: object,
        *,
        blocks: Blocks = None,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool | OnBad = False,
        progress: bool = False,
    ) -> Self:
        """Judge normal images that were not learnt from, and decide by their scores from now on.

        Of all ways to calibrate this promises most: the false-alarm rate holds exactly, for images
        that come as these did (split conformal prediction).

        Parameters
        ----------
        images : folder, file, list of paths, arrays or PIL images, array, or loader
            Normal images; none that was learnt from.
        blocks : {"folder"}, mapping or callable, optional
            Which images belong together, such as frames of one video: the folder that they lie in,
            or by their ids. By default each stands for itself. Copies of one image are one block.
        batch_size, n_workers, skip_bad, progress
            As in `predict`.

        Returns
        -------
        Detector
            Itself.

        Raises
        ------
        NotFittedError
            Before `fit`.
        CalibrationError
            If some of the images were learnt from, or there are too few for `false_alarm_rate`;
            then the calibration stays as it was.
        ImageError
            If an image cannot be used, or there is none.

        Warns
        -----
        CalibrationWarning
            If images are copies of one another, or all score the same.
        """
        self._check_fitted()
        digests: dict[str, bytes] = {}
        opened = open_to_learn(self.backbone.opened(images))  # defective images are refused alike
        source = ImageSource((item.recorded(digests) for item in opened), opened.n_images)
        ids: list[str] = []
        scores: list[float] = []
        maxima: list[float] = []
        for prediction in self.iter_predict(
            source,
            batch_size=batch_size,
            n_workers=n_workers,
            skip_bad=skip_bad,
            progress=progress,
        ):
            ids.append(prediction.id)
            scores.append(prediction.score)
            maxima.append(float(prediction.map.max()))
        self._refuse_learnt({id_: digests[id_] for id_ in ids})
        copies = _copies({id_: digests[id_] for id_ in ids})
        if copies:
            warnings.warn(
                f"{len(copies)} calibration images are copies of others, such as {copies[0][1]} "
                f"of {copies[0][0]}: copies count as one image",
                CalibrationWarning,
                stacklevel=2,
            )
        of_each = merged_blocks(ids, copies, blocks_of(ids, blocks))
        self._take(Calibration(scores, maxima, "held out", ids=ids, blocks=of_each))
        return self

    @property
    def uncalibrated(self) -> str:
        """Why there is no calibration that the present settings give; empty if there is one."""
        return self._valid_calibration()[1]

    def _check_rate(self) -> None:
        """Raise a CalibrationError if a rate is asked for, and nothing calibrates."""
        if self.calibration_ is None and self.false_alarm_rate is not None:
            raise CalibrationError(
                f"false_alarm_rate: {self.false_alarm_rate:g} needs "
                f"{n_needed(self.false_alarm_rate)} normal images to be calibrated with, there are "
                f"none: {self.uncalibrated}",
                parameter="false_alarm_rate",
            )

    def _take(self, calibration: Calibration) -> None:
        """Decide by these scores from now on, if there are enough for the rate asked for."""
        calibration.rate(self.false_alarm_rate)
        if len(calibration) > 1 and np.ptp(calibration.scores) == 0:
            warnings.warn(
                f"the {len(calibration)} normal images that calibrate all score "
                f"{calibration.scores[0]:g}: whatever scores more is called anomalous",
                CalibrationWarning,
                stacklevel=3,
            )
        self.calibration_, self._calibrated_with = calibration, self._scoring_params()

    def _forget_calibration(self) -> None:
        """Decide nothing until it is calibrated again, as scores are no longer those of then."""
        self.calibration_, self._calibrated_with = None, {}

    def _scoring_params(self) -> dict[str, Any]:
        """Return the parameters that scores depend on, as JSON has them."""
        return {k: v for k, v in self.saved_params().items() if k not in _NO_MATTER}

    def _valid_calibration(self) -> tuple[Calibration | None, str]:
        """Return the calibration, if the present settings gave it; or None, and why not."""
        if self.calibration_ is None:
            return None, (
                "the model has none, as one of an earlier version, one that was quantized, or one "
                "that learnt from a single image: calibrate it with normal images that were not "
                "learnt from"
            )
        now = self._scoring_params()
        changed = [k for k, v in self._calibrated_with.items() if k in now and now[k] != v]
        if changed:
            return None, f"{', '.join(changed)} changed since: calibrate it again, or fit it"
        return self.calibration_, ""

    def _refuse_learnt(self, digests: Mapping[str, bytes]) -> None:
        """Raise a CalibrationError if some images were learnt from."""
        learnt = self._learnt_among(digests)
        if learnt:
            raise CalibrationError(
                f"{len(learnt)} of the {len(digests)} calibration images were learnt from: "
                f"{some_ids(learnt)}; what they score says nothing of images to come: give others",
                image=learnt[0],
            )

    def _learnt_among(self, digests: Mapping[str, bytes]) -> list[str]:
        """Return the images that were learnt from, as far as that is known, by their digests."""
        if self._digests is None:
            return []
        given = shortened_digests(digests.values())
        is_learnt = np.isin(given, self._learnt_digests(self._digests))
        return [id_ for id_, known in zip(digests, is_learnt, strict=True) if known]

    def _learnt_digests(self, of_fit: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the digests of the images that are learnt from by now."""
        return of_fit

    def _calibration_of_fit(self) -> Calibration | None:
        """Return the calibration that is kept in a file."""
        return self.calibration_

    def _iter_predict(self, batches: Iterator[Features], watch: Stopwatch) -> Iterator[Prediction]:
        calibration, reason = self._valid_calibration()
        taken = self.calibration_
        if calibration is not None:
            calibration.rate(self.false_alarm_rate)
        for prediction in super()._iter_predict(batches, watch):
            if self.calibration_ is not taken:  # as after a correction
                calibration, reason = self._valid_calibration()
                taken = self.calibration_
            yield replace(
                prediction,
                calibration=calibration,
                false_alarm_rate=self.false_alarm_rate,
                uncalibrated=reason,
            )

    def _state_of_decisions(self) -> State:
        """Return what of it is kept in a file."""
        arrays: dict[str, NDArray[Any]] = {}
        values: dict[str, Any] = {}
        if self._digests is not None:
            arrays["digests"] = self._digests
            values["digests_are_in_order"] = self._digests_are_in_order
        calibration = self._calibration_of_fit()
        if calibration is not None:
            about, of_images = calibration.to_state()
            now = self._scoring_params()
            changed = {k: v for k, v in self._calibrated_with.items() if now[k] != v}
            values["calibration"] = {**about, "changed": changed}
            arrays |= of_images
        return State(values, {CALIBRATION + name: array for name, array in arrays.items()})

    def _set_decisions(self, stored: StoredModel) -> None:
        """Take over what `_state_of_decisions` returned."""
        arrays = stored.tensors(CALIBRATION)
        self._digests = arrays.get("digests")
        self._digests_are_in_order = stored.config.get("digests_are_in_order", False) is True
        self.calibration_, self._calibrated_with = None, {}
        about = stored.config.get("calibration")
        if about is not None:
            self.calibration_ = Calibration.from_state(about, arrays)
            self._calibrated_with = self._scoring_params() | about["changed"]


def shortened_digests(digests: Iterable[bytes]) -> NDArray[np.int64]:
    """Return the beginnings of digests, in the same order."""
    size = _DIGEST_TYPE.itemsize
    return np.frombuffer(b"".join(digest[:size] for digest in digests), _DIGEST_TYPE)


def _copies(digests: Mapping[str, bytes]) -> list[tuple[str, str]]:
    """Return pairs of images of one digest, the first of them with each other one."""
    first: dict[bytes, str] = {}
    pairs = [(first.setdefault(digest, id_), id_) for id_, digest in digests.items()]
    return [pair for pair in pairs if pair[0] != pair[1]]
