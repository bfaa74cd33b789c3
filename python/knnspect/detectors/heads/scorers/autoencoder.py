"""DUAD's autoencoder of cells in NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.heads.scorers.arrays import ArrayScorer
from knnspect.pyramid import FeaturePyramid

__all__ = ["AutoencoderScorer"]


class AutoencoderScorer(ArrayScorer):
    """What `CellNetwork` says of cells.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Height, width and channels of each level.
    hidden, latent_size : int
        Widths of the autoencoder.
    arrays : mapping of str to ndarray
        What the network's `arrays` returned.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        hidden: int,
        latent_size: int,
        arrays: Mapping[str, NDArray[Any]],
    ) -> None:
        n = sum(channels for _, _, channels in shapes)
        sizes = {
            "inwards": (hidden, n),
            "code": (latent_size, hidden),
            "outwards": (hidden, latent_size),
            "output": (n, hidden),
        }
        weights = {f"autoencoder.{name}.weight": shape for name, shape in sizes.items()}
        biases = {f"autoencoder.{name}.bias": shape[:1] for name, shape in sizes.items()}
        super().__init__(arrays, {"mean": (n,), "deviation": (n,), **weights, **biases})

    def cell_scores(self, pyramid: FeaturePyramid) -> NDArray[np.float64]:
        """Return how badly each cell is reconstructed: its mean squared error."""
        features = pyramid.concatenated("bilinear")[0]
        rows = features.reshape(-1, features.shape[-1])
        rows = (rows - self._arrays["mean"]) / self._arrays["deviation"]
        inner = self._layer("code", np.maximum(self._layer("inwards", rows), 0))
        back = self._layer("output", np.maximum(self._layer("outwards", inner), 0))
        errors = np.square(back - rows).mean(axis=1)
        found: NDArray[np.float64] = errors.reshape(features.shape[:2]).astype(np.float64)
        return found

    def _layer(self, name: str, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        weight = self._arrays[f"autoencoder.{name}.weight"]
        result: NDArray[np.float32] = rows @ weight.T + self._arrays[f"autoencoder.{name}.bias"]
        return result
