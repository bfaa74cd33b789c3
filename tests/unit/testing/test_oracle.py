"""The oracle itself: cases worked by hand, torch's interpolation, and that it notices mistakes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect import Neighbors
from knnspect.testing.oracle import (
    Oracle,
    assert_same_neighbors,
    count_before,
    features,
    upsample,
)


def level(values: object, *shape: int) -> NDArray[np.float32]:
    return np.array(values, np.float32).reshape(shape)


def answer(oracle: Oracle, k: int) -> Neighbors:
    """What a search without mistakes returns."""
    places = oracle.nearest(k)
    n_images = len(places)
    images, cells = np.divmod(places, oracle.height * oracle.width)
    rows, columns = np.divmod(cells, oracle.width)
    shape = (n_images, oracle.height, oracle.width, k)
    sq_distances = np.take_along_axis(oracle.sq_distances, places, axis=-1)
    searched = np.array(
        [oracle.searched.index(name) if name in oracle.searched else -1 for name in oracle.ids]
    )
    return Neighbors(
        sq_distances.astype(np.float32).reshape(shape),
        searched[images].reshape(shape),
        np.stack([rows, columns], axis=-1).reshape(*shape, 2),
        oracle.searched,
    )


def changed(array: NDArray[Any], at: tuple[int, ...], value: object) -> NDArray[Any]:
    array = array.copy()
    array[at] = value
    return array


def test_bilinear_upsampling_has_half_pixel_centres() -> None:
    up = upsample(level([0, 4], 1, 1, 2, 1), 1, 4, "bilinear")
    assert up.ravel().tolist() == [0, 1, 3, 4]
    up = upsample(level([0, 6], 1, 2, 1, 1), 6, 2, "bilinear")
    np.testing.assert_allclose(up[0, :, 0, 0], [0, 0, 2, 4, 6, 6], rtol=1e-15)
    up = upsample(level([0, 4, 8, 12], 1, 2, 2, 1), 4, 4, "bilinear")
    assert up[0, 1, 1, 0] == 3  # a quarter across, a quarter down
    assert up[0, 3, 3, 0] == 12


def test_block_upsampling_repeats() -> None:
    up = upsample(level([1, 2], 1, 1, 2, 1), 2, 6, "block")
    assert up[0, :, :, 0].tolist() == [[1, 1, 1, 2, 2, 2]] * 2


@pytest.mark.parametrize("mode", ["bilinear", "block"])
@pytest.mark.parametrize("ratio", [(1, 1), (2, 2), (3, 1), (2, 5), (4, 3), (8, 16)])
def test_upsampling_is_that_of_torch(mode: str, ratio: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    size = (3 * ratio[0], 4 * ratio[1])
    channels_first = torch.from_numpy(values).permute(0, 3, 1, 2)
    if mode == "bilinear":
        expected = torch.nn.functional.interpolate(
            channels_first, size, mode="bilinear", align_corners=False
        )
    else:
        expected = torch.nn.functional.interpolate(channels_first, size, mode="nearest")
    expected = expected.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(upsample(values, *size, mode), expected, rtol=1e-12, atol=1e-14)


def test_features_are_all_levels_one_after_the_other() -> None:
    fine, coarse = level(range(8), 1, 2, 2, 2), level([10, 20, 30], 1, 1, 1, 3)
    assert features([fine, coarse], "bilinear").tolist() == [
        [[0, 1, 10, 20, 30], [2, 3, 10, 20, 30], [4, 5, 10, 20, 30], [6, 7, 10, 20, 30]]
    ]


def test_distances_and_ties_of_a_case_worked_by_hand() -> None:
    query = [level([0, 3], 1, 1, 2, 1)]
    gallery = [level([3, 5, 1, -1], 2, 1, 2, 1)]
    oracle = Oracle.of(query, gallery, ["b", "a"], "bilinear")
    # In the order of ids: image a is 1, -1 and image b is 3, 5.
    assert oracle.sq_distances.tolist() == [[[1, 1, 9, 25], [4, 16, 0, 4]]]
    assert oracle.nearest(3).tolist() == [[[0, 1, 2], [2, 0, 3]]]


def test_two_levels_worked_by_hand() -> None:
    query = [level([0, 0, 0, 0], 1, 1, 4, 1), level([0, 0], 1, 1, 2, 1)]
    gallery = [level([1, 0, 0, 1], 1, 1, 4, 1), level([0, 4], 1, 1, 2, 1)]
    bilinear = Oracle.of(query, gallery, ["a"], "bilinear").sq_distances
    assert bilinear[0, 0].tolist() == [1 + 0, 0 + 1, 0 + 9, 1 + 16]
    block = Oracle.of(query, gallery, ["a"], "block").sq_distances
    assert block[0, 0].tolist() == [1 + 0, 0 + 0, 0 + 16, 1 + 16]


def test_images_that_are_not_searched_are_infinitely_far() -> None:
    query = [level([0, 0], 2, 1, 1, 1)]
    gallery = [level([1, 2, 3], 3, 1, 1, 1)]
    oracle = Oracle.of(query, gallery, ["a", "b", "c"], "block", [["c", "b"], ["a"]])
    assert oracle.sq_distances.tolist() == [[[np.inf, 4, 9]], [[1, np.inf, np.inf]]]
    assert oracle.searched == ("a", "b", "c")
    oracle = Oracle.of(query, gallery, ["a", "b", "c"], "block", [["c", "c"]])
    assert oracle.nearest(1).tolist() == [[[2]], [[2]]]
    assert oracle.searched == ("c",)


def test_constant_and_repeated_regions_have_equal_contents() -> None:
    fine = level([7, 7, 7, 7, 7, 7, 7, 7, 7], 1, 1, 9, 1)
    same = Oracle.of([fine], [fine], ["a"], "bilinear").contents
    assert len(set(same.tolist())) == 1
    coarse = level([0.0, -0.0, 1], 1, 1, 3, 1)
    numbers = Oracle.of([fine, coarse], [fine, coarse], ["a"], "bilinear").contents.tolist()
    assert len(set(numbers[:5])) == 1, "up to the centre of the second coarse cell all is zero"
    assert len(set(numbers[4:8])) == 4
    assert numbers[7] == numbers[8]


@pytest.fixture
def oracle() -> Oracle:
    rng = np.random.default_rng(1)
    query = [rng.normal(size=(2, 4, 6, 3)).astype("f4"), rng.normal(size=(2, 2, 2, 5)).astype("f4")]
    gallery = [
        rng.normal(size=(3, 4, 6, 3)).astype("f4"),
        rng.normal(size=(3, 2, 2, 5)).astype("f4"),
    ]
    for part in gallery:
        part[2] = part[0]  # "a" and "c" are the same image
    return Oracle.of(query, gallery, ["a", "b", "c"], "bilinear")


def test_the_right_answer_is_accepted(oracle: Oracle) -> None:
    for k in (1, 2, 7, 72):
        assert_same_neighbors(answer(oracle, k), oracle)
        assert_same_neighbors(answer(oracle, k), oracle, exact=True)


def test_a_wrong_distance_is_rejected(oracle: Oracle) -> None:
    good = answer(oracle, 2)
    for factor in (1 + 3e-6, 1 - 3e-6, np.nan, np.inf, 0):
        at = (1, 2, 3, 0)
        values = changed(good.sq_distances, at, good.sq_distances[at] * np.float32(factor))
        with pytest.raises(AssertionError, match=r"distances: 1 of|not sorted"):
            assert_same_neighbors(replace(good, sq_distances=values), oracle)


def test_a_wrong_neighbor_is_rejected_even_with_its_own_distance(oracle: Oracle) -> None:
    good, longer = answer(oracle, 3), answer(oracle, 7)
    third, seventh = (0, 1, 1, 2), (0, 1, 1, 6)
    # The third is left out for a later one of another distance.
    wrong = Neighbors(
        changed(good.sq_distances, third, longer.sq_distances[seventh]),
        changed(good.image_index, third, longer.image_index[seventh]),
        changed(good.cells, third, longer.cells[seventh]),
        good.image_ids,
    )
    with pytest.raises(AssertionError, match="places: 1 of"):
        assert_same_neighbors(wrong, oracle)
    first_row = (0, 1, 1, 0, 0)
    row = (good.cells[first_row] + 1) % 4
    with pytest.raises(AssertionError, match="distances: 1 of"):
        assert_same_neighbors(replace(good, cells=changed(good.cells, first_row, row)), oracle)


def test_a_wrong_order_is_rejected(oracle: Oracle) -> None:
    good = answer(oracle, 5)
    turned = Neighbors(
        good.sq_distances[..., ::-1],
        good.image_index[..., ::-1],
        good.cells[..., ::-1, :],
        good.image_ids,
    )
    with pytest.raises(AssertionError, match="not sorted"):
        assert_same_neighbors(turned, oracle)


def test_a_missing_neighbor_is_rejected(oracle: Oracle) -> None:
    good = answer(oracle, 4)
    shorter = Neighbors(
        good.sq_distances[:, :-1], good.image_index[:, :-1], good.cells[:, :-1], good.image_ids
    )
    with pytest.raises(AssertionError):
        assert_same_neighbors(shorter, oracle)
    twice = Neighbors(
        changed(good.sq_distances, (0, 0, 0, 1), good.sq_distances[0, 0, 0, 0]),
        changed(good.image_index, (0, 0, 0, 1), good.image_index[0, 0, 0, 0]),
        changed(good.cells, (0, 0, 0, 1), good.cells[0, 0, 0, 0]),
        good.image_ids,
    )
    with pytest.raises(AssertionError, match="given twice"):
        assert_same_neighbors(twice, oracle)


def test_a_wrong_tie_is_rejected(oracle: Oracle) -> None:
    good = answer(oracle, 1)
    at = tuple(np.argwhere(good.images == "a")[0])
    later = replace(good, image_index=changed(good.image_index, at, 2))
    with pytest.raises(AssertionError, match="ties: 1 of"):
        assert_same_neighbors(later, oracle)
    pair = answer(oracle, 2)
    assert pair.images[at[:3]].tolist() == ["a", "c"]
    turned = replace(pair, image_index=changed(pair.image_index, at[:3], [2, 0]))
    with pytest.raises(AssertionError, match="ties: 2 of"):
        assert_same_neighbors(turned, oracle)


def test_exact_arithmetic_leaves_no_choice_among_ties() -> None:
    query, gallery = [level([0], 1, 1, 1, 1)], [level([-1, 1], 2, 1, 1, 1)]
    oracle = Oracle.of(query, gallery, ["a", "b"], "block")
    good = answer(oracle, 1)
    assert_same_neighbors(good, oracle, exact=True)
    later = replace(good, image_index=np.ones_like(good.image_index))
    assert_same_neighbors(later, oracle)
    with pytest.raises(AssertionError, match="places"):
        assert_same_neighbors(later, oracle, exact=True)


def test_only_what_float64_cannot_tell_apart_may_be_swapped() -> None:
    query = [level([0], 1, 1, 1, 1)]
    for step, accepted in ((2.0**-44, True), (2.0**-30, False)):
        gallery = [np.array([1 + step, 1]).reshape(2, 1, 1, 1)]
        oracle = Oracle.of(query, gallery, ["a", "b"], "block")
        first = replace(answer(oracle, 1), image_index=np.zeros((1, 1, 1, 1), np.int64))
        if accepted:
            assert_same_neighbors(first, oracle)
        else:
            with pytest.raises(AssertionError, match="places"):
                assert_same_neighbors(first, oracle)


def test_an_image_that_was_not_searched_is_rejected() -> None:
    query, gallery = [level([0], 1, 1, 1, 1)], [level([1, 2], 2, 1, 1, 1)]
    oracle = Oracle.of(query, gallery, ["a", "b"], "block", [["b"]])
    assert_same_neighbors(answer(oracle, 1), oracle)
    everywhere = answer(Oracle.of(query, gallery, ["a", "b"], "block"), 1)
    with pytest.raises(AssertionError, match="'a'"):
        assert_same_neighbors(everywhere, oracle)


def test_distances_beyond_float32_are_infinite_or_zero() -> None:
    for scale, expected in ((1e30, np.inf), (1e-30, 0)):
        query, gallery = [level([0], 1, 1, 1, 1)], [level([2 * scale, scale], 2, 1, 1, 1)]
        oracle = Oracle.of(query, gallery, ["a", "b"], "block")
        with np.errstate(over="ignore"):
            good = answer(oracle, 2)
        assert good.sq_distances.ravel().tolist() == [expected] * 2
        assert good.images.ravel().tolist() == ["b", "a"]
        assert_same_neighbors(good, oracle)
        with pytest.raises(AssertionError, match="distances"):
            assert_same_neighbors(
                replace(good, sq_distances=np.ones_like(good.sq_distances)), oracle
            )


@pytest.mark.parametrize("index", [-1, 3])
def test_an_image_that_is_not_there_is_rejected(oracle: Oracle, index: int) -> None:
    good = answer(oracle, 1)
    wrong = changed(good.image_index, (0, 0, 0, 0), index)
    with pytest.raises(AssertionError, match="an image that is not there"):
        assert_same_neighbors(replace(good, image_index=wrong), oracle)


def test_equal_numbers_are_counted_along_the_last_axis() -> None:
    numbers = np.random.default_rng(0).integers(0, 4, (3, 5, 17))
    earlier = np.tril(numbers[..., :, None] == numbers[..., None, :], -1).sum(-1)
    np.testing.assert_array_equal(count_before(numbers), earlier)
    assert count_before(np.zeros((2, 0), np.int64)).shape == (2, 0)


def test_a_failure_names_the_images_and_cells(oracle: Oracle) -> None:
    good = answer(oracle, 1)
    at = tuple(np.argwhere(good.images == "a")[0])
    later = replace(good, image_index=changed(good.image_index, at, 2))
    with pytest.raises(AssertionError, match=r"got image 'c', cell .*, expected image 'a', cell"):
        assert_same_neighbors(later, oracle)
