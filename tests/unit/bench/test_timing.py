"""Times, turns and percentiles."""

from __future__ import annotations

import time

import numpy as np
import pytest

from knnspect.bench import percentiles, ratios, spread, timed, turns


def test_percentiles_are_those_of_all_times_in_any_order() -> None:
    seconds = np.random.default_rng(0).permutation(np.arange(1, 201) / 1000)
    # Between the two nearest: of 200 values, place 0.95 * 199 = 189.05 lies beyond the 190th.
    assert percentiles(seconds.tolist()) == {"p50": 100.5, "p95": 190.05, "p99": 198.01}
    assert percentiles([0.25]) == {"p50": 250.0, "p95": 250.0, "p99": 250.0}


def test_everybody_has_every_round_and_another_begins_each_time() -> None:
    seen = [(number, name) for number, name, _ in turns({"a": 1, "b": 2, "c": 3}, 3, pause=0)]
    assert len(set(seen)) == 9
    assert [name for _, name in seen[::3]] == ["a", "b", "c"]


def test_a_turn_begins_after_a_pause() -> None:
    start = time.perf_counter()
    assert [rival for *_, rival in turns({"a": 7}, 2, pause=0.03)] == [7, 7]
    assert time.perf_counter() - start >= 0.06


def test_work_is_timed_once() -> None:
    calls: list[int] = []

    def work() -> int:
        time.sleep(0.02)
        calls.append(1)
        return 5

    seconds, result = timed(work)
    assert result == 5
    assert calls == [1]
    assert 0.02 <= seconds < 1


def test_spread_and_ratios_are_of_each_image() -> None:
    assert spread([0.2, 0.1, 0.6]) == {"min_ms": 100.0, "median_ms": 200.0, "max_ms": 600.0}
    assert ratios([1, 8], [2, 2]) == {"min": 0.5, "median": 2.25, "max": 4.0}
    with pytest.raises(ValueError, match="broadcast"):
        ratios([1, 2, 3], [1, 2])
