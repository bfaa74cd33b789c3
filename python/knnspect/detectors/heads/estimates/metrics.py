"""How far a sample is from a Gaussian: matrices whose product with its deviation is that long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.heads.estimates.gaussians import Gaussian
from knnspect.errors import ParameterError

__all__ = ["Mahalanobis", "Metric", "Residual"]

#: The least ridge: cells at which all images are the same have no variance of their own.
_LEAST_RIDGE = 1e-6

_Array = NDArray[np.float64]


class Metric(Protocol):
    """Says how long a deviation is."""

    def matrices(self, gaussian: Gaussian) -> NDArray[np.float32]:
        """Return for each place the matrix whose product with a deviation is as long as it counts.

        Shape (n_places, n_rows, n_features).
        """
        ...

    def unit(self, n_features: int) -> float:
        """Return what squared lengths of so many features are divided by, before they are added."""
        ...

    def check(self, n_samples: int, n_features: int) -> None:
        """Raise a ParameterError if there are too few samples."""
        ...


@dataclass(frozen=True)
class Mahalanobis:
    """Length by the inverse of a shrunk covariance.

    Parameters
    ----------
    weight : float or None
        Of the identity times the mean variance, from 0 to 1, which takes the place of as much of
        the covariance; None: as the oracle approximating shrinkage says, for each Gaussian.
    ridge : float
        What is added to each variance after that, as a share of the mean variance of all places.
    """

    weight: float | None
    ridge: float

    def matrices(self, gaussian: Gaussian) -> NDArray[np.float32]:
        """Return the inverses of the covariances' Cholesky factors."""
        factor, added = self.shrunk(gaussian)
        covariance = gaussian.scatter * factor[:, None, None]
        diagonal = np.arange(covariance.shape[1])
        covariance[:, diagonal, diagonal] += added[:, None]
        return np.linalg.inv(np.linalg.cholesky(covariance)).astype(np.float32)

    def unit(self, n_features: int) -> float:
        """Return the root of the number, to which the deviation of a squared distance goes."""
        return float(np.sqrt(n_features))

    def check(self, n_samples: int, n_features: int) -> None:
        """Raise a ParameterError if a covariance is singular as it is."""
        if not self.ridge and self.weight == 0 and n_samples <= n_features:
            raise ParameterError(
                f"shrinkage: expected more than 0, or a ridge, for covariances of {n_features} "
                f"channels from {n_samples} samples",
                parameter="shrinkage",
            )

    def shrunk(self, gaussian: Gaussian) -> tuple[_Array, _Array]:
        """Return what gives the covariances: factors of the scatters, and what is added.

        The covariance of a place is ``factor * scatter + added * identity``, with ``factor =
        (1 - weight) / (n - 1)``.

        Returns
        -------
        factor, added : ndarray of float64, shape (n_places,)
        """
        n_free = max(gaussian.n - 1, 1)
        variance = np.trace(gaussian.scatter, axis1=1, axis2=2) / gaussian.mean.shape[1] / n_free
        given = self.weight
        weight = _oas(gaussian) if given is None else np.full(len(variance), float(given))
        added = weight * variance + max(self.ridge, _LEAST_RIDGE) * variance.mean()
        return (1 - weight) / n_free, added


@dataclass(frozen=True)
class Residual:
    """Length of the part that leading directions do not explain.

    Parameters
    ----------
    explained : float
        The share of the variance that the leading directions have at least, between 0 and 1; one
        direction is left at least.
    """

    explained: float

    def matrices(self, gaussian: Gaussian) -> NDArray[np.float32]:
        """Return the other directions, of one place."""
        (scatter,) = gaussian.scatter
        variances, directions = np.linalg.eigh(scatter)
        # From the smallest on; those that all together have no more than the rest.
        rest = np.cumsum(np.maximum(variances, 0))
        n_left = int(np.searchsorted(rest, (1 - self.explained) * rest[-1], side="right"))
        chosen = directions[:, : min(max(n_left, 1), len(variances))]
        return np.ascontiguousarray(chosen.T[None], np.float32)

    def unit(self, n_features: int) -> float:  # noqa: ARG002 - it is the same for all
        """Return 1: lengths are those of features."""
        return 1.0

    def check(self, n_samples: int, n_features: int) -> None:
        """Accept any number: directions without variance are left."""


def _oas(gaussian: Gaussian) -> _Array:
    """Return the weights of Chen, Wiesel, Eldar and Hero (2010), equation 23.

    Without the terms ``2 / n_features``, as scikit-learn has it.
    """
    n_features = gaussian.mean.shape[1]
    covariance = gaussian.scatter / gaussian.n
    sq_norm = np.square(covariance).mean(axis=(1, 2))
    sq_mean = np.square(np.trace(covariance, axis1=1, axis2=2) / n_features)
    denominator = (gaussian.n + 1) * (sq_norm - sq_mean / n_features)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(denominator > 0, (sq_norm + sq_mean) / denominator, 1.0)
    return np.minimum(weight, 1.0)
