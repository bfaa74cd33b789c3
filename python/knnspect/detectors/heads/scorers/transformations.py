"""The map by which shifts of features are told apart, in NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.heads.scorers.cells import StandardizedScorer
from knnspect.pyramid import FeaturePyramid

__all__ = ["TransformationsScorer"]


class TransformationsScorer(StandardizedScorer):
    """What `TransformationsNetwork` says of cells.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Height, width and channels of each level.
    upsample : {"bilinear", "block"}
        How coarse levels are brought to the resolution of the finest one.
    transformations, outputs : int
        How many shifts there are, and how many numbers the map makes of a feature.
    arrays : mapping of str to ndarray
        What the network's `arrays` returned.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        upsample: Literal["bilinear", "block"],
        transformations: int,
        outputs: int,
        arrays: Mapping[str, NDArray[Any]],
    ) -> None:
        n = sum(channels for _, _, channels in shapes)
        more = {"map": (n, outputs), "shifts": (transformations, n)}
        super().__init__(shapes, upsample, arrays, more)
        # In float64, as features that are far from zero and even cancel in the offset.
        of = {name: array.astype(np.float64) for name, array in self._arrays.items()}
        matrix, centers = of["map"] / of["deviation"][:, None], of["shifts"] @ of["map"]
        self._matrix, self._centers = matrix.astype(np.float32), centers.astype(np.float32)
        self._offset = -(of["mean"] @ matrix).astype(np.float32)
        between = 2 * centers @ centers.T - np.square(centers).sum(axis=1)
        self._between = between.astype(np.float32)

    def cell_scores(self, pyramid: FeaturePyramid) -> NDArray[np.float64]:
        """Return how hard it is to tell the shifts of each cell."""
        features = self._features(pyramid)
        embedded = features.reshape(-1, features.shape[-1]) @ self._matrix + self._offset
        logits = 2 * embedded @ self._centers.T
        of_shifted = logits[:, None] + self._between
        largest = of_shifted.max(axis=2)
        own = logits + np.diagonal(self._between)
        sums = np.exp(of_shifted - largest[:, :, None]).sum(axis=2)
        surprise = np.maximum(np.log(sums) + largest - own, 0).sum(axis=1)
        found: NDArray[np.float64] = surprise.reshape(features.shape[:2]).astype(np.float64)
        return found
