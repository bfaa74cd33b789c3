"""How images meet the network's input size, and how maps come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from knnspect.data import Geometry, elpv_split, read_image
from knnspect.errors import DTypeError, ImageError, ParameterError, ShapeError

Resize = Literal["stretch", "crop", "pad"]
RESIZES: tuple[Resize, ...] = ("stretch", "crop", "pad")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_stretch_is_pillows_resize(interpolation: str) -> None:
    image = read_image(elpv_split(1, 0, 0).train[0])
    prepared = Geometry((64, 96), interpolation=interpolation).prepare(image)
    resample = Image.Resampling[interpolation.upper()]
    expected = np.asarray(Image.fromarray(image).resize((96, 64), resample))
    np.testing.assert_array_equal(
        prepared, expected.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    )


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(50, 30), (30, 50), (64, 96), (1, 200), (200, 1), (1, 1)])
def test_form(resize: Resize, interpolation: str, dtype: Any, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 2, (*shape, 3)).astype(dtype)
    if dtype == np.uint8:
        image *= 255
    prepared = Geometry((64, 96), resize, interpolation).prepare(image)
    assert prepared.shape == (3, 64, 96)
    assert prepared.dtype == np.float32
    assert prepared.flags.c_contiguous
    assert prepared.min() >= 0
    assert prepared.max() <= 1


@pytest.mark.parametrize("resize", RESIZES)
def test_float_and_uint8_agree(resize: Resize) -> None:
    image = read_image(elpv_split(1, 0, 0).train[0])[:200]
    geometry = Geometry((64, 48), resize)
    from_float = geometry.prepare(image.astype(np.float32) / np.float32(255))
    np.testing.assert_allclose(from_float, geometry.prepare(image), atol=1.01 / 255)


@pytest.mark.parametrize("resize", RESIZES)
def test_same_proportions_need_neither_crop_nor_pad(resize: Resize) -> None:
    image = np.random.default_rng(1).integers(0, 256, (99, 33, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        Geometry((224 * 3, 224), resize).prepare(image), Geometry((224 * 3, 224)).prepare(image)
    )


def test_crop_takes_the_middle() -> None:
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, 30:70] = 255
    assert Geometry((20, 20), "crop", "nearest").prepare(image).min() == 1
    tall = image.swapaxes(0, 1)
    assert Geometry((20, 20), "crop", "nearest").prepare(tall).min() == 1


def test_crop_is_resize_then_centre_crop() -> None:
    image = read_image(elpv_split(1, 0, 0).train[0])[:150]  # 150 x 300, covered by 32 x 64
    prepared = Geometry((32, 32), "crop").prepare(image)
    covered = Geometry((32, 64)).prepare(image)
    np.testing.assert_allclose(prepared, covered[:, :, 16:48], atol=1.01 / 255)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pad_fills_with_the_mean_colour(dtype: Any) -> None:
    white = 255 if dtype == np.uint8 else 1
    image = np.zeros((10, 20, 3), dtype)
    image[:, :5, 0] = white
    image[:, :, 1] = white
    prepared = Geometry((40, 40), "pad").prepare(image)
    for edge in (prepared[:, :10], prepared[:, 30:]):
        np.testing.assert_allclose(edge.min(axis=(1, 2)), [0.25, 1, 0], atol=1e-6)
        np.testing.assert_allclose(edge.max(axis=(1, 2)), [0.25, 1, 0], atol=1e-6)
    assert prepared[0, 10:30, :8].min() == 1


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [(300, 300), (240, 360), (400, 150), (61, 47), (33, 100)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_blob_comes_back_where_it_was(resize: Resize, size: tuple[int, int], dtype: Any) -> None:
    height, width = size
    # Off the middle, but inside what a crop keeps.
    side = min(size)
    row, column = height / 2 + 0.17 * side, width / 2 - 0.12 * side
    rows, columns = np.mgrid[:height, :width] + 0.5
    blob = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * (0.06 * side) ** 2))
    image = np.stack([blob * (255 if dtype == np.uint8 else 1)] * 3, axis=2).astype(dtype)
    geometry = Geometry((96, 112), resize)
    seen = geometry.prepare(image).mean(axis=0)
    seen = np.where(seen > 0.1, seen, 0)  # without the filling of a pad
    back = geometry.restore(seen, size)
    assert back.shape == size
    np.testing.assert_allclose((back * rows).sum() / back.sum(), row, atol=0.003 * height)
    np.testing.assert_allclose((back * columns).sum() / back.sum(), column, atol=0.003 * width)
    assert np.abs(back - np.where(blob > 0.1, blob, 0)).max() < 0.15


@pytest.mark.parametrize("size", [(300, 300), (17, 500), (8, 5), (1, 1)])
def test_restore_is_torchs_bilinear(size: tuple[int, int]) -> None:
    map_ = np.random.default_rng(2).random((24, 32), dtype=np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(map_)[None, None], size, mode="bilinear", align_corners=False
    )
    restored = Geometry((24, 32)).restore(map_, size)
    assert restored.dtype == np.float32
    assert restored.flags.c_contiguous
    np.testing.assert_allclose(restored, expected[0, 0].numpy(), atol=3e-6)


def test_crop_gives_zero_to_what_it_cut_off() -> None:
    restored = Geometry((20, 20), "crop").restore(np.ones((20, 20)), (40, 100))
    assert restored[:, 30:70].min() == 1
    assert restored[:, :30].max() == restored[:, 70:].max() == 0


def test_pad_border_does_not_bleed_in() -> None:
    map_ = np.full((20, 20), 9.0, np.float32)
    map_[5:15] = 1
    np.testing.assert_array_equal(Geometry((20, 20), "pad").restore(map_, (50, 100)), 1)


@given(
    st.sampled_from(RESIZES),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_any_sizes(resize: Resize, image_size: tuple[int, int], size: tuple[int, int]) -> None:
    geometry = Geometry(image_size, resize)
    constant = np.full((*size, 3), 102, np.uint8)
    np.testing.assert_allclose(geometry.prepare(constant), 0.4, atol=1e-6)
    restored = geometry.restore(np.full(image_size, 0.7, np.float32), size)
    assert restored.shape == size
    assert set(np.unique(restored)) <= {np.float32(0), np.float32(0.7)}
    if resize != "crop":
        assert restored.min() == np.float32(0.7)


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
)
def test_a_shorter_side_keeps_the_proportions_but_for_half_a_multiple(
    multiple: int, n_multiples: int, size: tuple[int, int]
) -> None:
    side = multiple * n_multiples
    geometry = Geometry((side, side), "shorter", multiple=multiple)
    found = geometry.input_size(size)
    assert min(found) == side
    for n_found, n_pixels in zip(found, size, strict=True):
        assert n_found % multiple == 0
        assert abs(n_found - n_pixels * side / min(size)) <= multiple / 2


def test_a_shorter_side_is_a_stretch_to_the_input_of_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 120, 3)).astype(np.uint8)
    geometry, stretch = Geometry((32, 32), "shorter", multiple=16), Geometry((32, 80))
    assert geometry.input_size((50, 120)) == (32, 80)
    np.testing.assert_array_equal(geometry.prepare(image), stretch.prepare(image))
    map_ = np.random.default_rng(1).random((32, 80)).astype(np.float32)
    np.testing.assert_array_equal(
        geometry.restore(map_, (50, 120)), stretch.restore(map_, (50, 120))
    )
    assert geometry.locate(7, 99, (50, 120)) == stretch.locate(7, 99, (50, 120))
    with pytest.raises(ShapeError, match=r"expected a map of shape \(32, 80\), got \(32, 32\)"):
        geometry.restore(map_[:, :32], (50, 120))


def test_the_input_of_a_very_long_image_is_refused() -> None:
    geometry = Geometry((448, 448), "shorter", multiple=14)
    assert geometry.input_size((1, 1000)) == (448, 448_000)
    with pytest.raises(ImageError, match=r"of 1 x 2000 pixels it is too long: .* 448 x 896000"):
        geometry.input_size((1, 2000))


@pytest.mark.parametrize("image_size", [224, (224,), (0, 4), (4.0, 4), "ab", (1, 2, 3), None])
def test_wrong_image_size(image_size: Any) -> None:
    with pytest.raises(ParameterError, match="image_size: expected"):
        Geometry(image_size)


def test_parameters() -> None:
    with pytest.raises(ParameterError, match=r"resize: expected .*got 'squash'"):
        Geometry((4, 4), resize="squash")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=r"interpolation: expected .*got 'cubic'"):
        Geometry((4, 4), interpolation="cubic")
    with pytest.raises(ParameterError, match=r'expected one number for resize="shorter".*4 x 5'):
        Geometry((4, 5), "shorter")
    with pytest.raises(ParameterError, match=r"a multiple of 3; got 4 x 4"):
        Geometry((4, 4), "shorter", multiple=3)
    with pytest.raises(ParameterError, match=r"multiple: expected .* got 0"):
        Geometry((4, 4), "shorter", multiple=0)
    assert Geometry([4, np.int64(5)]) == Geometry((4, 5))  # type: ignore[arg-type]
    assert hash(Geometry((4, 5))) == hash(Geometry((4, 5)))


def test_wrong_arrays() -> None:
    geometry = Geometry((4, 5))
    with pytest.raises(ShapeError, match=r"expected an image of shape .* got \(8, 8\)"):
        geometry.prepare(np.zeros((8, 8), np.uint8))
    with pytest.raises(DTypeError, match="expected uint8 or float32, got float64"):
        geometry.prepare(np.zeros((8, 8, 3)))  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"expected a map of shape \(4, 5\), got \(5, 4\)"):
        geometry.restore(np.zeros((5, 4)), (8, 8))
    with pytest.raises(ShapeError, match="expected size"):
        geometry.restore(np.zeros((4, 5)), (0, 8))


# --- large images


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_a_large_map_is_restored_in_strips_to_the_same_bits(resize: Any) -> None:
    map_ = np.random.default_rng(0).random((37, 41)).astype(np.float32)
    geometry = Geometry((37, 41), resize=resize)
    size = (2203, 1001)
    rows, columns = (axis.samples() for axis in geometry._fit(size))
    low = map_[rows.low]
    values = low + (map_[rows.high] - low) * rows.weight[:, None]
    low = values[:, columns.low]
    expected = low + (values[:, columns.high] - low) * columns.weight
    expected[~rows.seen] = 0
    expected[:, ~columns.seen] = 0
    restored = geometry.restore(map_, size)
    assert restored.flags.c_contiguous
    np.testing.assert_array_equal(restored, expected)


def test_a_large_image_is_resized_by_channels_to_the_same_bits() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4100, 4100, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((33, 20), Image.Resampling.BICUBIC))
    prepared = Geometry((20, 33)).prepare(image)
    np.testing.assert_array_equal(np.rint(prepared * 255), expected.transpose(2, 0, 1))
    np.testing.assert_array_equal(prepared, (expected / np.float32(255)).transpose(2, 0, 1))


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("interpolation", ["nearest", "bicubic"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_grey_with_one_channel_in_memory_is_resized_to_the_same_bits(
    dtype: Any, interpolation: str, resize: Any
) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (90, 70, 1)).astype(np.uint8)
    image: Any = grey if dtype == np.uint8 else (grey / 255).astype(np.float32)
    geometry = Geometry((20, 33), resize=resize, interpolation=interpolation)
    once: Any = np.broadcast_to(image, (90, 70, 3))
    expected = geometry.prepare(np.repeat(image, 3, axis=2))
    np.testing.assert_array_equal(geometry.prepare(once), expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "P", "1"])
def test_a_large_file_is_taken_over_in_strips_to_the_same_bits(tmp_path: Path, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (250, 4100), dtype=np.uint8)
    large = Image.fromarray(np.tile(noise, (17, 1))).convert("RGB").convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.bmp")
    large.save(path)
    with Image.open(path) as image:
        assert image.width * image.height > 2**24
        np.testing.assert_array_equal(read_image(path), np.asarray(image.convert("RGB")))
