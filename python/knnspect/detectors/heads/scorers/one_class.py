"""What a one-class SVM over an approximate kernel says of cells and of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.heads.scorers.arrays import ArrayScorer, product
from knnspect.pyramid import FeaturePyramid

__all__ = ["Kernel", "OneClassScorer", "joined_cells", "level_means"]

_Array = NDArray[np.float32]


@dataclass(frozen=True)
class Kernel:
    """How alike two features are.

    Parameters
    ----------
    name : {"rbf", "linear"}
        ``exp(-gamma * |x - y|**2)`` of whitened features, or ``x . y`` of features of length 1.
    """

    name: Literal["rbf", "linear"]

    def prepared(self, features: _Array, whitening: Mapping[str, _Array]) -> _Array:
        """Return features as the kernel takes them; the mean and the matrix are those of cells."""
        if self.name == "linear":
            length = np.linalg.norm(features, axis=1, keepdims=True)
            found: _Array = features / np.maximum(length, np.finfo(np.float32).tiny)
        else:
            found = product(features - whitening["mean"], whitening["matrix"].T)
        return found

    def of(self, features: _Array, others: _Array, gamma: float) -> _Array:
        """Return how alike each of some features is to each of others, shape (n, n_others)."""
        products = product(features, others.T)
        if self.name == "linear":
            return products
        # In place: there are as many values as cells times landmarks.
        products *= -2
        products += np.square(others).sum(axis=1)
        products += np.square(features).sum(axis=1)[:, None]
        np.maximum(products, 0, out=products)
        products *= np.float32(-gamma)
        return np.exp(products, out=products)


class OneClassScorer(ArrayScorer):
    """Says how far cells, and images, are on the wrong side of a plane in a kernel's space.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Height, width and channels of each level.
    upsample : {"bilinear", "block"}
        How coarse levels are brought to the resolution of the finest one.
    kernel : Kernel
        How alike features are.
    pooled : bool
        Whether images are judged by their pooled features.
    arrays : mapping of str to ndarray
        "mean" and "matrix", by which features are whitened; "landmarks", "weights", "gamma" and
        "highest" of cells; and of pooled features, after "pooled_".
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        upsample: Literal["bilinear", "block"],
        kernel: Kernel,
        pooled: bool,
        arrays: Mapping[str, NDArray[Any]],
    ) -> None:
        n = sum(channels for _, _, channels in shapes)
        expected: dict[str, tuple[int, ...]] = {"mean": (n,), "matrix": (n, n)}
        for before in ("", "pooled_") if pooled else ("",):
            n_landmarks = arrays[f"{before}weights"].size
            expected |= {
                f"{before}landmarks": (n_landmarks, n),
                f"{before}weights": (n_landmarks,),
                f"{before}gamma": (1,),
                f"{before}highest": (1,),
            }
        super().__init__(arrays, expected)
        self._upsample, self._kernel, self._pooled = upsample, kernel, pooled

    def cell_scores(self, pyramid: FeaturePyramid) -> NDArray[np.float64]:
        """Return how unlike normal each cell is, from 0 up."""
        scores = self._scores("", joined_cells(pyramid, self._upsample))
        return scores.reshape(pyramid.shapes[0][:2])

    def image_score(self, cells: NDArray[np.float64], pyramid: FeaturePyramid) -> float:
        """Return the largest score of a cell, or that of the pooled features."""
        if not self._pooled:
            return float(cells.max())
        return float(self._scores("pooled_", level_means(pyramid))[0])

    def _scores(self, before: str, features: _Array) -> NDArray[np.float64]:
        prepared = self._kernel.prepared(features, self._arrays)
        landmarks, gamma = self._arrays[before + "landmarks"], self._arrays[before + "gamma"][0]
        alike = self._kernel.of(prepared, landmarks, gamma) @ self._arrays[before + "weights"]
        scores = np.maximum(self._arrays[before + "highest"] - alike, 0)
        found: NDArray[np.float64] = scores.astype(np.float64)
        return found


def joined_cells(pyramid: FeaturePyramid, upsample: Literal["bilinear", "block"]) -> _Array:
    """Return the features of all cells of images, shape (n, n_features)."""
    joined = pyramid.concatenated(upsample)
    return joined.reshape(-1, joined.shape[-1])


def level_means(pyramid: FeaturePyramid) -> _Array:
    """Return the pooled features of images: the mean over the cells of each level, joined."""
    means = [level.mean(axis=(1, 2), dtype=np.float64) for level in pyramid.levels]
    return np.concatenate(means, axis=1).astype(np.float32)
