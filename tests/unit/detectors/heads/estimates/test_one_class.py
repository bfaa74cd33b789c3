"""The one-class SVM: against scikit-learn's own pipeline, on solar cells and on shapes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics.pairwise import linear_kernel, rbf_kernel
from sklearn.svm import OneClassSVM

import knnspect as ks
from knnspect.detectors.heads.estimates.one_class import one_class_arrays, whitening_arrays
from knnspect.detectors.heads.scorers.one_class import Kernel, OneClassScorer, level_means

FEATURES = np.random.default_rng(0).normal(2, [1, 3, 0.5], (4000, 3)).astype(np.float32)
SHAPES = [(2, 2, 3)]
RBF = Kernel("rbf")


def scorer(features: NDArray[np.float32] = FEATURES, nu: float = 0.1) -> OneClassScorer:
    batches = np.array_split(features, 5)
    whitening = whitening_arrays(iter(batches))
    arrays = one_class_arrays(lambda: iter(batches), whitening, RBF, nu, 60, 3, seed=0)
    return OneClassScorer(SHAPES, "bilinear", RBF, False, whitening | arrays)


def test_kernels_are_those_of_scikit_learn() -> None:
    one, other = FEATURES[:7], FEATURES[7:12]
    found = RBF.of(one, other, 0.2)
    np.testing.assert_allclose(found, rbf_kernel(one, other, 0.2), rtol=1e-4)
    found = Kernel("linear").of(one, other, 0.2)
    np.testing.assert_allclose(found, linear_kernel(one, other), rtol=1e-5)


def test_whitened_features_have_a_covariance_of_one() -> None:
    whitening = whitening_arrays(iter(np.array_split(FEATURES, 3)))
    white = RBF.prepared(FEATURES, whitening)
    covariance = np.cov(FEATURES.T)
    values = np.linalg.eigvalsh(covariance)
    expected = values / (values + 0.01 * values.mean())
    np.testing.assert_allclose(np.cov(white.T), np.diag(expected), atol=2e-3)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-3)


def test_features_of_the_linear_kernel_have_a_length_of_one() -> None:
    prepared = Kernel("linear").prepared(np.vstack([FEATURES, np.zeros((1, 3))]), {})
    np.testing.assert_allclose(np.linalg.norm(prepared[:-1], axis=1), 1, rtol=1e-5)
    assert (prepared[-1] == 0).all()


def test_what_is_far_from_all_features_scores_more_the_farther_it_is() -> None:
    judge = scorer()
    mean, deviation = FEATURES.mean(axis=0), FEATURES.std(axis=0)
    cells = np.stack([mean + far * deviation for far in (0, 1.5, 3, 6)]).reshape(1, 2, 2, 3)
    scores = judge.cell_scores(ks.FeaturePyramid([cells.astype(np.float32)])).ravel()
    assert (np.diff(scores) > 0).all()
    assert scores.min() >= 0


def test_scores_go_with_those_of_the_exact_svm() -> None:
    """Of features that are spread three times as far as those that were learnt from."""
    few = FEATURES[:1000]
    judge = scorer(few, nu=0.3)
    whitening = whitening_arrays(iter([few]))
    white = RBF.prepared(few, whitening)
    gamma = 1 / (36 * np.square(white).sum(axis=1).mean())
    svm = OneClassSVM(nu=0.3, gamma=gamma).fit(white)
    judged = (few - few.mean(axis=0)) * 3 + few.mean(axis=0)
    theirs = -svm.decision_function(RBF.prepared(judged, whitening))
    cells = judged.reshape(250, 2, 2, 3)
    ours = np.concatenate(
        [judge.cell_scores(ks.FeaturePyramid([each[None]])).ravel() for each in cells]
    )
    assert spearmanr(ours, theirs).statistic > 0.95


def test_pooled_features_are_means_of_levels() -> None:
    rng = np.random.default_rng(3)
    fine, coarse = rng.random((2, 4, 4, 3), np.float32), rng.random((2, 2, 2, 5), np.float32)
    found = level_means(ks.FeaturePyramid([fine, coarse]))
    expected = np.concatenate([fine.reshape(2, 16, 3).mean(1), coarse.reshape(2, 4, 5).mean(1)], 1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_memory_does_not_grow_with_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    from knnspect.detectors.heads.estimates import one_class

    monkeypatch.setattr(one_class, "_N_SAMPLED", 100)
    kept = one_class._sampled(iter(np.array_split(FEATURES, 9)), np.random.default_rng(0))
    assert len(kept) == 100
    assert len(np.unique(kept, axis=0)) == 100
    assert np.isin(kept, FEATURES).all()
    np.testing.assert_allclose(kept.mean(axis=0), FEATURES.mean(axis=0), atol=1.2)
