"""Images turned, mirrored, brighter and darker: as a camera would have seen them, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from knnspect.data import elpv_split, read_image
from knnspect.errors import ImageError
from knnspect.views.turning import brightened, mirrored, reduced, turned, turned_back


@pytest.fixture(scope="module")
def cell() -> NDArray[np.uint8]:
    """A solar cell in colours."""
    grey = read_image(elpv_split(n_train=1).train[0])[:150, :120].astype(np.float32)
    return np.asarray(grey * [1.0, 0.8, 0.6], np.uint8)


def forms(image: NDArray[np.uint8]) -> dict[str, Any]:
    """The image in all forms that readers give."""
    floats = image.astype(np.float32) / 255
    return {
        "uint8": image,
        "float32": floats,
        "grey uint8": np.broadcast_to(image[..., :1], image.shape),
        "grey float32": np.broadcast_to(floats[..., :1], image.shape),
    }


@pytest.mark.parametrize("form", ["uint8", "float32", "grey uint8", "grey float32"])
@pytest.mark.parametrize("angle", [45.0, 90.0, 200.0])
def test_a_turned_image_is_that_of_a_reference(
    cell: NDArray[np.uint8], form: str, angle: float
) -> None:
    """Cubic splines with reflection about the centres of border pixels, in float64."""
    image = forms(cell)[form]
    found = turned(image, angle)
    assert (found.shape, found.dtype) == (image.shape, image.dtype)
    assert (found.strides[2] == 0) == form.startswith("grey"), "grey stays one channel"
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    matrix = np.array([[cos, sin], [-sin, cos]])
    middle = (np.array(image.shape[:2]) - 1) / 2
    scale = 255 if image.dtype == np.uint8 else 1
    for channel in range(3):
        expected = ndimage.affine_transform(
            image[..., channel].astype(np.float64),
            matrix,
            middle - matrix @ middle,
            order=3,
            mode="mirror",
        )
        difference = np.abs(found[..., channel] - expected) / scale
        # Another interpolation, so edges differ; half a pixel off would be four times as much.
        assert difference.mean() < 0.004
        assert np.median(difference) < 0.003


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_quarter_turns_of_squares_move_pixels_and_change_none(
    cell: NDArray[np.uint8], angle: int
) -> None:
    square = cell[:120]
    assert np.array_equal(turned(square, angle), np.rot90(square, angle // 90))
    assert np.array_equal(turned(turned(square, angle), 360 - angle), square)
    assert np.array_equal(turned(cell, 180), cell[::-1, ::-1])


def test_a_quarter_turn_of_an_oblong_keeps_its_size_and_middle(cell: NDArray[np.uint8]) -> None:
    found = turned(cell, 90)
    middle = np.rot90(cell)[:, 15:-15]
    assert found.shape == cell.shape
    assert np.array_equal(found[15:-15], middle)
    assert np.array_equal(found[:15], middle[15:0:-1]), "above it is its reflection"


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 3), (2, 90)])
@pytest.mark.parametrize("angle", [45.0, 90.0, 315.0])
def test_small_and_narrow_images_are_turned(size: tuple[int, int], angle: float) -> None:
    image = np.full((*size, 3), 77, np.uint8)
    assert np.array_equal(turned(image, angle), image)


def test_an_image_that_is_far_too_narrow_is_refused() -> None:
    with pytest.raises(ImageError, match="2 x 100000 pixels, which is too long and narrow"):
        turned(np.zeros((2, 100_000, 3), np.uint8), 45.0)


@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0, 225.0])
@pytest.mark.parametrize("size", [(60, 60), (50, 71)])
def test_positions_are_turned_back_to_what_lies_there(size: tuple[int, int], angle: float) -> None:
    """A bright spot is found again, wherever it was."""
    rng = np.random.default_rng(5)
    for row, column in rng.integers(0, size, (12, 2)):
        image = np.zeros((*size, 3), np.uint8)
        image[row, column] = 255
        found = turned(image, angle)[..., 0]
        if found.max() < 60:
            continue  # it lies outside of the turned image
        at = np.unravel_index(found.argmax(), found.shape)
        back = turned_back(np.array(float(at[0])), np.array(float(at[1])), angle, size)
        assert abs(back[0] - row) <= 0.71
        assert abs(back[1] - column) <= 0.71


def test_brightness_multiplies_and_stops_at_white(cell: NDArray[np.uint8]) -> None:
    images = forms(cell)
    for form, image in images.items():
        for factor in (0.8, 1.9):
            found = brightened(image, factor)
            assert (found.shape, found.dtype) == (image.shape, image.dtype)
            assert (found.strides[2] == 0) == form.startswith("grey")
            white = 255 if image.dtype == np.uint8 else 1
            expected = np.minimum(image.astype(np.float64) * factor, white)
            np.testing.assert_allclose(found, expected, atol=0.5 if white == 255 else 1e-6)
    assert (brightened(cell, 1.9) == 255).any()


def test_mirrored_twice_is_the_image(cell: NDArray[np.uint8]) -> None:
    assert not np.array_equal(mirrored(cell), cell)
    assert np.array_equal(mirrored(mirrored(cell)), cell)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((256, 256), (256, 256)),  # less than twice the input
        ((1024, 1024), (512, 512)),
        ((1024, 768), (512, 384)),
        ((900, 1500), (300, 500)),
        ((901, 1500), (901, 1500)),  # proportions would not stay exact
    ],
)
def test_large_images_are_reduced_to_twice_the_input_at_least(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    image = np.full((*size, 3), 9, np.uint8)
    found = reduced(image, (150, 150) if size[0] < 1000 else (192, 192))
    assert found.shape[:2] == expected
    assert (found == 9).all()
