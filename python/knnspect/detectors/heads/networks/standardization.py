"""Mean and standard deviation of each channel, over all cells of normal images."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from knnspect.pyramid import FeaturePyramid

__all__ = ["channel_statistics"]


def channel_statistics(
    pyramids: Iterable[FeaturePyramid],
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return the mean and the standard deviation of each channel of each level.

    Parameters
    ----------
    pyramids : iterable of FeaturePyramid
        Normal images, a few at a time.

    Returns
    -------
    list of (ndarray, ndarray) of float32, shape (n_channels,) each
        One pair per level. The standard deviation of a constant channel is given as 1, so that it
        can be divided by.

    Examples
    --------
    >>> level = np.array([[1, 5], [3, 5]], np.float32).reshape(2, 1, 1, 2)
    >>> channel_statistics([FeaturePyramid([level])])
    [(array([2., 5.], dtype=float32), array([1., 1.], dtype=float32))]
    """
    totals: list[_Moments] = []
    for pyramid in pyramids:
        if not totals:
            totals = [_Moments(level.shape[-1]) for level in pyramid.levels]
        for moments, level in zip(totals, pyramid.levels, strict=True):
            moments.see(level.reshape(-1, level.shape[-1]).astype(np.float64))
    return [moments.result() for moments in totals]


class _Moments:
    """Mean and sum of squared deviations, of more and more rows (Chan et al., 1983)."""

    def __init__(self, n_channels: int) -> None:
        self._n = 0
        self._mean = np.zeros(n_channels)
        self._sq_deviations = np.zeros(n_channels)

    def see(self, rows: NDArray[np.float64]) -> None:
        n, mean = len(rows), rows.mean(axis=0)
        change, total = mean - self._mean, self._n + n
        self._sq_deviations += np.square(rows - mean).sum(axis=0)
        self._sq_deviations += np.square(change) * self._n * n / total
        self._mean += change * n / total
        self._n = total

    def result(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        deviation = np.sqrt(self._sq_deviations / self._n)
        deviation[deviation <= 1e-6 * np.abs(self._mean)] = 1
        return self._mean.astype(np.float32), deviation.astype(np.float32)
