"""White levels: given, or found on images; what is said of values that do not fit them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from knnspect.data import (
    Geometry,
    ImageReader,
    check_image,
    find_white,
    iterate_batches,
    open_images,
    read_image,
)
from knnspect.errors import DTypeError, ImageError, ParameterError, ReadingWarning

RNG = np.random.default_rng(0)
COUNTS = RNG.integers(0, 4096, (12, 10, 3)).astype(np.uint16)  # of a camera of 12 bits


def write(path: Path, array: NDArray[Any]) -> Path:
    if path.suffix == ".tif":
        photometric = "rgb" if array.ndim == 3 else "minisblack"
        tifffile.imwrite(path, array, photometric=photometric)
    else:
        path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(array)))
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_values_are_divided_by_the_white_level(
    tmp_path: Path, n_channels: int, suffix: str
) -> None:
    array = COUNTS if n_channels == 3 else COUNTS[..., 0]
    image = read_image(write(tmp_path / f"a{suffix}", array), white=4095)
    expected = (array.astype(np.float64) / 4095).astype(np.float32)
    np.testing.assert_array_equal(image, np.broadcast_to(expected.reshape(12, 10, -1), image.shape))
    np.testing.assert_array_equal(ImageReader(4095).from_array(array, "a"), image)


def test_eight_bits_have_no_white_level(tmp_path: Path) -> None:
    array = (COUNTS >> 4).astype(np.uint8)
    assert read_image(write(tmp_path / "a.png", array), white=4095).tolist() == array.tolist()
    path = tmp_path / "p.tif"
    colours = RNG.integers(0, 65536, (3, 256)).astype(np.uint16)  # of a palette, not counted
    tifffile.imwrite(path, array[..., 0], photometric="palette", colormap=colours)
    np.testing.assert_array_equal(read_image(path, white=4095), read_image(path))


def test_what_lies_above_is_white_and_is_said(tmp_path: Path) -> None:
    array = COUNTS.copy()
    array[3, 4:7] = (5000, 4095, 4096)
    with pytest.warns(ReadingWarning, match=r"3 pixels of 1 image.*level 4095.*5000, in .*a\.png"):
        image = read_image(write(tmp_path / "a.png", array), white=4095)
    np.testing.assert_array_equal(
        image, (np.minimum(array, 4095).astype(np.float64) / 4095).astype(np.float32)
    )


@pytest.mark.parametrize("dtype", ["f4", "f8", "u4", "i4"])
def test_a_white_level_frees_floats_and_wide_integers(tmp_path: Path, dtype: str) -> None:
    array = COUNTS[..., 0].astype(dtype) * 100
    path = write(tmp_path / "a.tif", array)
    with pytest.raises(ImageError, match=r"a\.tif: expected values in .*say which is white"):
        read_image(path)
    image = read_image(path, white=409_500)
    np.testing.assert_allclose(image[..., 0], array / 409_500, rtol=1e-6)
    with pytest.raises(ImageError, match=r"expected values of at least 0"):
        read_image(write(path, -COUNTS[..., 0].astype("f4")), white=4095)
    with pytest.raises(ImageError, match=r"expected finite values"):
        read_image(write(path, np.full((3, 3), np.nan, "f4")), white=4095)


def test_alpha_of_sixteen_bits_beside_a_white_level() -> None:
    pixel = np.array([[[4095, 2047, 0, 65535], [4095, 2047, 0, 4095]]], np.uint16)
    image = ImageReader(4095).from_array(pixel, "a")
    np.testing.assert_allclose(image[0], [[1, 2047 / 4095, 0]] * 2, rtol=1e-6)


def test_floats_in_0_to_1_beside_a_white_level_are_said() -> None:
    reader = ImageReader(4095)
    reader.from_array(np.full((2, 2), 0.5), "a")
    with pytest.warns(ReadingWarning, match=r"a: has floats up to 0\.5.*divided by .*4095"):
        reader.warn()


@pytest.mark.parametrize("largest", [1023, 8191, 8192, 0])
def test_a_small_part_of_the_range_is_said_once(largest: int) -> None:
    arrays = {str(i): np.full((2, 2), largest, np.uint16) for i in range(5)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in iterate_batches(open_images(arrays), Geometry((4, 4)), 2, 2):
            pass
    if largest in (0, 8192):
        assert not caught
    else:
        (warning,) = caught
        assert issubclass(warning.category, ReadingWarning)
        words = f": its largest value is {largest} of 65535, a small part of the range"
        assert words in str(warning.message)
        assert f"white={1023 if largest == 1023 else 16383}" in str(warning.message)
        assert "--white auto" in str(warning.message)
    if largest == 1023:
        with pytest.warns(ReadingWarning, match="x: its largest value is 1023 of 65535"):
            check_image(arrays["0"], "x")
        ImageReader(4095).warn()


def test_clipped_pixels_of_all_images_are_said_once_and_counted() -> None:
    arrays = {str(i): np.full((2, 2), 4090 + i, np.uint16) for i in range(10)}
    reader = ImageReader(4095)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in iterate_batches(open_images(arrays), Geometry((4, 4)), 3, 2, reader=reader):
            reader.warn(at_end=False)
        reader.warn()
        reader.warn()
    (warning,) = caught
    words = "16 pixels of 4 image(s) are above the white level 4095"
    assert str(warning.message).startswith(words)
    assert str(warning.message).endswith("the largest value is 4099, in 9")


@pytest.mark.parametrize("n_bits", range(9, 17))
def test_the_white_level_is_found(tmp_path: Path, n_bits: int) -> None:
    largest = 2**n_bits - 1
    write(tmp_path / "a.png", np.array([[1, largest - 200]], np.uint16))
    write(tmp_path / "b.tif", np.array([[1, largest]], np.uint16))
    write(tmp_path / "c.png", np.array([[1, 255]], np.uint8))
    assert find_white(open_images(tmp_path)) == largest
    if n_bits < 16:
        write(tmp_path / "d.tif", np.array([[0, largest + 1]], np.uint16))
        assert find_white(open_images(tmp_path)) == 2 * largest + 1


def test_where_no_image_is_deep_there_is_no_white_level(tmp_path: Path) -> None:
    assert find_white(open_images([np.zeros((2, 2), np.uint8), np.full((2, 2), 0.5)])) is None
    assert find_white(open_images([write(tmp_path / "a.tif", COUNTS.astype("f4"))])) == 4095
    path = write(tmp_path / "b.tif", COUNTS[..., 0].astype("u4") * 100)
    with pytest.raises(ImageError, match=r"b\.tif: expected values up to 65535.*a number instead"):
        find_white(open_images([path]))


@pytest.mark.parametrize(
    ("white", "error"),
    [(0, ParameterError), (-1, ParameterError), (2**32, ParameterError), ("auto", ParameterError)]
    + [(value, DTypeError) for value in (4095.0, True, "4095", [4095])],
)
def test_a_bad_white_level_is_refused(tmp_path: Path, white: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="white: expected"):
        read_image(write(tmp_path / "a.png", COUNTS), white=white)


@pytest.mark.parametrize(("limit", "error"), [(0, ParameterError), (1.5, DTypeError)])
def test_a_bad_limit_is_refused(tmp_path: Path, limit: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_pixels: expected"):
        read_image(write(tmp_path / "a.png", COUNTS), max_pixels=limit)
