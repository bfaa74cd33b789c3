"""The drift monitor: what it promises without a change, what it finds, and what it keeps."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2, kstest

import knnspect as ks
from knnspect.errors import DTypeError, ParameterError, ShapeError, StoreError


def p_values_of(monitor: ks.DriftMonitor, scores: NDArray[Any]) -> NDArray[np.float64]:
    found = []
    for score in scores.tolist():
        monitor.update(score)
        found.append(monitor.p_value)
    return np.array(found, np.float64)


def test_scores_below_a_calibration_score_have_uniform_p_values() -> None:
    """With the threshold of a verdict as ceiling, which is one of the calibration scores."""
    rng = np.random.default_rng(3)
    n_left_out, means, all_ = 0, [], []
    for seed in range(30):
        calibration = rng.normal(size=40)
        ceiling = float(np.sort(calibration)[-5])
        monitor = ks.DriftMonitor(calibration, ceiling=ceiling, seed=seed)
        assert len(monitor.calibration_scores) == 35
        scores = rng.normal(size=400)
        p_values = p_values_of(monitor, scores)[scores < ceiling]
        n_left_out += monitor.n_left_out
        assert monitor.n == len(p_values) == 400 - monitor.n_left_out
        all_.append(p_values)
        means.append((p_values.mean() - 0.5) * math.sqrt(12 * len(p_values)))
    assert n_left_out > 500
    assert kstest(np.concatenate(all_), "uniform").pvalue > 1e-3
    assert 1e-4 < chi2.cdf(np.square(means).sum(), len(means)) < 1 - 1e-4


def test_alarms_without_a_change_are_as_rare_as_promised() -> None:
    """120 runs, with a calibration set of 15 scores alone; 4 standard deviations for chance."""
    rng = np.random.default_rng(8)
    n_runs, strongest = 120, []
    for seed in range(n_runs):
        monitor = ks.DriftMonitor(rng.normal(size=15), false_alarm_probability=0.2, seed=seed)
        raised = monitor.update_all(rng.normal(size=200)) is not None
        strongest.append(monitor.max_log_martingale)
        assert raised == (strongest[-1] >= math.log(5))
    for probability in (0.02, 0.05, 0.2):
        n_alarms = sum(value >= -math.log(probability) for value in strongest)
        mean = probability * n_runs
        assert n_alarms <= mean + 4 * math.sqrt(mean * (1 - probability))


@pytest.mark.parametrize(("shift", "direction"), [(1.5, "higher"), (-1.5, "lower")])
@pytest.mark.parametrize("n_calibration", [0, 100])
def test_a_change_is_found_and_dated(shift: float, direction: str, n_calibration: int) -> None:
    rng = np.random.default_rng(1)
    since, delays = [], []
    for seed in range(20):
        monitor = ks.DriftMonitor(rng.normal(size=n_calibration), seed=seed)
        assert monitor.update_all(rng.normal(size=300)) is None
        alarm = monitor.update_all(rng.normal(shift, size=100))
        assert alarm is not None
        assert alarm.direction == direction
        since.append(alarm.since - 300)
        delays.append(alarm.at - 300)
    assert np.median(delays) < 45
    assert abs(np.median(since)) <= 5
    assert np.mean(np.abs(since)) < 10


def test_an_alarm_stays_as_it_was_until_the_reset() -> None:
    monitor = ks.DriftMonitor(range(50), false_alarm_probability=0.1)
    alarms = [monitor.update(100 + i, f"{i}.png") for i in range(40)]
    raised = [alarm for alarm in alarms if alarm is not None]
    assert raised == [monitor.alarm]
    assert raised[0].since_image == "0.png"
    assert raised[0].image == f"{raised[0].at}.png"
    assert monitor.max_log_martingale >= math.log(10)
    monitor.update_all(np.arange(50.0))
    assert [monitor.alarm] == raised
    monitor.reset()
    fresh = ks.DriftMonitor(range(50), false_alarm_probability=0.1)
    assert monitor.to_json() == fresh.to_json()
    monitor.reset([5.0, 4.0])
    assert monitor.calibration_scores.tolist() == [4.0, 5.0]


@pytest.mark.parametrize("share", [0.01, 0.03])
def test_a_few_defects_are_no_change(share: float) -> None:
    rng = np.random.default_rng(4)
    for seed in range(20):
        monitor = ks.DriftMonitor(rng.normal(size=100), seed=seed)
        scores = rng.normal(size=500)
        scores[rng.random(500) < share] += 8
        assert monitor.update_all(scores) is None
    for _ in range(12):  # in a row
        monitor.update(20.0)
    assert monitor.alarm is None


def test_what_was_saved_goes_on_to_the_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    file = tmp_path / "drift.json"
    one = ks.DriftMonitor(
        rng.normal(size=30), ceiling=2.5, max_scores=60, seed=9, false_alarm_probability=0.05
    )
    for score in np.concatenate([rng.normal(size=100), rng.normal(1, size=60)]).tolist():
        before = one.update(score, "ä.png")
        one.save(file)
        other = ks.DriftMonitor.load(file)
        assert other.to_json() == one.to_json()
        if before is not None:
            assert other.alarm == before
    assert one.alarm is not None
    assert one.n_left_out > 0
    for score in rng.normal(size=50).tolist():
        one.update(score)
        other.update(score)
        assert other.to_json() == one.to_json()


SAVE_FOR_EVER = """
import sys
import numpy as np
from knnspect.calibration import DriftMonitor

