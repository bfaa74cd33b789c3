"""What methods have in common whose network gives each cell of the features a score."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.trained import TrainedDetector
from knnspect.errors import ImageError
from knnspect.forked import fork_safe
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
            cells = self._cell_scores(id_, pyramid)
        return self._with_map(float(cells.max()), cells, placement, watch)

    @fork_safe
    def _cell_scores(self, id_: str, pyramid: FeaturePyramid) -> Any:
        if not all(np.isfinite(level).all() for level in pyramid.levels):
            raise ImageError(f"image {id_}: its features are not finite")
        return self.network_.cell_scores(pyramid)
