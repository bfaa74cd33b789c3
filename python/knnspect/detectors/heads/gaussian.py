"""What methods have in common that describe normal features by Gaussians."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.constraints import Choice, Flag
from knnspect.detectors.heads.estimates.learning import (
    GaussianSettings,
    cells_left_out,
    estimate,
    rebuilt,
    with_images,
)
from knnspect.detectors.heads.growing import GrowingDetector
from knnspect.detectors.heads.scorers.gaussians import GaussianScorer
from knnspect.gallery.reading import ReadOnlyGallery
from knnspect.normal_features import NormalFeatures
from knnspect.parameters import parameter

__all__ = ["GaussianDetector"]


class GaussianDetector(GrowingDetector):
    """A detector that says how far cells are from the mean of normal ones, by their covariance.

    Subclasses say by which metric: `_settings`.

    Parameters
    ----------
    by_level : bool, default True
        Whether each level is described by itself, at its own resolution, and squared distances are
        added, or all levels are concatenated at the finest one.
    upsample : {"bilinear", "block"}, default "bilinear"
        How coarse levels are brought to the finest one where all are concatenated.
    """

    by_level: bool = parameter(Flag(), default=True)
    upsample: Literal["bilinear", "block"] = parameter(
        Choice("bilinear", "block"), default="bilinear"
    )

    @property
    @abstractmethod
    def _settings(self) -> GaussianSettings:
        """What is described, and by which metric."""

    def _estimate(
        self, gallery: ReadOnlyGallery, ids: Sequence[str], cluster: str | None = None, /
    ) -> GaussianScorer:
        return estimate(gallery, ids, self._settings, cluster)

    def _rebuilt(self, arrays: dict[str, NDArray[Any]]) -> GaussianScorer:
        return rebuilt(self._shapes, self._settings, arrays)

    def _cells_without(
        self, id_: str, normal: NormalFeatures, left_out: Sequence[str]
    ) -> NDArray[np.float64] | None:
        return cells_left_out(self.scorer_, normal.gallery, id_, left_out)

    def _with_images(self, normal: NormalFeatures) -> GaussianScorer:
        return with_images(self.scorer_, normal.gallery, normal.gallery.ids)
