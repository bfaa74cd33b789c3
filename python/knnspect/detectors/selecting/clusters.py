"""Clusters of images, and which of them are tight."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from knnspect.forked import fork_safe

__all__ = ["Clusters", "clusters_of"]

#: The mixture is fitted from so many random starts; the likeliest one counts.
_N_STARTS, _MOST_STEPS = 5, 200
#: A cluster of less than this share of the mean size says nothing of what is normal.
_SMALLEST = 0.2


@dataclass(frozen=True)
class Clusters:
    """Images in clusters, the tightest first.

    Parameters
    ----------
    labels : ndarray of int, shape (n_images,)
        The cluster of each image.
    counts : ndarray of int, shape (n_clusters,)
        How many images each cluster has, at least one.
    variances : ndarray of float, shape (n_clusters,)
        The mean squared distance of each cluster's images to their mean; ascending.
    sq_distances : ndarray of float, shape (n_images,)
        The squared distance of each image to the mean of its cluster.
    fewest : int
        Smaller clusters are not tight, whatever their variance.
    """

    labels: NDArray[np.intp]
    counts: NDArray[np.intp]
    variances: NDArray[np.float64]
    sq_distances: NDArray[np.float64]
    fewest: int

    def limit(self, drop: float) -> float:
        """Return the largest variance of a tight cluster; -inf if none is.

        The tightest clusters are, as long as they have at most the share ``1 - drop`` of all
        images; and the next ones, until there is half of that.
        """
        large = np.flatnonzero(self.counts >= self.fewest)
        if not len(large):
            return -np.inf
        # Rounded up by less than an image: shares such as 0.7 are no floats.
        most = (1 - drop) * len(self.labels) + 1e-6
        together = np.cumsum(self.counts[large])
        n_tight = int(np.searchsorted(together, most, "right"))
        n_least = min(int(np.searchsorted(together, most / 2)) + 1, len(large))
        return float(self.variances[large[max(n_tight, n_least) - 1]])

    def is_tight(self, drop: float) -> NDArray[np.bool_]:
        """Return for each image whether its cluster is tight, shape (n_images,)."""
        limit = self.limit(drop)
        tight = (self.variances <= limit) & (self.counts >= self.fewest)
        of_each: NDArray[np.bool_] = tight[self.labels]
        return of_each


@fork_safe
def clusters_of(
    rows: NDArray[np.float64],
    n_clusters: int,
    seed: int,
    measured: NDArray[np.float64] | None = None,
) -> Clusters:
    """Return the clusters of a mixture of diagonal Gaussians.

    Parameters
    ----------
    rows : ndarray of float64, shape (n_images, n)
        What is clustered; at least `n_clusters` images.
    n_clusters : int
        Components of the mixture. Those that are nobody's likeliest one are no cluster.
    seed : int
        Of the random starts.
    measured : ndarray of float64, shape (n_images, m), optional
        What variances and distances are of; `rows` by default.

    Examples
    --------
    >>> rows = np.array([[0.0], [0.2], [0.1], [9.0], [5.0], [7.0]])
    >>> found = clusters_of(rows, 2, seed=0)
    >>> found.labels, found.variances.round(4), found.is_tight(0.5).astype(int)
    (array([0, 0, 0, 1, 1, 1]), array([0.0067, 2.6667]), array([1, 1, 1, 0, 0, 0]))
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(
        n_clusters,
        covariance_type="diag",
        n_init=_N_STARTS,
        max_iter=_MOST_STEPS,
        random_state=seed % 2**32,
    )
    with warnings.catch_warnings():
        # Not every image need be another one, and the likelihood may still creep upwards.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = mixture.fit_predict(rows)
    measured = rows if measured is None else measured
    numbers, labels = np.unique(found, return_inverse=True)
    counts = np.bincount(labels)
    means = np.stack([measured[labels == number].mean(axis=0) for number in range(len(numbers))])
    sq_distances = np.square(measured - means[labels]).sum(axis=1)
    variances = np.bincount(labels, sq_distances) / counts
    order = np.argsort(variances, kind="stable")
    fewest = max(2, int(np.ceil(_SMALLEST * len(rows) / n_clusters)))
    return Clusters(
        np.argsort(order)[labels], counts[order], variances[order], sq_distances, fewest
    )
