"""SimpleNet's network in NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.heads.scorers.cells import StandardizedScorer
from knnspect.pyramid import FeaturePyramid

__all__ = ["SimpleNetScorer"]

#: Of PyTorch's batch normalization, and of the leaky rectifier.
_EPSILON, _SLOPE = 1e-5, 0.2


class SimpleNetScorer(StandardizedScorer):
    """What `SimpleNetNetwork` says of cells.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Height, width and channels of each level.
    upsample : {"bilinear", "block"}
        How coarse levels are brought to the resolution of the finest one.
    hidden : int
        Width of the discriminator.
    arrays : mapping of str to ndarray
        What the network's `arrays` returned.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        upsample: Literal["bilinear", "block"],
        hidden: int,
        arrays: Mapping[str, NDArray[Any]],
    ) -> None:
        n = sum(channels for _, _, channels in shapes)
        norm = ("weight", "bias", "running_mean", "running_var")
        super().__init__(
            shapes,
            upsample,
            arrays,
            {
                "lowest": (1,),
                "adaptor.weight": (n, n),
                "adaptor.bias": (n,),
                "discriminator.linear.weight": (hidden, n),
                "discriminator.linear.bias": (hidden,),
                "discriminator.output.weight": (1, hidden),
                **{f"discriminator.norm.{name}": (hidden,) for name in norm},
            },
        )
        self._weight, self._bias = self._one_layer()

    def cell_scores(self, pyramid: FeaturePyramid) -> NDArray[np.float64]:
        """Return how unlike normal each cell is, at least 0."""
        strips = pyramid.concatenated_in_strips(self._upsample)
        return np.concatenate([self._scores(strip[0]) for strip in strips])

    def _scores(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the scores of some rows of cells, shape (height, width, n)."""
        hidden = features.reshape(-1, features.shape[-1]) @ self._weight + self._bias
        hidden = np.maximum(hidden, _SLOPE * hidden)
        judged = hidden @ self._arrays["discriminator.output.weight"][0]
        scores = np.maximum(-judged - self._arrays["lowest"], 0)
        found: NDArray[np.float64] = scores.reshape(features.shape[:2]).astype(np.float64)
        return found

    def _one_layer(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """All that is linear before the activation, as one layer: weight and bias.

        In float64, as features that are far from zero and even cancel in the bias.
        """
        of = {name: array.astype(np.float64) for name, array in self._arrays.items()}
        first = of["discriminator.linear.weight"]
        weight = first @ of["adaptor.weight"] / of["deviation"]
        bias = first @ of["adaptor.bias"] + of["discriminator.linear.bias"] - weight @ of["mean"]
        variance = of["discriminator.norm.running_var"]
        scale = of["discriminator.norm.weight"] / np.sqrt(variance + _EPSILON)
        bias = (bias - of["discriminator.norm.running_mean"]) * scale + of[
            "discriminator.norm.bias"
        ]
        weight *= scale[:, None]
        return np.ascontiguousarray(weight.T, np.float32), bias.astype(np.float32)
