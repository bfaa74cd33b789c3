"""All figures of pixels from one sort, sums of scores, and AUPIMO."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knnspect import metrics
from knnspect.errors import DTypeError, ParameterError, ShapeError
from knnspect.metrics import PixelScores, aupimo

Floats: TypeAlias = npt.NDArray[np.float64]
Case: TypeAlias = tuple[list[npt.NDArray[np.bool_]], list[Floats]]


@st.composite
def images(draw: st.DrawFn) -> Case:
    """Normal and defective images of different sizes, in any order, with ties."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_values = draw(st.sampled_from([3, 30, 10_000]))
    kinds = ["normal", "defective", *draw(st.lists(st.sampled_from(["normal", "defective"])))]
    masks, maps = [], []
    for kind in rng.permutation(kinds):
        shape = (int(rng.integers(1, 12)), int(rng.integers(2, 12)))
        mask = np.zeros(shape, bool)
        if kind == "defective":
            mask |= rng.random(shape) < 0.4
            mask[0, 0] = True
        masks.append(mask)
        maps.append(rng.integers(0, n_values, shape) + rng.integers(0, n_values) * mask * 1.0)
    return masks, maps


def aupimo_by_thresholds(masks: Any, maps: Any, low: float, high: float) -> list[float]:
    """From the definition, in float64: for each rate, the lowest threshold that keeps to it."""
    normal = [map_ for mask, map_ in zip(masks, maps, strict=True) if not mask.any()]
    candidates = sorted({float(value) for map_ in maps for value in map_.ravel()})
    candidates.append(math.inf)
    rates = [float(np.mean([(map_ >= t).mean() for map_ in normal])) for t in candidates]
    edges = sorted({low, high, *(rate for rate in rates if low < rate < high)})
    areas = []
    for mask, map_ in zip(masks, maps, strict=True):
        if not mask.any():
            areas.append(math.nan)
            continue
        area = 0.0
        for start, end in pairwise(edges):
            middle = math.sqrt(start * end)
            threshold = next(t for t, rate in zip(candidates, rates, strict=True) if rate <= middle)
            area += float((map_[mask] >= threshold).mean()) * math.log(end / start)
        areas.append(area / math.log(high / low))
    return areas


