"""Scores of a coarse grid of cells, brought to a finer one."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["resized"]


def resized(map_: NDArray[np.float64], size: tuple[int, ...]) -> NDArray[np.float64]:
    """Return a map, bilinearly taken to a larger size, as PyTorch does it.

    >>> resized(np.array([[0.0, 4.0]]), (1, 4))
    array([[0., 1., 3., 4.]])
    """
    rows, columns = (_weights(n, of) for n, of in zip(map_.shape, size, strict=True))
    found: NDArray[np.float64] = rows @ map_ @ columns.T
    return found


@lru_cache(maxsize=64)
def _weights(n_from: int, n_to: int) -> NDArray[np.float64]:
    """Return how much of each old place each new one takes, shape (n_to, n_from)."""
    places = np.maximum((np.arange(n_to) + 0.5) * n_from / n_to - 0.5, 0)
    lower = np.minimum(places.astype(int), n_from - 1)
    upper = np.minimum(lower + 1, n_from - 1)
    weights = np.zeros((n_to, n_from))
    np.add.at(weights, (np.arange(n_to), lower), 1 - (places - lower))
    np.add.at(weights, (np.arange(n_to), upper), places - lower)
    return weights
