"""What the networks of heads have in common."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from knnspect.pyramid import FeaturePyramid
from knnspect.training.network import TrainableNetwork

__all__ = ["CellScorer"]


class CellScorer(TrainableNetwork[FeaturePyramid]):
    """A network over feature pyramids that gives each cell a score."""

    @abstractmethod
    def cell_scores(self, pyramid: FeaturePyramid) -> NDArray[np.float64]:
        """Return how unlike normal each cell of one image is, shape (height, width), from 0 up."""
