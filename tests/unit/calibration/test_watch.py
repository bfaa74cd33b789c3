"""Several quantities of images, watched with one probability of a false alarm."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from knnspect.calibration import QUANTITIES, DriftWatch, quantities
from knnspect.errors import DTypeError, ParameterError, ShapeError, StoreError


def test_any_alarm_without_a_change_is_as_rare_as_promised() -> None:
    """Also of quantities that are all the same; 4 standard deviations for chance."""
    rng = np.random.default_rng(0)
    n_runs, n_alarms, probability = 60, 0, 0.2
    for seed in range(n_runs):
        watch = DriftWatch(
            {"a": rng.normal(size=10), "b": ()}, false_alarm_probability=probability, seed=seed
        )
        for value in rng.normal(size=150).tolist():
            watch.update({"a": value, "b": value})
        n_alarms += bool(watch.alarms)
    mean = n_runs * probability
    assert n_alarms <= mean + 4 * math.sqrt(mean * (1 - probability))


def test_the_quantity_that_changed_is_named() -> None:
    rng = np.random.default_rng(1)
    watch = DriftWatch(dict.fromkeys("abc", ()))
    found: dict[str, Any] = {}
    for index in range(160):
        values = dict(zip("abc", rng.normal(size=3), strict=True))
        values["b"] -= 4 * (index >= 100)
        found |= watch.update(values, f"{index}.png")
    assert set(found) == {"b"}
    assert found == watch.alarms
    assert (found["b"].direction, found["b"].since_image) == ("lower", "100.png")
    assert watch.last_image == "159.png"


def test_what_was_saved_goes_on_to_the_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    watch = DriftWatch({"a": rng.normal(size=9), "b": ()}, seed=5, false_alarm_probability=0.05)
    for _ in range(40):
        watch.update({"a": rng.normal(), "b": 0.5}, "x.png")
    watch.save(tmp_path / "drift.json")
    other = DriftWatch.load(tmp_path / "drift.json")
    for _ in range(40):
        value = rng.normal()
        watch.update({"a": value, "b": value})
        other.update({"a": value, "b": value})
        assert other.to_json() == watch.to_json()


def test_bad_quantities_change_nothing() -> None:
    watch = DriftWatch({"a": (), "b": ()})
    watch.update({"a": 1, "b": 2}, "0.png")
    before = watch.to_json()
    with pytest.raises(ParameterError, match=r"expected a, b, got a$"):
        watch.update({"a": 1.0})
    with pytest.raises(ParameterError, match="b: expected a finite number, got nan"):
        watch.update({"a": 1.0, "b": math.nan})
    assert watch.to_json() == before
    with pytest.raises(ParameterError, match="expected quantities, got none"):
        DriftWatch({})
    with pytest.raises(
        ParameterError, match="false_alarm_probability: expected a number above 0 and below 1"
    ):
        DriftWatch({"a": ()}, false_alarm_probability=1.5)
    with pytest.raises(DTypeError, match="false_alarm_probability: expected a number"):
        DriftWatch({"a": ()}, false_alarm_probability="1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "drift"},
        {"monitors": {}},
        {"monitors": []},
        {"monitors": {"a": 3}},
        {"last_image": 3},
        {"false_alarm_probability": None},
    ],
)
def test_a_damaged_state_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "drift.json").write_text(json.dumps(DriftWatch({"a": ()}).to_json() | changes))
    with pytest.raises(StoreError, match=r"drift\.json: is damaged"):
        DriftWatch.load(tmp_path / "drift.json")


def test_monitors_of_other_numbers_of_images_are_refused() -> None:
    one, other = DriftWatch({"a": (), "b": ()}), DriftWatch({"a": (), "b": ()})
    other.update({"a": 1, "b": 1})
    state = one.to_json()
    state["monitors"]["b"] = other.to_json()["monitors"]["b"]
    with pytest.raises(StoreError, match="expected monitors of the same images"):
        DriftWatch.from_json(state)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_quantities_follow_light_and_focus(dtype: type[np.generic]) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (30, 40, 3)).astype(np.uint8)
    dark, flat = picture // 2, np.repeat(picture[:, ::2], 2, axis=1)
    if dtype == np.float32:
        picture, dark, flat = (each / np.float32(255) for each in (picture, dark, flat))
    map_ = np.arange(9.0, dtype=np.float32).reshape(3, 3)
    found = [quantities(7.5, map_, each) for each in (picture, dark, flat)]
    assert tuple(found[0]) == QUANTITIES
    assert found[0]["score"] == 7.5
    assert found[0]["map median"] == 4.0
    assert found[0]["brightness"] == pytest.approx(0.5, abs=0.01)
    assert found[1]["brightness"] == pytest.approx(0.25, abs=0.01)
    assert found[2]["sharpness"] < 0.6 * found[0]["sharpness"]
    grey = picture.astype(float).mean(axis=2) / (1 if dtype == np.float32 else 255)
    assert found[0]["sharpness"] == pytest.approx(np.abs(np.diff(grey, axis=1)).mean())


def test_of_a_large_picture_some_rows_are_looked_at() -> None:
    picture = np.zeros((3000, 1000, 3), np.uint8)
    picture[::3] = 255
    assert quantities(0.0, np.zeros((1, 1)), picture)["brightness"] == 1.0


def test_another_shape_is_named() -> None:
    with pytest.raises(ShapeError, match=r"got \(3, 3\) and \(3, 3\)"):
        quantities(0.0, np.zeros((3, 3)), np.zeros((3, 3), np.uint8))
