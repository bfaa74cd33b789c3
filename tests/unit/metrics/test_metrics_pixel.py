from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from knnspect.errors import DTypeError, ParameterError, ShapeError
from knnspect.metrics import (
    F1Max,
    aupro,
    pixel_auroc,
    pixel_average_precision,
    pixel_f1,
    pixel_f1_max,
)


def pixel_f1_at_one(masks: Any, maps: Any) -> float:
    return pixel_f1(masks, maps, 1.0)


METRICS: list[Callable[[Any, Any], Any]] = [
    pixel_auroc,
    pixel_average_precision,
    pixel_f1_at_one,
    pixel_f1_max,
    aupro,
]
Case: TypeAlias = tuple[list[npt.NDArray[np.bool_]], list[npt.NDArray[np.float64]]]


@st.composite
def images(draw: st.DrawFn) -> Case:
    """Images of different sizes, with ties, among them images without a defect."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_values = draw(st.sampled_from([2, 5, 1000]))
    density = draw(st.sampled_from([0.05, 0.3, 0.7]))
    masks, maps = [], []
    for _ in range(draw(st.integers(1, 4))):
        shape = (draw(st.integers(1, 7)), draw(st.integers(1, 7)))
        masks.append(rng.random(shape) < density)
        maps.append(rng.integers(0, n_values, shape).astype(np.float64))
    masks.append(np.array([[True, False]]))
    maps.append(rng.integers(0, n_values, (1, 2)).astype(np.float64))
    return masks, maps


def regions_by_flooding(mask: npt.NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    left = {(int(r), int(c)) for r, c in np.argwhere(mask)}
    regions = []
    while left:
        region, edge = [], [left.pop()]
        while edge:
            row, column = edge.pop()
            region.append((row, column))
            around = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= around
            edge.extend(around)
        regions.append(region)
    return regions


def aupro_by_thresholds(masks: Any, maps: Any, max_fpr: float = 0.3) -> float:
    """From the definition: a loop over thresholds, regions by flooding, float64."""
    regions = [
        (m, r) for mask, m in zip(masks, maps, strict=True) for r in regions_by_flooding(mask)
    ]
    normal = np.concatenate([m[~mask] for mask, m in zip(masks, maps, strict=True)])
    points = [(0.0, 0.0)]
    for threshold in sorted({float(v) for m in maps for v in m.ravel()}, reverse=True):
        overlaps = [sum(m[p] >= threshold for p in r) / len(r) for m, r in regions]
        points.append((float((normal >= threshold).mean()), float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= max_fpr:
            break
        if x1 > max_fpr:
            y1 = y0 + (y1 - y0) * (max_fpr - x0) / (x1 - x0)
            x1 = max_fpr
        area += (x1 - x0) * (y0 + y1) / 2
    return area / max_fpr


def mask_of(drawing: str) -> npt.NDArray[np.bool_]:
    return np.array([[c == "#" for c in line] for line in drawing.split()])


# Two regions: A of four pixels, and B of one. Seven normal pixels.
#
#   mask      # # .      map   9 8 4
#             # # .            7 2 3
#             . . .            1 1 1
#             . . #            0 0 6
#
# Normal values: 4 3 1 1 1 0 0.
#   threshold   9    8    7    6    4    3    2    1    0
#   A          1/4  1/2  3/4  3/4  3/4  3/4   1    1    1
#   B           0    0    0    1    1    1    1    1    1
#   PRO        1/8  1/4  3/8  7/8  7/8  7/8   1    1    1
#   FPR         0    0    0    0   1/7  2/7  2/7  5/7   1
#
# Up to 2/7 the curve is level at 7/8; from there on at 1.
HAND_MASK = mask_of("##. ##. ... ..#")
HAND_MAP = np.array([[9, 8, 4], [7, 2, 3], [1, 1, 1], [0, 0, 6]], dtype=np.float32)


def test_aupro_worked_by_hand() -> None:
    assert aupro([HAND_MASK], [HAND_MAP], max_fpr=2 / 7) == pytest.approx(7 / 8)
    assert aupro([HAND_MASK], [HAND_MAP], max_fpr=0.1) == pytest.approx(7 / 8)
    assert aupro([HAND_MASK], [HAND_MAP], max_fpr=1.0) == pytest.approx(2 / 7 * 7 / 8 + 5 / 7)
    expected = (2 / 7 * 7 / 8 + (0.3 - 2 / 7)) / 0.3
    assert aupro([HAND_MASK], [HAND_MAP]) == pytest.approx(expected)


def test_aupro_of_a_tie_is_one_sloping_step() -> None:
    # One defective pixel ties with two of four normal ones, nothing lies above:
    # (0, 0) to (1/2, 1). At 0.3 the line stands at 0.6.
    mask, map_ = mask_of("#...."), np.array([[5.0, 5.0, 5.0, 1.0, 1.0]])
    assert aupro([mask], [map_]) == pytest.approx(0.3)
    assert aupro([mask], [map_], max_fpr=1.0) == pytest.approx(0.75)


def test_every_region_counts_the_same_in_aupro_but_not_in_pixel_auroc() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[:10, :10] = True
    mask[15, 15] = True
    finds_large, finds_small = np.zeros((20, 20)), np.zeros((20, 20))
    finds_large[:10, :10] = 1
    finds_small[15, 15] = 1
    # One of two regions at once, the other with all normal pixels: from 1/2 to 1.
    expected = (0.5 + (0.5 + 0.3 / 2)) / 2
    assert aupro([mask], [finds_large]) == pytest.approx(expected)
    assert aupro([mask], [finds_small]) == pytest.approx(expected)
    assert pixel_auroc([mask], [finds_large]) == pytest.approx((100 + 0.5) / 101)
    assert pixel_auroc([mask], [finds_small]) == pytest.approx((1 + 50) / 101)


def test_pixels_that_touch_by_a_corner_are_one_region() -> None:
    # One region of A and B, and C alone; only C is found. Were A and B two regions, the overlap
    # would be one third.
    #   A . . C
    #   . B . .
    mask = mask_of("#..# .#..")
    map_ = np.array([[0, 1, 1, 2], [1, 0, 1, 1]], dtype=np.float64)
    assert aupro([mask], [map_], max_fpr=1e-9) == pytest.approx(1 / 2)


def test_regions_of_two_images_are_not_joined() -> None:
    masks = [np.array([[False, True]]), np.array([[True, False]])]
    maps = [np.array([[1.0, 2.0]]), np.array([[0.0, 1.0]])]
    assert aupro(masks, maps, max_fpr=1e-9) == pytest.approx(1 / 2)


def test_perfect_inverted_and_constant_maps() -> None:
    perfect = HAND_MASK.astype(np.float64)
    assert pixel_auroc([HAND_MASK], [perfect]) == 1
    assert aupro([HAND_MASK], [perfect]) == 1
    assert pixel_auroc([HAND_MASK], [-perfect]) == 0
    assert aupro([HAND_MASK], [-perfect]) == 0
    assert pixel_auroc([HAND_MASK], [0 * perfect]) == 0.5
    assert aupro([HAND_MASK], [0 * perfect]) == pytest.approx(0.15)
    assert aupro([HAND_MASK], [0 * perfect], max_fpr=1.0) == pytest.approx(0.5)


def test_images_without_a_defect_and_images_that_are_all_defect() -> None:
    masks = [np.zeros((1, 3), dtype=bool), np.ones((2, 1), dtype=bool)]
    maps = [np.array([[3.0, 1.0, 0.0]]), np.array([[4.0], [2.0]])]
    # Half the region at once, the rest after one of three normal pixels.
    assert aupro(masks, maps, max_fpr=1.0) == pytest.approx(1 / 3 * 1 / 2 + 2 / 3)
    assert pixel_auroc(masks, maps) == pytest.approx(5 / 6)


@settings(deadline=None)
@given(images(), st.sampled_from([0.01, 0.3, 0.5, 1.0]))
def test_aupro_agrees_with_the_definition(case: Case, max_fpr: float) -> None:
    assert aupro(*case, max_fpr) == pytest.approx(aupro_by_thresholds(*case, max_fpr), abs=1e-9)


@settings(deadline=None)
@given(images())
def test_pixel_auroc_agrees_with_the_definition(case: Case) -> None:
    defective = np.concatenate([m[mask] for mask, m in zip(*case, strict=True)])[:, np.newaxis]
    normal = np.concatenate([m[~mask] for mask, m in zip(*case, strict=True)])
    won = (defective > normal).mean() + (defective == normal).mean() / 2
    assert pixel_auroc(*case) == pytest.approx(won)


@settings(deadline=None)
@given(images())
def test_pixel_auroc_agrees_with_scikit_learn(case: Case) -> None:
    is_defective, values = (np.concatenate([x.ravel() for x in arrays]) for arrays in case)
    assert pixel_auroc(*case) == pytest.approx(roc_auc_score(is_defective, values))


# Of HAND_MASK and HAND_MAP, from the highest value down: the defective pixels are 9 8 7 6 and 2.
#
#   threshold   9    8    7    6    4    3    2    1    0
#   called      1    2    3    4    5    6    7   10   12
#   found       1    2    3    4    4    4    5    5    5
#   F1         2/6  4/7  6/8  8/9 8/10 8/11 10/12
#
# average precision  4/5 * 1 + 1/5 * 5/7
def test_average_precision_and_f1_worked_by_hand() -> None:
    case = [HAND_MASK], [HAND_MAP]
    assert pixel_average_precision(*case) == pytest.approx(4 / 5 + 1 / 7)
    assert pixel_f1_max(*case) == pytest.approx((8 / 9, 6.0))
    assert pixel_f1(*case, 6) == pytest.approx(8 / 9)
    assert pixel_f1(*case, 4.5) == pytest.approx(8 / 9)
    assert pixel_f1(*case, 3) == pytest.approx(8 / 11)
    assert pixel_f1(*case, 9.5) == 0
    assert pixel_f1(*case, -np.inf) == pytest.approx(10 / 17)
    assert [type(value) for value in pixel_f1_max(*case)] == [float, float]
    assert type(pixel_f1(*case, np.float32(3))) is float
    assert type(pixel_average_precision(*case)) is float


def test_pixel_f1_max_takes_the_highest_of_equal_thresholds() -> None:
    # 2/3 at 4, with one pixel called, and 2/3 at 1, with four.
    assert pixel_f1_max([mask_of("#..#")], [[[4, 3, 2, 1]]]) == F1Max(2 / 3, 4.0)


@settings(deadline=None)
@given(images())
def test_average_precision_and_f1_agree_with_the_definitions(case: Case) -> None:
    is_defective, values = (np.concatenate([x.ravel() for x in arrays]) for arrays in case)
    expected = average_precision_score(is_defective, values)
    assert pixel_average_precision(*case) == pytest.approx(expected, abs=1e-12)
    thresholds = sorted(set(values), reverse=True)
    called = [values >= threshold for threshold in thresholds]
    n_defective = is_defective.sum()
    by_threshold = [2 * (c & is_defective).sum() / (c.sum() + n_defective) for c in called]
    found = pixel_f1_max(*case)
    assert found.f1 == pytest.approx(max(by_threshold))
    assert found.threshold == next(
        t for t, f1 in zip(thresholds, by_threshold, strict=True) if f1 > found.f1 - 1e-12
    )
    for threshold, expected in zip(thresholds[:3], by_threshold, strict=False):
        assert pixel_f1(*case, threshold) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_threshold_is_not_rounded_to_the_type_of_the_map(dtype: type[np.generic]) -> None:
    map_ = np.array([[0.3, 0.1]]).astype(dtype)
    value = float(map_[0, 0])
    assert pixel_f1([mask_of("#.")], [map_], value) == 1
    assert pixel_f1([mask_of("#.")], [map_], value + 1e-12) == 0


@settings(deadline=None)
@given(images(), st.sampled_from([np.sqrt, lambda v: 5 * v - 3, lambda v: v**3]))
def test_only_the_order_of_values_matters(
    case: Case, transform: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
) -> None:
    masks, maps = case
    moved = [transform(m) for m in maps]
    assert aupro(masks, moved) == aupro(masks, maps)
    assert pixel_auroc(masks, moved) == pixel_auroc(masks, maps)
    assert pixel_average_precision(masks, moved) == pixel_average_precision(masks, maps)
    assert pixel_f1_max(masks, moved).f1 == pixel_f1_max(masks, maps).f1


@settings(deadline=None)
@given(images())
def test_the_order_of_images_does_not_matter(case: Case) -> None:
    masks, maps = case
    assert aupro(masks[::-1], maps[::-1]) == pytest.approx(aupro(masks, maps))
    for metric in METRICS:
        assert metric(masks[::-1], maps[::-1]) == pytest.approx(metric(masks, maps))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8])
def test_one_array_of_all_images_any_real_dtype_read_only(dtype: type[np.generic]) -> None:
    masks = np.stack([HAND_MASK, ~HAND_MASK])
    maps = np.stack([HAND_MAP, HAND_MAP]).astype(dtype)
    masks.flags.writeable = maps.flags.writeable = False
    expected = aupro_by_thresholds(masks, maps.astype(np.float64))
    assert aupro(masks, maps) == pytest.approx(expected)
    assert type(aupro(masks, maps)) is float
    assert type(pixel_auroc(masks, maps)) is float
    # The input is as it was.
    np.testing.assert_array_equal(maps[0], HAND_MAP.astype(dtype))


GOOD_MASK, GOOD_MAP = [[True, False]], [[1.0, 0.0]]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("mask", "map_", "error", "message"),
    [
        ([True, False], GOOD_MAP, ShapeError, r"masks\[1\]: expected shape .* got \(2,\)"),
        (GOOD_MASK, [[[1.0, 0.0]]], ShapeError, r"maps\[1\]: expected shape .* got \(1, 1, 2\)"),
        (GOOD_MASK, [[1.0], []], ShapeError, r"maps\[1\]: .* got rows of different lengths"),
        (GOOD_MASK, [[1.0]], ShapeError, r"maps\[1\]: expected \(1, 2\), .* got \(1, 1\)"),
        ([[1, 0]], GOOD_MAP, DTypeError, r"masks\[1\]: expected bool, got int64"),
        (GOOD_MASK, [["a", "b"]], DTypeError, r"maps\[1\]: expected real numbers, got <U1"),
        (GOOD_MASK, [[0.0, np.nan]], ParameterError, r"maps\[1\]: .* got nan at \(0, 1\)"),
        (GOOD_MASK, [[np.inf, 0.0]], ParameterError, r"maps\[1\]: .* got inf at \(0, 0\)"),
    ],
)
def test_bad_images_are_refused_by_index(
    metric: Callable[[Any, Any], Any],
    mask: Any,
    map_: Any,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        metric([GOOD_MASK, mask], [GOOD_MAP, map_])


@pytest.mark.parametrize("metric", METRICS)
def test_bad_sets_are_refused(metric: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(ShapeError, match="one map per mask, got 2 masks and 1 maps"):
        metric([GOOD_MASK, GOOD_MASK], [GOOD_MAP])
    with pytest.raises(ParameterError, match="got 0 defective and 2 normal"):
        metric([[[False, False]]], [GOOD_MAP])
    with pytest.raises(ParameterError, match="got 2 defective and 0 normal"):
        metric([[[True, True]]], [GOOD_MAP])
    with pytest.raises(ParameterError, match="got 0 defective and 0 normal"):
        metric([], [])


@pytest.mark.parametrize("max_fpr", [0.0, -0.1, 1.1, float("nan")])
def test_max_fpr_is_checked(max_fpr: float) -> None:
    with pytest.raises(ParameterError, match=rf"max_fpr: .* at most 1, got {max_fpr}"):
        aupro([GOOD_MASK], [GOOD_MAP], max_fpr=max_fpr)


def test_a_threshold_that_is_no_number_is_refused() -> None:
    with pytest.raises(ParameterError, match="threshold: expected a number, got nan"):
        pixel_f1([GOOD_MASK], [GOOD_MAP], np.nan)
