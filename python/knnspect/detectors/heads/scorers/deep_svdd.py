"""Deep SVDD's network in NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.heads.scorers.cells import StandardizedScorer
from knnspect.pyramid import FeaturePyramid

__all__ = ["DeepSvddScorer"]

_SLOPE = 0.1


class DeepSvddScorer(StandardizedScorer):
    """What `DeepSvddNetwork` says of cells.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Height, width and channels of each level.
    upsample : {"bilinear", "block"}
        How coarse levels are brought to the resolution of the finest one.
    hidden, outputs : int
        Widths of the layers.
    arrays : mapping of str to ndarray
        What the network's `arrays` returned.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        upsample: Literal["bilinear", "block"],
        hidden: int,
        outputs: int,
        arrays: Mapping[str, NDArray[Any]],
    ) -> None:
        n = sum(channels for _, _, channels in shapes)
        super().__init__(
            shapes,
            upsample,
            arrays,
            {
                "center": (outputs,),
                "radius": (1,),
                "first.weight": (hidden, n),
                "second.weight": (outputs, hidden),
            },
        )
        # In float64, as features that are far from zero and even cancel in the bias.
        of = {name: array.astype(np.float64) for name, array in self._arrays.items()}
        first = of["first.weight"] / of["deviation"]
        self._bias = -(first @ of["mean"]).astype(np.float32)
        self._first = np.ascontiguousarray(first.T, np.float32)
        self._second = np.ascontiguousarray(self._arrays["second.weight"].T)

    def cell_scores(self, pyramid: FeaturePyramid) -> NDArray[np.float64]:
        """Return the squared distance of each cell to the centre."""
        features = self._features(pyramid)
        hidden = features.reshape(-1, features.shape[-1]) @ self._first + self._bias
        out = np.maximum(hidden, _SLOPE * hidden) @ self._second - self._arrays["center"]
        sums = np.square(out).sum(axis=1).reshape(features.shape[:2])
        scores: NDArray[np.float64] = sums.astype(np.float64)
        return scores