path, scores = sys.argv[1], np.random.default_rng(0).normal(size=20000)
one, other = DriftMonitor(scores, seed=1), DriftMonitor(scores, seed=2)
print("ready", flush=True)
while True:
    one.save(path)
    other.save(path)
"""


def test_a_kill_while_saving_leaves_the_old_or_the_new_state(tmp_path: Path) -> None:
    file = tmp_path / "drift.json"
    ks.DriftMonitor([1.0], seed=3).save(file)
    found = set()
    for kill in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", SAVE_FOR_EVER, str(file)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            before, end = file.stat().st_ino, time.monotonic() + 60
            while file.stat().st_ino == before and process.poll() is None:
                assert time.monotonic() < end, "it does not begin"
                time.sleep(0.001)
            time.sleep(0.013 * kill)
            process.kill()
        found.add(ks.DriftMonitor.load(file).to_json()["seed"])
    assert found <= {1, 2}


def with_changes(**changes: Any) -> dict[str, Any]:
    monitor = ks.DriftMonitor([1.0, 2.0])
    for score in range(40):
        monitor.update(10.0 + score)
    assert monitor.alarm is not None
    return json.loads(json.dumps(monitor.to_json() | changes))  # type: ignore[no-any-return]


BAD_STATES: dict[str, Any] = {
    "no object": [1],
    "another kind": with_changes(kind="spade"),
    "no martingale": {k: v for k, v in with_changes().items() if k != "martingale"},
    "few accounts": with_changes(
        martingale=ks.DriftMonitor().to_json()["martingale"] | {"accounts": [0.0], "n": 40}
    ),
    "endless capital": with_changes(
        martingale=ks.DriftMonitor().to_json()["martingale"] | {"idle": 1e999, "n": 40}
    ),
    "fewer scores": with_changes(scores=[1.0]),
    "text for scores": with_changes(scores="1, 2"),
    "a score that is none": with_changes(calibration_scores=[1.0, None]),
    "an impossible probability": with_changes(false_alarm_probability=1.5),
    "an alarm after the end": with_changes(alarm={"at": 3, "since": 5}),
    "a strange direction": with_changes(
        alarm={"at": 3, "since": 2, "direction": "up", "image": None, "since_image": None}
    ),
}


@pytest.mark.parametrize("kind", BAD_STATES)
def test_a_state_that_is_damaged_is_refused(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "drift.json"
    file.write_text(json.dumps(BAD_STATES[kind]))
    with pytest.raises(StoreError, match=r"drift\.json: is damaged: ") as caught:
        ks.DriftMonitor.load(file)
    assert caught.value.path == file
    with pytest.raises(StoreError, match="is damaged"):
        ks.DriftMonitor.from_json(BAD_STATES[kind])


def test_a_state_of_a_later_version_is_refused() -> None:
    with pytest.raises(StoreError, match="format version is 2, this knnspect reads 1"):
        ks.DriftMonitor.from_json(with_changes(format=2))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"false_alarm_probability": 0}, ParameterError, "false_alarm_probability: expected"),
        (
            {"false_alarm_probability": 1},
            ParameterError,
            "expected a number above 0 and below 1, got 1",
        ),
        ({"false_alarm_probability": "1"}, DTypeError, "false_alarm_probability: expected"),
        ({"calibration_scores": [1.0, np.nan]}, ParameterError, r"calibration_scores\[1\]: .*nan"),
        ({"calibration_scores": [[1.0]]}, ShapeError, r"expected shape \(n,\), got \(1, 1\)"),
        ({"calibration_scores": ["1"]}, DTypeError, "expected numbers"),
        ({"calibration_scores": range(3), "max_scores": 2}, ParameterError, r"at most 2 \(max_"),
        ({"ceiling": math.inf}, ParameterError, "ceiling: expected a finite number, got inf"),
        ({"seed": -1}, ParameterError, "seed: expected at least 0"),
        ({"max_scores": 1 << 20}, ParameterError, "max_scores: expected at most 250000"),
    ],
)
def test_a_bad_parameter_is_named(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        ks.DriftMonitor(**arguments)


def test_a_bad_score_changes_nothing() -> None:
    monitor = ks.DriftMonitor([1.0, 2.0])
    monitor.update(1.5)
    before = monitor.to_json()
    with pytest.raises(ParameterError, match="score: expected a finite number, got nan"):
        monitor.update(math.nan)
    with pytest.raises(DTypeError, match="score: expected a number, got str"):
        monitor.update("1")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=r"scores\[1\]: expected a finite number, got inf"):
        monitor.update_all([1.0, math.inf])
    with pytest.raises(ShapeError, match="images: expected 2 names, got 1"):
        monitor.update_all([1.0, 2.0], ["a.png"])
    assert monitor.to_json() == before