class TestAupimo:
    # Normal values 8 5 5 2 of one image and 6 1 of another: a threshold at 8 has the rate
    # (1/4 + 0) / 2 = 1/8; at 6, 3/8; at 5, 5/8; at 2, 6/8; at 1, 1.
    # The defective pixels 9 7 5 are found from the rates 0, 1/8 and 5/8 on. From 1/16 to 1, which
    # is four octaves, that leaves 4, 3 and log2(8/5) of them.
    MASKS = ([[False] * 4], [[True, True], [True, False]], [[False], [False]])
    MAPS = ([[8, 5, 5, 2]], [[9, 7], [5, 0]], [[6], [1]])

    def test_is_worked_out_by_hand(self) -> None:
        areas = aupimo(self.MASKS, self.MAPS, fpr_range=(1 / 4, 1.0))
        octaves = 2 + 2 + math.log2(8 / 5)
        np.testing.assert_allclose(areas, [np.nan, octaves / 6, np.nan])
        assert areas.dtype == np.float64
        found = aupimo_by_thresholds(
            [np.array(m) for m in self.MASKS], [np.array(m) for m in self.MAPS], 1 / 4, 1.0
        )
        np.testing.assert_allclose(areas, found)

    @settings(deadline=None)
    @given(images(), st.sampled_from([(0.2, 1.0), (0.3, 0.5), (0.25, 0.26)]))
    def test_agrees_with_the_definition(self, case: Case, fpr_range: tuple[float, float]) -> None:
        n_normal = sum(mask.size for mask in case[0] if not mask.any())
        if n_normal * fpr_range[0] < 1:
            with pytest.raises(ParameterError, match=f"got {n_normal} in "):
                aupimo(*case, fpr_range)
            return
        expected = aupimo_by_thresholds(*case, *fpr_range)
        np.testing.assert_allclose(aupimo(*case, fpr_range), expected, atol=1e-12)

    @pytest.mark.parametrize("n_values", [50, 10**6])
    def test_agrees_with_the_definition_at_the_usual_rates(self, n_values: int) -> None:
        rng = np.random.default_rng(0)
        masks = [np.zeros((300, 250), bool) for _ in range(3)]
        values = rng.integers(0, n_values, (3, 300, 250)).astype(np.float32)
        maps = list(np.where(rng.random(values.shape) < 0.002, values, 0))  # few, or it takes long
        masks[2][:20, :20] = True
        maps[2][:20, :12] = values[2, :20, :12] + np.float32(0.7 * n_values)
        areas = aupimo(masks, maps)
        expected = aupimo_by_thresholds(masks, maps, 1e-5, 1e-4)
        np.testing.assert_allclose(areas, expected, atol=1e-9)
        assert 0.1 < areas[2] < 0.7

    def test_the_bounds_are_one_and_zero(self) -> None:
        masks = [np.zeros((400, 250), bool), np.ones((2, 3), bool), np.ones((2, 3), bool)]
        maps = [np.ones((400, 250)), np.full((2, 3), 1.5), np.full((2, 3), 1.0)]
        np.testing.assert_array_equal(aupimo(masks, maps), [np.nan, 1, 0])

    def test_normal_pixels_of_defective_images_do_not_count(self) -> None:
        mask = np.zeros((400, 250), bool)
        mask[0, 0] = True
        map_ = np.full((400, 250), 9.0)  # above all that is normal
        masks, maps = [np.zeros((400, 250), bool), mask], [np.zeros((400, 250)), map_]
        assert aupimo(masks, maps)[1] == 1

    def test_an_image_without_pixels_changes_nothing(self) -> None:
        expected = aupimo(self.MASKS, self.MAPS, (0.25, 1.0))
        masks: list[Any] = [*self.MASKS, np.zeros((0, 3), bool)]
        np.testing.assert_array_equal(
            aupimo(masks, [*self.MAPS, np.zeros((0, 3))], (0.25, 1.0)), [*expected, np.nan]
        )

    def test_needs_a_normal_pixel_for_each_part_of_the_lower_rate(self) -> None:
        masks = [np.zeros((300, 333), bool), np.ones((1, 1), bool)]
        maps = [np.zeros((300, 333)), np.ones((1, 1))]
        words = (
            "masks: expected at least 100,000 pixels in images without a defect, of which a "
            "false-positive rate of 1e-05 is one pixel, got 99,900 in 1 images"
        )
        with pytest.raises(ParameterError, match=words):
            aupimo(masks, maps)
        assert aupimo(masks, maps, fpr_range=(1 / 99_900, 1e-4))[1] == 1
        with pytest.raises(ParameterError, match="got 0 in 0 images"):
            aupimo([[[True, False]]], [[[1.0, 2.0]]])
        with pytest.raises(ParameterError, match="got 0 defective and 99900 normal"):
            aupimo(masks[:1], maps[:1])

    @pytest.mark.parametrize(
        "fpr_range",
        [(0.0, 0.1), (0.1, 0.1), (0.2, 0.1), (0.1, 1.1), (math.nan, 0.1), (0.1,), 0.1, "ab"],
    )
    def test_the_range_is_checked(self, fpr_range: Any) -> None:
        with pytest.raises(ParameterError, match="fpr_range: expected two false-positive rates"):
            aupimo(self.MASKS, self.MAPS, fpr_range)


def figures(scores: PixelScores) -> list[float]:
    return [
        scores.auroc(),
        scores.average_precision(),
        *scores.f1_max(),
        scores.f1(2.5),
        scores.aupro(),
        scores.aupro(0.05),
        *scores.aupimo((0.4, 0.9)),
    ]


