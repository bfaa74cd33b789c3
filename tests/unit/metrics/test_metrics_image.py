from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knnspect.errors import DTypeError, ParameterError, ShapeError
from knnspect.metrics import F1Max, auroc, average_precision, f1, f1_max


def f1_at_one(labels: Any, scores: Any) -> float:
    return f1(labels, scores, 1.0)


METRICS: list[Callable[[Any, Any], Any]] = [auroc, average_precision, f1_max, f1_at_one]
MONOTONE: list[Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = [
    lambda s: 3 * s - 7,
    np.exp,
    lambda s: s**3,
    np.arctan,
]


@st.composite
def labelled_scores(
    draw: st.DrawFn,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Both classes present, and few distinct scores, so that ties are common."""
    n = draw(st.integers(2, 25))
    labels = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    labels[:2] = [True, False]
    scores = draw(st.lists(st.integers(-4, 4), min_size=n, max_size=n))
    return labels, np.array(scores, dtype=np.float64)


def auroc_by_pairs(labels: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> float:
    pairs = [(d, n) for d in scores[labels] for n in scores[~labels]]
    return sum(1.0 if d > n else 0.5 if d == n else 0.0 for d, n in pairs) / len(pairs)


def called_and_found(
    labels: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64], threshold: float
) -> tuple[int, int]:
    called = scores >= threshold
    return int(called.sum()), int((called & labels).sum())


def average_precision_by_steps(
    labels: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]
) -> float:
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        called, found = called_and_found(labels, scores, threshold)
        recall = found / labels.sum()
        total += (recall - recall_before) * found / called
        recall_before = recall
    return total


def f1_by_thresholds(labels: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> F1Max:
    best = F1Max(-1.0, np.inf)
    for threshold in sorted(set(scores), reverse=True):
        called, found = called_and_found(labels, scores, threshold)
        f1 = 2 * found / (called + int(labels.sum()))
        if f1 > best.f1:
            best = F1Max(f1, float(threshold))
    return best


# Worked by hand, d defective, n normal, from the highest score down:
#
#   score      0.9  0.8  0.7  0.7  0.5  0.1
#   class       d    n    d    n    d    n
#
# pairs won  0.9: 3;  0.7: over 0.1, and half of the tie: 1.5;  0.5: over 0.1: 1.  5.5 of 9.
# threshold  called  found  precision  recall   F1
#    0.9       1       1       1        1/3    2/4
#    0.8       2       1      1/2       1/3    2/5
#    0.7       4       2      1/2       2/3    4/7
#    0.5       5       3      3/5       1      6/8   <- best
#    0.1       6       3      1/2       1      6/9
# average precision  1/3 * 1 + 1/3 * 1/2 + 1/3 * 3/5 = 0.7
HAND_LABELS = [1, 0, 1, 0, 1, 0]
HAND_SCORES = [0.9, 0.8, 0.7, 0.7, 0.5, 0.1]


def test_worked_by_hand() -> None:
    assert auroc(HAND_LABELS, HAND_SCORES) == pytest.approx(5.5 / 9)
    assert average_precision(HAND_LABELS, HAND_SCORES) == pytest.approx(0.7)
    assert f1_max(HAND_LABELS, HAND_SCORES) == pytest.approx((0.75, 0.5))


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(1.0, 0), (0.9, 2 / 4), (0.75, 2 / 5), (0.7, 4 / 7), (0.5, 6 / 8), (-np.inf, 6 / 9)],
)
def test_f1_at_a_threshold_worked_by_hand(threshold: float, expected: float) -> None:
    assert f1(HAND_LABELS, HAND_SCORES, threshold) == pytest.approx(expected)


def test_a_threshold_is_not_rounded_to_the_type_of_the_scores() -> None:
    scores = np.array([0.25, 0.3, 0.1], np.float32)  # 0.3 becomes 0.300000012
    assert f1([1, 1, 0], scores, 0.3) == pytest.approx(2 / 3)
    assert f1([1, 1, 0], scores, float(scores[1])) == pytest.approx(2 / 3)
    assert f1([1, 1, 0], scores, float(scores[1]) + 1e-12) == 0
    assert f1([1, 1, 0], scores, np.nextafter(float(scores[1]), np.inf)) == 0


@pytest.mark.parametrize("threshold", [np.nan, "high", None])
def test_a_threshold_that_is_no_number_is_refused(threshold: Any) -> None:
    with pytest.raises(ParameterError, match=f"threshold: expected a number, got {threshold!r}"):
        f1([0, 1], [1, 2], threshold)


def test_results_are_plain_floats() -> None:
    assert type(f1(HAND_LABELS, np.array(HAND_SCORES, np.float32), 0.5)) is float
    assert type(auroc(HAND_LABELS, HAND_SCORES)) is float
    assert type(average_precision(HAND_LABELS, HAND_SCORES)) is float
    assert [type(x) for x in f1_max(HAND_LABELS, HAND_SCORES)] == [float, float]


def test_perfect_inverted_and_constant_scores() -> None:
    labels = [False, False, True]
    assert auroc(labels, [1, 2, 3]) == 1
    assert average_precision(labels, [1, 2, 3]) == 1
    assert f1_max(labels, [1, 2, 3]) == F1Max(1.0, 3.0)
    assert auroc(labels, [3, 2, 1]) == 0
    assert average_precision(labels, [3, 2, 1]) == pytest.approx(1 / 3)
    assert f1_max(labels, [3, 2, 1]) == pytest.approx((0.5, 1.0))
    assert auroc(labels, [5, 5, 5]) == 0.5
    assert average_precision(labels, [5, 5, 5]) == pytest.approx(1 / 3)
    assert f1_max(labels, [5, 5, 5]) == pytest.approx((0.5, 5.0))


def test_f1_max_takes_the_highest_of_equal_thresholds() -> None:
    # d n n d: F1 is 2/3 at 4, with one image called, and 2/3 at 1, with four.
    assert f1_max([1, 0, 0, 1], [4, 3, 2, 1]) == pytest.approx((2 / 3, 4.0))


@settings(deadline=None)
@given(labelled_scores())
def test_agree_with_the_definitions(
    case: tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]],
) -> None:
    assert auroc(*case) == pytest.approx(auroc_by_pairs(*case))
    assert average_precision(*case) == pytest.approx(average_precision_by_steps(*case))
    expected = f1_by_thresholds(*case)
    assert f1_max(*case) == pytest.approx((expected.f1, expected.threshold))
    assert f1(*case, expected.threshold) == pytest.approx(expected.f1)


@settings(deadline=None)
@given(labelled_scores(), st.sampled_from(MONOTONE))
def test_only_the_order_of_scores_matters(
    case: tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]],
    transform: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
) -> None:
    labels, scores = case
    moved = transform(scores)
    assert auroc(labels, moved) == auroc(labels, scores)
    assert average_precision(labels, moved) == average_precision(labels, scores)
    before, after = f1_max(labels, scores), f1_max(labels, moved)
    assert after.f1 == before.f1
    assert after.threshold == transform(np.array([before.threshold]))[0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_any_real_scores_and_labels(dtype: type[np.generic]) -> None:
    scores = np.array([4, 3, 2, 2, 1, 0]).astype(dtype)
    for label_dtype in (bool, np.uint8, np.int64, np.float32):
        labels = np.array(HAND_LABELS).astype(label_dtype)
        assert auroc(labels, scores) == pytest.approx(5.5 / 9)
        assert average_precision(labels, scores) == pytest.approx(0.7)
        assert f1_max(labels, scores) == pytest.approx((0.75, 1.0))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("labels", "scores", "error", "message"),
    [
        ([1, 0], [1, 2, 3], ShapeError, r"one score per label, got 2 labels and 3 scores"),
        ([[1, 0]], [1, 2], ShapeError, r"is_defective: expected shape \(n_images,\), got \(1, 2\)"),
        ([1, 0], [[1], [2]], ShapeError, r"scores: expected shape \(n_images,\), got \(2, 1\)"),
        ([1, 0], 3.0, ShapeError, r"scores: expected shape \(n_images,\), got \(\)"),
        ([1, 0], [[1], [2, 3]], ShapeError, r"scores: .* nested sequences of different lengths"),
        (["a", "b"], [1, 2], DTypeError, r"is_defective: expected real numbers, got <U1"),
        ([1, 0], [1j, 2], DTypeError, r"scores: expected real numbers, got complex128"),
        ([1, 2], [1, 2], ParameterError, r"is_defective: .* got 2 at index 1"),
        ([np.nan, 1.0], [1, 2], ParameterError, r"is_defective: .* got nan at index 0"),
        ([1, 0], [1, np.nan], ParameterError, r"scores: expected finite .* got nan at index 1"),
        ([1, 0], [np.inf, 1], ParameterError, r"scores: expected finite .* got inf at index 0"),
        ([0, 0], [1, 2], ParameterError, r"at least one .* got 0 defective and 2 normal"),
        ([1, 1], [1, 2], ParameterError, r"at least one .* got 2 defective and 0 normal"),
        ([], [], ParameterError, r"at least one .* got 0 defective and 0 normal"),
    ],
)
def test_bad_input_is_refused(
    metric: Callable[[Any, Any], Any],
    labels: Any,
    scores: Any,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        metric(labels, scores)


def test_importing_costs_only_numpy() -> None:
    code = (
        "import sys, knnspect.metrics\n"
        "print(sorted({'torch', 'sklearn', 'scipy', 'timm', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
