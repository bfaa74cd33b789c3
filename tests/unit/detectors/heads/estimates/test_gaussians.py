"""Means, scatters and what is made of them: against NumPy, SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import OAS
from sklearn.decomposition import PCA

from knnspect.detectors.heads.estimates.gaussians import Gaussian, sq_distances_left_out
from knnspect.detectors.heads.estimates.metrics import Mahalanobis, Residual
from knnspect.errors import ParameterError

#: Of 12 images, 5 places with 4 features.
SAMPLES = np.random.default_rng(0).normal(3, [1, 2, 0.5, 4], (12, 5, 4)).astype(np.float32)
WHOLE = Gaussian.of([SAMPLES])


def test_mean_and_scatter_are_those_of_numpy() -> None:
    np.testing.assert_allclose(WHOLE.mean, SAMPLES.mean(axis=0), rtol=1e-6)
    for place in range(5):
        expected = np.cov(SAMPLES[:, place].T.astype(np.float64)) * 11
        np.testing.assert_allclose(WHOLE.scatter[place], expected, rtol=1e-4, atol=1e-4)


def test_batches_add_up_and_can_be_taken_back() -> None:
    parts = [Gaussian.of([SAMPLES[:5]]), Gaussian.of([SAMPLES[5:6]]), Gaussian.of([SAMPLES[6:]])]
    for total in (Gaussian.of([SAMPLES[:5], SAMPLES[5:]]), parts[0] + parts[1] + parts[2]):
        assert total.n == 12
        np.testing.assert_allclose(total.mean, WHOLE.mean, rtol=1e-6)
        np.testing.assert_allclose(total.scatter, WHOLE.scatter, rtol=1e-4, atol=1e-4)
    rest = WHOLE - parts[0]
    np.testing.assert_allclose(rest.mean, SAMPLES[5:].mean(axis=0), rtol=1e-6)
    expected = Gaussian.of([SAMPLES[5:]]).scatter
    np.testing.assert_allclose(rest.scatter, expected, rtol=1e-4, atol=1e-4)


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Gaussian.of([])


@pytest.mark.parametrize("n", [3, 12])
def test_covariances_are_shrunk_as_scikit_learn_does(n: int) -> None:
    gaussian = Gaussian.of([SAMPLES[:n]])
    factor, added = Mahalanobis(None, 0.0).shrunk(gaussian)
    for place in range(5):
        ours = factor[place] * gaussian.scatter[place] + added[place] * np.eye(4)
        theirs = OAS().fit(SAMPLES[:n, place].astype(np.float64)).covariance_
        # Theirs divides by n.
        np.testing.assert_allclose(ours, theirs * n / (n - 1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("metric", [Mahalanobis(0.0, 0.0), Mahalanobis(0.3, 0.2)])
def test_distances_are_those_of_scipy(metric: Mahalanobis) -> None:
    matrices = metric.matrices(WHOLE)
    variances = WHOLE.scatter.diagonal(axis1=1, axis2=2) / 11
    weight, ridge = metric.weight or 0.0, metric.ridge * variances.mean()
    x = np.random.default_rng(1).normal(size=4)
    for place in range(5):
        covariance = np.cov(SAMPLES[:, place].T.astype(np.float64))
        mean_variance = np.trace(covariance) / 4
        shrunk = (1 - weight) * covariance + (weight * mean_variance + ridge) * np.eye(4)
        mean = SAMPLES[:, place].mean(axis=0)
        expected = mahalanobis(x, mean, np.linalg.inv(shrunk))
        found = np.linalg.norm(matrices[place] @ (x - mean))
        assert found == pytest.approx(expected, rel=1e-3)


def test_places_where_all_images_are_the_same_are_at_a_distance() -> None:
    samples = SAMPLES.copy()
    samples[:, 2] = 7
    matrices = Mahalanobis(None, 0.0).matrices(Gaussian.of([samples]))
    assert np.isfinite(matrices).all()
    assert np.linalg.norm(matrices[2] @ np.ones(4)) > np.linalg.norm(matrices[3] @ np.ones(4))


def test_a_singular_covariance_is_refused_before() -> None:
    Mahalanobis(0.0, 0.0).check(5, 4)
    Mahalanobis(None, 0.0).check(2, 4)
    with pytest.raises(ParameterError, match="covariances of 4 channels from 4 samples") as caught:
        Mahalanobis(0.0, 0.0).check(4, 4)
    assert caught.value.parameter == "shrinkage"


@pytest.mark.parametrize("left_out", [[3], [3, 7], [0, 3, 11]])
@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_left_out_samples_are_judged_by_the_others(left_out: list[int], weight: float) -> None:
    """By a covariance of the others that is factored anew, with factor and addition of all."""
    metric = Mahalanobis(weight, 0.05)
    factor, added = metric.shrunk(WHOLE)
    matrices = metric.matrices(WHOLE).astype(np.float64)
    deviations = SAMPLES[left_out].astype(np.float64) - WHOLE.mean
    whitened = np.einsum("pij,npj->pin", matrices, deviations)
    found = sq_distances_left_out(whitened, left_out.index(3), 12, factor)
    others = np.delete(SAMPLES, left_out, axis=0).astype(np.float64)
    for place in range(5):
        apart = others[:, place] - others[:, place].mean(axis=0)
        covariance = factor[place] * apart.T @ apart + added[place] * np.eye(4)
        x = SAMPLES[3, place] - others[:, place].mean(axis=0)
        assert found[place] == pytest.approx(x @ np.linalg.solve(covariance, x), rel=1e-3)


@pytest.mark.parametrize("explained", [0.5, 0.9, 0.999])
def test_the_residual_is_what_pca_does_not_explain(explained: float) -> None:
    samples = SAMPLES.reshape(-1, 1, 4)
    (matrix,) = Residual(explained).matrices(Gaussian.of([samples]))
    pca = PCA(explained, svd_solver="full").fit(samples[:, 0].astype(np.float64))
    n_leading = min(len(pca.components_), 3)
    assert matrix.shape == (4 - n_leading, 4)
    leading = PCA(n_leading, svd_solver="full").fit(samples[:, 0].astype(np.float64))
    x = np.random.default_rng(2).normal(size=(1, 4))
    rest = x - leading.inverse_transform(leading.transform(x))
    found = np.linalg.norm(matrix @ (x[0] - samples[:, 0].mean(axis=0)))
    assert found == pytest.approx(np.linalg.norm(rest), rel=1e-4)
