"""What methods have in common that learn from more images without being fitted again."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from knnspect.data import open_to_learn
from knnspect.data.loading import OnBad
from knnspect.detectors.deciding import shortened_digests
from knnspect.detectors.estimated import EstimatedDetector
from knnspect.detectors.leave_one_out import LeaveOneOut
from knnspect.errors import CalibrationWarning, ImageError
from knnspect.normal_features import NormalFeatures, Run, extract_in_memory
from knnspect.progress import Stopwatch
from knnspect.validation import some_ids

if TYPE_CHECKING:
    from knnspect.detectors.heads.scorers.arrays import ArrayScorer

__all__ = ["GrowingDetector"]


class GrowingDetector(EstimatedDetector):
    """A detector whose estimate is made of sums, which images can be added to and taken from."""

    @abstractmethod
    def _with_images(self, normal: NormalFeatures) -> ArrayScorer:
        """Return what judges by some more images."""

    @abstractmethod
    def _cells_without(
        self, id_: str, normal: NormalFeatures, left_out: Sequence[str]
    ) -> NDArray[np.float64] | None:
        """Return the scores of an image's cells by those not left out; None if there are none."""

    def _judged_without(
        self, chosen: Sequence[int], normal: NormalFeatures, others: LeaveOneOut
    ) -> Iterator[tuple[int, float, NDArray[Any]]]:
        for index in chosen:
            cells = self._cells_without(others.ids[index], normal, others.left_out(index))
            if cells is not None:
                yield index, float(cells.max()), cells

    def add(
        self,
        images: object,
        *,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool | OnBad = False,
        progress: bool = False,
    ) -> list[str]:
        """Learn from more normal images: from all of them or from none.

        The estimate is then that of all images. Scores that decide are not found anew for others.

        Parameters
        ----------
        images, batch_size, n_workers, skip_bad, progress
            As in `fit`. All features are in memory meanwhile.

        Returns
        -------
        list of str
            Their ids.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ImageError
            If an image cannot be used, there is none, or some were learnt from.
        """
        self._check_fitted()
        self.check_params()
        run = Run(batch_size, n_workers, skip_bad, progress)
        normal = extract_in_memory(self.backbone, open_to_learn(images), self._gallery(), run)
        digests = self._new_digests(normal)
        ids, now = normal.gallery.ids, copy(self)
        with run.watch.stage("estimation"):
            now.scorer_ = self._with_images(normal)
        now._n_images, now._digests = self._n_images + len(ids), digests
        calibration = self.calibration_
        if calibration is not None and calibration.kind == "leave one out":
            text = "scores of the images before are of fewer images, and higher: calibrate(…) anew"
            warnings.warn(text, CalibrationWarning, stacklevel=2)
            judged = {id_: now._judged_without_itself(id_, normal) for id_ in ids}
            now.calibration_ = calibration.following(judged, (), now._n_images)
        now.seconds_ = run.watch.seconds
        vars(self).update(vars(now))
        return ids

    def _judged_without_itself(self, id_: str, normal: NormalFeatures) -> tuple[float, float]:
        """Return the score and the largest map value of an image that was just added."""
        cells = cast("NDArray[np.float64]", self._cells_without(id_, normal, [id_]))
        score, map_ = self._with_map(float(cells.max()), cells, normal.placement(id_), Stopwatch())
        return score, float(map_.max())

    def _new_digests(self, normal: NormalFeatures) -> NDArray[np.int64] | None:
        """Return the digests of all images; raise an ImageError if new ones were learnt from."""
        if self._digests is None:
            return None
        ids = normal.gallery.ids
        digests = {id_: normal.digests[id_] for id_ in ids}
        names = self._learnt_among(digests)
        if names:
            text = f"{len(names)} of the {len(ids)} images were learnt from already: "
            raise ImageError(text + some_ids(names), image=names[0])
        return np.concatenate([self._digests, shortened_digests(digests.values())])
