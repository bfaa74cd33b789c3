"""What methods have in common whose network gives each cell of the features a score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.trained import TrainedDetector
from knnspect.progress import Stopwatch
from knnspect.pyramid import FeaturePyramid
from knnspect.views import Placement

__all__ = ["HeadDetector"]


class HeadDetector(TrainedDetector):
    """A detector whose network gives each cell a score."""

    def _scored(
        self,
        id_: str,
        pyramid: FeaturePyramid,
        placement: Placement,
        watch: Stopwatch | None = None,
    ) -> tuple[float, NDArray[np.float32]]:
        """Return the score and the map of an image."""
        watch = watch or Stopwatch()
        with watch.stage("matching"):
            cells = self._cells_of(id_, pyramid, self.network_)
        return self._with_map(float(cells.max()), cells, placement, watch)
