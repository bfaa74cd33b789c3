"""Which clusters are tight, against scikit-learn and plain sums."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture

from knnspect.detectors.selecting.clusters import Clusters, clusters_of


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float64]:
    return np.asarray(load_digits().data[:200], np.float64)


def test_clusters_are_those_of_a_diagonal_mixture(rows: NDArray[np.float64]) -> None:
    few = rows[:, 20:30]
    found = clusters_of(few, 5, seed=3)
    mixture = GaussianMixture(5, covariance_type="diag", n_init=5, max_iter=200, random_state=3)
    labels = mixture.fit_predict(few)
    pairs = set(zip(labels.tolist(), found.labels.tolist(), strict=True))
    assert len(pairs) == len(set(labels)) == len(found.counts)


@pytest.mark.parametrize("apart", [False, True], ids=["of themselves", "of something else"])
def test_variances_are_mean_squared_distances(rows: NDArray[np.float64], apart: bool) -> None:
    few = rows[:, 20:30]
    of = rows if apart else few
    found = clusters_of(few, 6, seed=0, measured=rows if apart else None)
    for number, (count, variance) in enumerate(zip(found.counts, found.variances, strict=True)):
        members = of[found.labels == number]
        distances = [float(((row - members.mean(axis=0)) ** 2).sum()) for row in members]
        assert len(members) == count
        assert variance == pytest.approx(np.mean(distances))
        np.testing.assert_allclose(found.sq_distances[found.labels == number], distances)
    assert (np.diff(found.variances) >= 0).all()


def clusters(counts: list[int], variances: list[float], fewest: int = 1) -> Clusters:
    labels = np.repeat(np.arange(len(counts)), counts)
    return Clusters(labels, np.array(counts), np.array(variances), np.zeros(sum(counts)), fewest)


@pytest.mark.parametrize(
    ("drop", "n_kept"),
    [(0.3, 70), (0.31, 50), (0.5, 50), (0.61, 20), (0.9, 20), (0.05, 90), (1e-9, 100)],
)
def test_tight_clusters_have_at_most_the_share_that_is_kept(drop: float, n_kept: int) -> None:
    found = clusters([20, 30, 20, 20, 10], [1.0, 2.0, 3.0, 4.0, 5.0])
    kept = found.is_tight(drop)
    assert kept.sum() == n_kept
    assert kept[:n_kept].all()


def test_a_large_cluster_is_kept_where_the_tighter_ones_are_less_than_half() -> None:
    found = clusters([10, 80, 10], [1.0, 2.0, 3.0])
    assert found.is_tight(0.3).sum() == 90
    assert found.is_tight(0.85).sum() == 10
    assert clusters([90, 10], [1.0, 2.0]).is_tight(0.3).sum() == 90


def test_small_clusters_are_not_tight_whatever_their_variance() -> None:
    found = clusters([2, 40, 3, 30], [0.0, 2.0, 2.5, 3.0], fewest=4)
    assert found.is_tight(0.1).tolist() == [False] * 2 + [True] * 40 + [False] * 33
    assert found.limit(0.1) == 2.0
    none = clusters([2, 3], [0.0, 1.0], fewest=4)
    assert not none.is_tight(0.1).any()


def test_a_cluster_of_less_than_a_fifth_of_the_mean_size_is_small(
    rows: NDArray[np.float64],
) -> None:
    assert clusters_of(rows, 4, seed=0).fewest == 10
    assert clusters_of(rows[:8], 4, seed=0).fewest == 2