def figures_by_functions(masks: Any, maps: Any) -> list[float]:
    return [
        metrics.pixel_auroc(masks, maps),
        metrics.pixel_average_precision(masks, maps),
        *metrics.pixel_f1_max(masks, maps),
        metrics.pixel_f1(masks, maps, 2.5),
        metrics.aupro(masks, maps),
        metrics.aupro(masks, maps, 0.05),
        *metrics.aupimo(masks, maps, (0.4, 0.9)),
    ]


def case_of(seed: int, n_images: int) -> Case:
    rng = np.random.default_rng(seed)
    shapes = [(int(rng.integers(3, 9)), int(rng.integers(3, 9))) for _ in range(n_images)]
    masks = [rng.random(shape) < (0.2 if i % 2 else 0) for i, shape in enumerate(shapes)]
    masks[1][1, 1] = True
    return masks, [rng.integers(0, 6, shape).astype(np.float64) for shape in shapes]


def test_one_object_gives_the_figures_of_all_functions_in_any_order() -> None:
    case = case_of(seed=1, n_images=6)
    expected = figures_by_functions(*case)
    scores = PixelScores(*case)
    assert len(scores) == 6
    assert scores.n_defective == sum(mask.sum() for mask in case[0])
    assert scores.n_normal == sum((~mask).sum() for mask in case[0])
    assert figures(scores) == pytest.approx(expected, nan_ok=True)
    assert figures(scores) == pytest.approx(expected, nan_ok=True), "again"
    assert PixelScores(*case).aupro() == metrics.aupro(*case)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.integers(0, 6))
def test_a_sum_has_the_figures_of_all_its_images(seed: int, first: int, second: int) -> None:
    masks, maps = case_of(seed, n_images=6)
    first, second = sorted((first, second))
    parts = [slice(0, first), slice(first, second), slice(second, None)]
    one, two, three = (PixelScores(masks[part], maps[part]) for part in parts)
    expected = pytest.approx(figures_by_functions(masks, maps), nan_ok=True)
    assert figures(one + two + three) == expected
    assert figures(one + (two + three)) == expected
    # The parts are as they were.
    assert len(one) == first
    with pytest.raises(TypeError):
        one + two._images  # type: ignore[operator]


def test_parts_that_lack_a_class_can_be_summed_though_they_have_no_figure() -> None:
    normal = PixelScores([[[False, False]]], [[[1.0, 2.0]]])
    defective = PixelScores([[[True, True]]], [[[2.0, 3.0]]])
    for part in (normal, defective):
        for figure in (part.auroc, part.average_precision, part.f1_max, part.aupro):
            with pytest.raises(ParameterError, match="at least one defective and one normal"):
                figure()
    assert (normal + defective).auroc() == pytest.approx(3.5 / 4)


def test_maps_of_different_types_and_none_of_them_changed() -> None:
    masks, maps = case_of(seed=2, n_images=4)
    types: list[type[np.generic]] = [np.uint8, np.float16, np.float64, np.int32]
    typed = [map_.astype(dtype) for map_, dtype in zip(maps, types, strict=True)]
    for map_ in typed:
        map_.flags.writeable = False
    expected = pytest.approx(figures_by_functions(masks, maps), nan_ok=True)
    assert figures(PixelScores(masks, typed)) == expected


@pytest.mark.parametrize(
    ("mask", "map_", "error", "message"),
    [
        ([[1, 0]], [[1.0, 0.0]], DTypeError, r"masks\[0\]: expected bool, got int64"),
        ([[True, False]], [[1.0]], ShapeError, r"maps\[0\]: expected \(1, 2\)"),
        ([[True, False]], [[np.nan, 0]], ParameterError, r"maps\[0\]: .* got nan at \(0, 0\)"),
    ],
)
def test_bad_images_are_refused_at_once(
    mask: Any, map_: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        PixelScores([mask], [map_])
