"""What scorers have in common that look at the standardized features of single cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.heads.scorers.arrays import ArrayScorer
from knnspect.pyramid import FeaturePyramid

__all__ = ["StandardizedScorer"]


class StandardizedScorer(ArrayScorer):
    """A scorer of upsampled, concatenated features, which it standardizes.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Height, width and channels of each level.
    upsample : {"bilinear", "block"}
        How coarse levels are brought to the resolution of the finest one.
    arrays : mapping of str to ndarray
        What the network's `arrays` returned: "mean" and "deviation", and more.
    more : mapping of str to tuple of int
        The shapes of the others.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        upsample: Literal["bilinear", "block"],
        arrays: Mapping[str, NDArray[Any]],
        more: Mapping[str, tuple[int, ...]],
    ) -> None:
        n = sum(channels for _, _, channels in shapes)
        super().__init__(arrays, {"mean": (n,), "deviation": (n,), **more})
        self._upsample = upsample

    def _features(self, pyramid: FeaturePyramid) -> NDArray[np.float32]:
        """Return the features of an image's cells, as they came, shape (height, width, n)."""
        features: NDArray[np.float32] = pyramid.concatenated(self._upsample)[0]
        return features
