"""Checks of parameters."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from knnspect.calibration import DriftMonitor
from knnspect.calibration.conformal import n_needed
from knnspect.detectors import Spade
from knnspect.errors import DTypeError, KnnspectError, ParameterError
from knnspect.metrics.rates import calibration_curve, rate, verdicts
from knnspect.validation import check_choice, check_count, check_positive


@pytest.mark.parametrize("value", [1, 7, np.int64(3), np.uint8(255), 10**12])
def test_a_count_becomes_a_plain_integer(value: Any) -> None:
    checked = check_count("k", value)
    assert checked == value
    assert type(checked) is int


@pytest.mark.parametrize("value", [1.0, "1", None, True, np.float32(2), np.bool_(True), [1]])
def test_a_count_of_another_type_is_named(value: Any) -> None:
    with pytest.raises(DTypeError, match=f"^k: expected an integer, got {type(value).__name__}$"):
        check_count("k", value)


@pytest.mark.parametrize(("value", "minimum"), [(0, 1), (-5, 1), (2, 3), (-1, 0)])
def test_a_count_below_the_minimum_is_named(value: int, minimum: int) -> None:
    with pytest.raises(ParameterError, match=f"^k: expected at least {minimum}, got {value}$"):
        check_count("k", value, minimum)
    assert check_count("k", minimum, minimum) == minimum


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int16(4), 1e-300])
def test_a_positive_number_becomes_a_plain_float(value: Any) -> None:
    checked = check_positive("sigma", value)
    assert checked == value
    assert type(checked) is float


@pytest.mark.parametrize("value", ["4", None, True, 1j, [1.0]])
def test_a_number_of_another_type_is_named(value: Any) -> None:
    with pytest.raises(DTypeError, match=r"^sigma: expected a number, got"):
        check_positive("sigma", value)


@pytest.mark.parametrize("value", [-1, -1e-300, float("nan"), float("inf"), float("-inf")])
def test_a_number_out_of_range_is_named(value: float) -> None:
    for or_zero in (False, True):
        with pytest.raises(ParameterError, match=r"^sigma: expected a finite number .*, got"):
            check_positive("sigma", value, or_zero)


def test_zero_is_positive_only_when_allowed() -> None:
    assert check_positive("sigma", 0, or_zero=True) == 0
    with pytest.raises(ParameterError, match="above 0, got 0"):
        check_positive("sigma", 0)


@pytest.mark.parametrize("value", [0, 1, 1.0, -0.5, 2, float("nan"), float("inf"), np.float32(1)])
def test_a_rate_out_of_range_is_named_in_the_same_words_everywhere(value: float) -> None:
    words = f"expected a number above 0 and below 1, got {re.escape(str(value))}$"
    scores = [0.25, 0.5]
    checks: list[tuple[str, Callable[[], object]]] = [
        ("false_alarm_rate", lambda: verdicts(scores, value)),
        ("false_alarm_rate", lambda: n_needed(value)),
        ("false_alarm_rate", lambda: Spade(false_alarm_rate=value).check_params()),
        ("confidence", lambda: rate(1, 2, confidence=value)),
        (r"rates\[0\]", lambda: calibration_curve(scores, [value])),
        ("false_alarm_probability", lambda: DriftMonitor(scores, false_alarm_probability=value)),
    ]
    for name, check in checks:
        with pytest.raises(ParameterError, match=f"^{name}: {words}"):
            check()


def test_a_choice_is_one_of_the_words() -> None:
    assert check_choice("score", "map", ["image", "map"]) == "map"
    for value in ("Map", "", 3, None, ["map"]):
        with pytest.raises(ParameterError, match=r"^score: expected one of 'image', 'map', got"):
            check_choice("score", value, ["image", "map"])


@pytest.mark.parametrize(
    ("check", "builtin"),
    [
        (lambda: check_count("k", 0), ValueError),
        (lambda: check_count("k", 1.5), TypeError),
        (lambda: check_positive("sigma", -1), ValueError),
        (lambda: check_positive("sigma", "a"), TypeError),
        (lambda: check_choice("score", "a", ["b"]), ValueError),
    ],
)
def test_errors_are_of_the_family_and_of_the_builtin_kind(
    check: Callable[[], object], builtin: type[Exception]
) -> None:
    with pytest.raises(builtin) as raised:
        check()
    assert isinstance(raised.value, KnnspectError)
