"""Feature pyramids: what they accept, what they copy, and what their errors say."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from knnspect import DTypeError, FeaturePyramid, KnnspectError, ShapeError


def level(*shape: int, dtype: str = "f4") -> NDArray[Any]:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def test_a_contiguous_level_is_used_as_it_is() -> None:
    levels = [level(2, 4, 6, 3), level(2, 2, 2, 5, dtype="f2")]
    pyramid = FeaturePyramid(levels)
    assert all(used is given for used, given in zip(pyramid.levels, levels, strict=True))
    assert pyramid.n_images == len(pyramid) == 2
    assert pyramid.shapes == [(4, 6, 3), (2, 2, 5)]
    assert pyramid.nbytes == 2 * (4 * 6 * 3 * 4 + 2 * 2 * 5 * 2)
    assert repr(pyramid) == "FeaturePyramid(n_images=2, levels=4x6x3 + 2x2x5)"


def test_other_levels_are_copied_in_order() -> None:
    turned = level(2, 3, 4, 6).transpose(0, 2, 3, 1)
    pyramid = FeaturePyramid([turned])
    assert pyramid.levels[0].flags.c_contiguous
    np.testing.assert_array_equal(pyramid.levels[0], turned)


def test_levels_that_are_not_aligned_are_copied() -> None:
    raw = b"x" + level(1, 2, 2, 3).tobytes()
    odd = np.frombuffer(raw, "f4", offset=1).reshape(1, 2, 2, 3)
    assert not odd.flags.aligned
    pyramid = FeaturePyramid([odd])
    assert pyramid.levels[0].flags.aligned
    np.testing.assert_array_equal(pyramid.levels[0], odd)


def test_there_must_be_a_level() -> None:
    with pytest.raises(ShapeError, match="at least one level, got none"):
        FeaturePyramid([])


@pytest.mark.parametrize("dtype", ["f8", "i4", "u1", "c8", "O", ">f4"])
def test_levels_must_be_float32_or_float16(dtype: str) -> None:
    bad = level(1, 2, 2, 3).astype(dtype)
    with pytest.raises(DTypeError, match=r"levels\[1\]: expected float32 or float16, got") as error:
        FeaturePyramid([level(1, 4, 4, 3), bad])
    assert str(bad.dtype) in str(error.value)


@pytest.mark.parametrize("shape", [(), (4,), (4, 4, 3), (1, 1, 4, 4, 3)])
def test_levels_must_have_four_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"levels\[0\]: expected \(n_images, height") as error:
        FeaturePyramid([level(*shape)])
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("shape", [(1, 0, 4, 3), (1, 4, 0, 3), (1, 4, 4, 0)])
def test_levels_must_not_be_empty(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"levels\[0\] is empty") as error:
        FeaturePyramid([level(*shape)])
    assert str(shape) in str(error.value)


def test_levels_must_have_the_same_images() -> None:
    with pytest.raises(ShapeError, match=r"levels\[1\] has 3 images, the finer levels have 2"):
        FeaturePyramid([level(2, 4, 4, 1), level(3, 2, 2, 1)])


@pytest.mark.parametrize("size", [(3, 2), (4, 4), (2, 8), (8, 6)])
def test_levels_must_nest(size: tuple[int, int]) -> None:
    height, width = size
    with pytest.raises(ShapeError, match=rf"levels\[2\] is {height} x {width}: .* 4 x 6"):
        FeaturePyramid([level(1, 8, 12, 1), level(1, 4, 6, 1), level(1, *size, 1)])


def test_images_are_selected_by_number_slice_and_list() -> None:
    pyramid = FeaturePyramid([level(5, 2, 2, 1), level(5, 1, 1, 3)])
    chosen: Any
    for images, chosen in (
        (1, [1]),
        (-1, [4]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, -2), [4, 2, 0]),
        ([3, 3, 0], [3, 3, 0]),
        (slice(0, 0), []),
    ):
        part = pyramid[images]
        assert part.n_images == len(chosen)
        for got, whole in zip(part.levels, pyramid.levels, strict=True):
            np.testing.assert_array_equal(got, whole[chosen])
            assert got.flags.c_contiguous


@pytest.mark.parametrize("image", [5, -6])
def test_an_image_that_is_not_there_is_an_index_error(image: int) -> None:
    with pytest.raises(IndexError, match=f"image {image} of a pyramid of 5 images"):
        FeaturePyramid([level(5, 2, 2, 1)])[image]


def test_pyramids_are_joined_in_order() -> None:
    pyramid = FeaturePyramid([level(5, 2, 2, 1), level(5, 1, 1, 3)])
    joined = FeaturePyramid.concatenate(pyramid[image] for image in (4, 0, 2))
    for got, whole in zip(joined.levels, pyramid.levels, strict=True):
        np.testing.assert_array_equal(got, whole[[4, 0, 2]])


def test_only_pyramids_of_one_shape_are_joined() -> None:
    with pytest.raises(ShapeError, match="at least one, got none"):
        FeaturePyramid.concatenate([])
    one, other = FeaturePyramid([level(1, 2, 2, 1)]), FeaturePyramid([level(1, 2, 2, 2)])
    with pytest.raises(ShapeError, match=r"\(2, 2, 2\).* to one of .*\(2, 2, 1\)"):
        FeaturePyramid.concatenate([one, other])


def test_tensors_stay_tensors_until_arrays_are_asked_for() -> None:
    with torch.inference_mode():
        given = [torch.rand(3, 4, 6, 2), torch.rand(3, 2, 3, 5).half()]
    pyramid = FeaturePyramid(given)
    assert not pyramid.is_on_device
    assert all(
        kept.data_ptr() == of.data_ptr() for kept, of in zip(pyramid.arrays, given, strict=True)
    )
    part = FeaturePyramid.concatenate([pyramid[2], pyramid[::-2]])
    for kept, of, level in zip(part.arrays, given, part.levels, strict=True):
        assert torch.equal(kept, of[[2, 2, 0]])
        np.testing.assert_array_equal(level, of[[2, 2, 0]].numpy())
    assert part.levels[0] is part.levels[0]
    same = FeaturePyramid(part.levels)
    assert (repr(part), part.nbytes, len(part)) == (repr(same), same.nbytes, 3)
    np.testing.assert_array_equal(part.concatenated(), same.concatenated())
    mixed = FeaturePyramid.concatenate([part, same])
    np.testing.assert_array_equal(mixed.levels[1], np.concatenate([same.levels[1]] * 2))
    (first, _) = pickle.loads(pickle.dumps(part)).arrays
    assert isinstance(first, np.ndarray)


def test_tensors_are_used_without_their_gradients_and_in_order() -> None:
    turned = torch.rand(2, 3, 4, 6, requires_grad=True).permute(0, 2, 3, 1)
    pyramid = FeaturePyramid([turned])
    assert pyramid.arrays[0].is_contiguous()
    np.testing.assert_array_equal(pyramid.levels[0], turned.detach().numpy())


def test_tensors_are_checked_as_arrays_are() -> None:
    fine = torch.zeros(1, 4, 4, 3)
    for dtype in (torch.float64, torch.bfloat16, torch.int64):
        with pytest.raises(DTypeError, match=rf"levels\[1\]: expected float32 .*, got {dtype}"):
            FeaturePyramid([fine, torch.zeros(1, 2, 2, 3, dtype=dtype)])
    with pytest.raises(ShapeError, match=r"levels\[0\]: .*got shape \(4, 4, 3\)"):
        FeaturePyramid([fine[0]])
    with pytest.raises(ShapeError, match=r"levels\[0\] is empty: its shape is \(1, 0, 4, 3\)"):
        FeaturePyramid([fine[:, :0]])
    with pytest.raises(ShapeError, match=r"levels\[1\] is 3 x 2"):
        FeaturePyramid([fine, torch.zeros(1, 3, 2, 3)])


def test_the_errors_are_also_those_that_callers_expect() -> None:
    assert issubclass(ShapeError, KnnspectError)
    assert issubclass(ShapeError, ValueError)
    assert issubclass(DTypeError, KnnspectError)
    assert issubclass(DTypeError, TypeError)


@pytest.mark.parametrize("upsample", ["bilinear", "block"])
@pytest.mark.parametrize(
    "shapes",
    [
        [(24, 12, 3), (12, 6, 4), (4, 2, 5)],
        [(21, 10, 2), (7, 5, 3)],
        [(40, 4, 1), (40, 4, 2), (8, 1, 3)],
        [(5, 3, 2)],
    ],
)
def test_strips_are_the_concatenated_features_to_the_bit(upsample: Any, shapes: Any) -> None:
    rng = np.random.default_rng(0)
    pyramid = FeaturePyramid([rng.normal(size=(2, *shape)).astype("f4") for shape in shapes])
    expected = pyramid.concatenated(upsample)
    for most in (1, 300, 700, 10**6):
        strips = list(pyramid.concatenated_in_strips(upsample, most))
        np.testing.assert_array_equal(np.concatenate(strips, axis=1), expected)
        least = shapes[0][0] // shapes[-1][0] * expected[:, 0].size
        assert max(strip.size for strip in strips) <= max(most, least)
        assert (len(strips) > 1) == (expected.size > most)
