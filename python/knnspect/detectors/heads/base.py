"""What methods have in common whose network gives each cell of the features a score."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from knnspect.detectors.trained import TrainedDetector
from knnspect.pyramid import FeaturePyramid

__all__ = ["HeadDetector"]


class HeadDetector(TrainedDetector):
    """A detector whose network gives each cell a score."""

    def _own_scores(self, id_: str, pyramid: FeaturePyramid) -> tuple[float, NDArray[Any]]:
        cells = self._cells_of(id_, pyramid, self.network_)
        return float(cells.max()), cells
