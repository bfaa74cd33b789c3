"""Similarities by least squares, and despite wrong pairs."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect.locators.similarity import least_squares, robust
from knnspect.views import similarity

Pairs = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@pytest.fixture
def pairs() -> Pairs:
    """Positions, where they go, and the transform; with noise of .01."""
    rng = np.random.default_rng(3)
    before = rng.uniform(0, 30, (60, 2))
    matrix = similarity(23, 1.2, at=(5, 4), to=(8, -2))
    after = before @ matrix[:, :2].T + matrix[:, 2] + rng.normal(0, 0.01, (60, 2))
    return before, after, matrix


def test_least_squares_are_those_of_linear_equations(
    pairs: Pairs,
) -> None:
    before, after, _ = pairs
    after = after + np.random.default_rng(0).normal(0, 2, after.shape)
    # (row, column) = (a r - b c + e, b r + a c + f), unknown a, b, e, f.
    zeros, ones = np.zeros(len(before)), np.ones(len(before))
    of_rows = np.stack([before[:, 0], -before[:, 1], ones, zeros], axis=1)
    of_columns = np.stack([before[:, 1], before[:, 0], zeros, ones], axis=1)
    equations = np.concatenate([of_rows, of_columns])
    a, b, e, f = np.linalg.lstsq(equations, after.T.ravel(), rcond=None)[0]
    found = least_squares(before, after)
    assert found is not None
    np.testing.assert_allclose(found, [[a, -b, e], [b, a, f]], atol=1e-9)


@pytest.mark.parametrize("n_wrong", [0, 20, 35])
def test_wrong_pairs_do_not_count(n_wrong: int, pairs: Pairs) -> None:
    before, after, matrix = pairs
    after[:n_wrong] += np.random.default_rng(1).uniform(3, 20, (n_wrong, 2))
    found = robust(before, after, tolerance=0.1)
    assert found is not None
    np.testing.assert_allclose(found[0], matrix, atol=0.03)
    assert found[1].tolist() == [False] * n_wrong + [True] * (60 - n_wrong)


def test_there_is_none_where_pairs_do_not_agree() -> None:
    rng = np.random.default_rng(0)
    assert robust(rng.uniform(0, 30, (8, 2)), rng.uniform(0, 30, (8, 2)), 0.01) is None
    assert robust(np.ones((9, 2)), np.ones((9, 2)), 1) is None
    assert robust(np.zeros((2, 2)), np.zeros((2, 2)), 1) is None
    assert least_squares(np.ones((4, 2)), np.zeros((4, 2))) is None
