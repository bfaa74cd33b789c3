"""Means and scatters of normal features, which images can be added to, and taken from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Gaussian", "sq_distances_left_out"]

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gaussian:
    """Means and scatters of samples, for each of some places.

    Parameters
    ----------
    n : int
        Samples of each place.
    mean : ndarray of float64, shape (n_places, n_features)
        Their means.
    scatter : ndarray of float64, shape (n_places, n_features, n_features)
        Sums of the outer products of deviations from the mean.
    """

    n: int
    mean: _Array
    scatter: _Array

    @classmethod
    def of(cls, samples: Iterable[NDArray[np.float32]]) -> Gaussian:
        """Return those of samples, which come as arrays of shape (n, n_places, n_features)."""
        total: Gaussian | None = None
        for some in samples:
            mean = some.mean(axis=0, dtype=np.float64)
            # Products in float32: what is lost of them is less than of the features.
            deviations = (some - mean).astype(np.float32).transpose(1, 2, 0)
            scatter = (deviations @ deviations.transpose(0, 2, 1)).astype(np.float64)
            part = cls(len(some), mean, scatter)
            total = part if total is None else total + part
        if total is None:
            raise ValueError("samples: expected at least one")
        return total

    def __add__(self, other: Gaussian) -> Gaussian:
        """Return those of the samples of both (Chan, Golub and LeVeque 1983, equation 2.1)."""
        return self._joined(other, 1)

    def __sub__(self, other: Gaussian) -> Gaussian:
        """Return those without the samples of another, which are some of these."""
        return self._joined(other, -1)

    def _joined(self, other: Gaussian, sign: int) -> Gaussian:
        n = self.n + sign * other.n
        apart = other.mean - self.mean
        scatter = (sign * self.n * other.n / n * apart)[:, :, None] * apart[:, None, :]
        scatter += self.scatter
        scatter += sign * other.scatter
        return Gaussian(n, self.mean + (sign * other.n / n) * apart, scatter)


def sq_distances_left_out(whitened: _Array, which: int, n: int, factor: _Array) -> _Array:
    """Return squared Mahalanobis distances of a sample from a Gaussian without some samples.

    The covariance without them differs from the one with all by a matrix of low rank, so that no
    other needs to be inverted (Woodbury). Its factor and what is added stay as they are: the
    scatter of fewer samples is divided by as much, so that distances are a little too large.

    Parameters
    ----------
    whitened : ndarray of float64, shape (n_places, n_features, n_left_out)
        Deviations of the samples that are left out from the mean of all, times `whitening`.
    which : int
        Which of them is the sample.
    n : int
        How many samples there are, with those left out: more than these.
    factor : ndarray of float64, shape (n_places,)
        As `Mahalanobis.shrunk` has it.
    """
    n_left_out = whitened.shape[2]
    gram = whitened.transpose(0, 2, 1) @ whitened
    # With the mean of the others m' = m - D 1 / (n - k), D the deviations: x - m' = D v.
    v = np.full(n_left_out, 1 / (n - n_left_out))
    v[which] += 1
    # Their scatter is that of all less D M D^T, with M = 1 + 1 1^T / (n - k).
    inverse = np.linalg.inv(np.eye(n_left_out) + 1 / (n - n_left_out))
    projected = gram @ v
    core = inverse - factor[:, None, None] * gram
    solved = np.linalg.solve(core, projected[:, :, None])[:, :, 0]
    found: _Array = projected @ v + factor * (projected * solved).sum(axis=1)
    return found
