"""Ranks among the scores before: p-values that are what a martingale needs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2, kstest

from knnspect.calibration.ranks import Ranks

#: Scores of images that are all alike: smooth, full of ties, heavy-tailed, and all the same.
KINDS: dict[str, Any] = {
    "smooth": lambda rng, n: rng.normal(size=n),
    "ties": lambda rng, n: rng.poisson(1.0, n).astype(float),
    "heavy tails": lambda rng, n: rng.standard_cauchy(n),
    "constant": lambda rng, n: np.full(n, 0.25),
}


@pytest.mark.parametrize("max_scores", [15, 50_000])
@pytest.mark.parametrize("n_calibration", [0, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_p_values_are_uniform_and_independent(
    kind: str, n_calibration: int, max_scores: int
) -> None:
    """Also in the long run, where those against a set that stays as it is are not."""
    rng = np.random.default_rng(0)
    n, means, lags, all_ = 300, [], [], []
    for seed in range(25):
        ranks = Ranks(KINDS[kind](rng, n_calibration).tolist(), max_scores, seed)
        scores = KINDS[kind](rng, n).tolist()
        p_values = np.array([ranks.p_value(score, index) for index, score in enumerate(scores)])
        assert len(ranks.scores) == min(n_calibration + n, max_scores)
        all_.append(p_values)
        means.append((p_values.mean() - 0.5) * math.sqrt(12 * n))
        lags.append(((p_values[1:] - 0.5) * (p_values[:-1] - 0.5)).mean() * 12 * math.sqrt(n))
    assert kstest(np.concatenate(all_), "uniform").pvalue > 1e-3
    # Normal with variance 1 if p-values are independent; far wider if runs differ from each other.
    for statistic in (means, lags):
        assert 1e-4 < chi2.cdf(np.square(statistic).sum(), len(statistic)) < 1 - 1e-4


def test_a_tie_is_broken_by_the_seed_and_the_number_alone() -> None:
    found = {
        (seed, index): Ranks([1.0] * 9, 100, seed).p_value(1.0, index)
        for seed in (0, 1)
        for index in (0, 1)
    }
    assert len(set(found.values())) == 4
    assert Ranks([1.0] * 9, 100, 1).p_value(1.0, 1) == found[1, 1]
    assert (
        Ranks([1.0] * 9, 100, 1).p_value(2.0, 1)
        < 0.1
        < 0.9
        < Ranks([1.0] * 9, 100, 1).p_value(0.0, 1)
    )
