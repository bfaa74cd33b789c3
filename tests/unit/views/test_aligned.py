"""What is cut out of an image and brought back lies where it lay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from knnspect import ImageError, ParameterError, ShapeError
from knnspect.views import AlignedView, similarity

SIZE, FRAME = (90, 120), (48, 64)


def blobs(
    size: tuple[int, int], at: list[tuple[float, float]], sigma: float
) -> NDArray[np.float32]:
    rows, columns = np.mgrid[: size[0], : size[1]]
    values = [np.exp(-((rows - r) ** 2 + (columns - c) ** 2) / (2 * sigma**2)) for r, c in at]
    return np.stack(values).sum(axis=0).astype(np.float32)  # type: ignore[no-any-return]


def centre_of(values: NDArray[Any], near: tuple[float, float]) -> NDArray[np.float64]:
    """The centre of mass of what lies around a position."""
    rows, columns = np.mgrid[: values.shape[0], : values.shape[1]]
    around = values * ((rows - near[0]) ** 2 + (columns - near[1]) ** 2 < 10**2)
    return np.array(ndimage.center_of_mass(around))


@pytest.mark.parametrize("angle", [0, 37.5, 90, 180, -123])
@pytest.mark.parametrize("scale", [0.6, 1, 1.3])
def test_a_cut_and_its_way_back_are_true_to_a_tenth_of_a_pixel(angle: float, scale: float) -> None:
    view = AlignedView(SIZE, FRAME, similarity(angle, scale, at=(44.3, 61.7), to=(23.5, 31.5)))
    in_frame = [(16.0, 20.0), (33.0, 41.0)]
    in_image = [view.to_original(*at) for at in in_frame]
    image = blobs(SIZE, in_image, 2.5)
    cut = view.cut(np.repeat(image[..., None], 3, axis=2))[..., 0]
    back = view.to_image(cut)
    for framed, original in zip(in_frame, in_image, strict=True):
        np.testing.assert_allclose(centre_of(cut, framed), np.array(framed), atol=0.1)
        np.testing.assert_allclose(centre_of(back, original), np.array(original), atol=0.1)


def test_positions_go_there_and_back() -> None:
    view = AlignedView(SIZE, FRAME, similarity(31, 0.7, at=(3, 5), to=(9, 2)))
    rows, columns = np.array([0.0, 7.5, 89]), np.array([3.0, 0.0, 119])
    there = view.to_frame(rows, columns)
    np.testing.assert_allclose(view.to_original(*there), (rows, columns), atol=1e-9)
    np.testing.assert_allclose(view.to_frame(3, 5), (9, 2), atol=1e-9)


def test_a_turn_is_counter_clockwise_as_that_of_images_is() -> None:
    image = np.random.default_rng(0).integers(0, 255, (41, 41, 3), dtype=np.uint8)
    view = AlignedView((41, 41), (41, 41), similarity(90, 1, at=(20, 20), to=(20, 20)))
    np.testing.assert_array_equal(view.cut(image), np.rot90(image))


def test_without_a_change_nothing_changes() -> None:
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    view = AlignedView(SIZE, (20, 30), similarity(0, 1, at=(7, 11), to=(0, 0)))
    np.testing.assert_array_equal(view.cut(image), image[7:27, 11:41])
    map_ = np.random.default_rng(1).random((20, 30))
    found = view.to_image(map_, outside=-1)
    np.testing.assert_allclose(found[7:27, 11:41], map_, atol=1e-6)
    assert (found[:7] == -1).all()
    assert (found[:, 41:] == -1).all()


def test_an_image_that_becomes_smaller_is_reduced() -> None:
    image = np.indices((64, 96)).sum(axis=0)[..., None].repeat(3, axis=2).astype(np.uint8)
    image[::2] += 50  # which sampling without reducing would see or not
    view = AlignedView((64, 96), (16, 24), similarity(0, 0.25, at=(-0.5, -0.5), to=(-0.5, -0.5)))
    expected = np.asarray(Image.fromarray(image).reduce(4), np.int16)
    inner = np.s_[1:-1, 1:-1]
    assert np.abs(view.cut(image)[inner] - expected[inner]).max() <= 2


def test_an_image_goes_on_with_its_last_pixel_and_a_map_with_what_is_asked_for() -> None:
    image = np.full((10, 10, 3), 200, np.uint8)
    view = AlignedView((10, 10), (30, 30), similarity(20, 1, at=(4.5, 4.5), to=(14.5, 14.5)))
    assert (view.cut(image) == 200).all()
    far = AlignedView((10, 10), (4, 4), similarity(0, 1, at=(100, 100), to=(0, 0)))
    assert (far.to_image(np.ones((4, 4)), outside=7) == 7).all()
    assert (far.cut(image) == 200).all()


def test_what_does_not_fit_is_refused() -> None:
    view = AlignedView(SIZE, FRAME, similarity(0, 1, at=(0, 0), to=(0, 0)))
    with pytest.raises(ShapeError, match="expected 90 x 120 pixels"):
        view.cut(np.zeros((90, 90, 3), np.uint8))
    with pytest.raises(ShapeError, match=r"expected shape \(48, 64\)"):
        view.to_image(np.zeros((48, 48)))
    with pytest.raises(ShapeError, match=r"shape \(2, 3\)"):
        AlignedView(SIZE, FRAME, np.eye(2))
    with pytest.raises(ParameterError, match="can be inverted"):
        AlignedView(SIZE, FRAME, np.zeros((2, 3)))
    huge = AlignedView(SIZE, FRAME, similarity(0, 1e-4, at=(0, 0), to=(0, 0)))
    with pytest.raises(ImageError, match="at most"):
        huge.cut(np.zeros((*SIZE, 3), np.uint8))
