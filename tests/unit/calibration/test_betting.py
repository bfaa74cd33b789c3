"""The test martingale: fair against uniform p-values, quick against others."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from knnspect.calibration.betting import Martingale


def after(p_values: object) -> Martingale:
    martingale = Martingale()
    for p_value in np.asarray(p_values, float):
        martingale.bet(float(p_value))
    return martingale


@pytest.mark.parametrize("n", [1, 7, 300])
def test_a_bet_is_fair(n: int) -> None:
    """The mean capital after a uniform p-value is that before it: bets are linear in it."""
    before = after(np.random.default_rng(n).random(n))
    capitals = []
    for p_value in (0.0, 0.25, 0.75, 1.0):
        martingale = Martingale.from_json(before.to_json())
        martingale.bet(p_value)
        capitals.append(math.exp(martingale.log_capital))
    assert np.mean(capitals) == pytest.approx(math.exp(before.log_capital), rel=1e-12)
    assert np.ptp(capitals) > 0.001, "something is bet"


def test_uniform_p_values_seldom_make_it_rich() -> None:
    """Ville: of 200 runs at most 200 / c reach c, but for chance (5 standard deviations)."""
    rng = np.random.default_rng(11)
    maxima = np.empty(200)
    for run in range(len(maxima)):
        martingale, highest = Martingale(), 0.0
        for p_value in rng.random(300).tolist():
            martingale.bet(p_value)
            highest = max(highest, martingale.log_capital)
        maxima[run] = highest
    for c in (2, 5, 20, 100):
        n_reached, mean = int((maxima >= math.log(c)).sum()), 200 / c
        assert n_reached <= mean + 5 * math.sqrt(mean)
    assert (maxima >= math.log(2)).sum() > 3, "something is bet"


def test_it_has_not_lost_its_power_after_ten_thousand_images() -> None:
    martingale = after(np.random.default_rng(0).random(10_000))
    for n in range(60):  # noqa: B007
        if martingale.log_capital >= math.log(100):
            break
        martingale.bet(0.05)
    assert 20 < n < 45


@pytest.mark.parametrize("are_small", [True, False])
def test_it_says_since_when(are_small: bool) -> None:
    rng = np.random.default_rng(2)
    errors = []
    for n in rng.integers(0, 400, 20):
        changed = rng.random(60) ** 4
        p_values = [*rng.random(n), *(changed if are_small else 1 - changed)]
        change = after(p_values).change()
        assert change.are_small == are_small
        errors.append(change.since - int(n))
    assert np.median(np.abs(errors)) <= 5
    assert np.mean(np.abs(errors)) <= 12


def test_names_and_numbers_are_those_given() -> None:
    martingale = Martingale()
    for index in range(30):
        martingale.bet(0.5 if index < 5 else 0.01, index + 1000, f"{index}.png")
    since, name, are_small = martingale.change()
    assert (since, name, are_small) == (1005, "5.png", True)


def test_its_state_goes_through_json_to_the_bit() -> None:
    rng = np.random.default_rng(5)
    one = after(rng.random(100))
    other = Martingale.from_json(json.loads(json.dumps(one.to_json())))
    for p_value in rng.random(50).tolist():
        one.bet(p_value)
        other.bet(p_value)
        assert other.to_json() == one.to_json()
