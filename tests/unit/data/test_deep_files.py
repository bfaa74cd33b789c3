"""PNG, JPEG 2000 and PNM of more or less than 8 bits, compared with the array that was written."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from knnspect.data import image_from_pillow, read_image
from knnspect.errors import ImageError, ReadingWarning

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65536, (21, 30, 4)).astype(np.uint16)
GREY, GREY_ALPHA, RGB, RGBA = 0, 4, 2, 6
N_CHANNELS = {GREY: 1, GREY_ALPHA: 2, RGB: 3, RGBA: 4}
#: Where the seven passes of an interlaced PNG begin, and their steps: rows, then columns.
ADAM7 = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def rows_of(array: NDArray[Any], depth: int) -> bytes:
    rows = array.reshape(len(array), -1)
    if depth == 16:
        packed = [row.astype(">u2").tobytes() for row in rows]
    else:
        shifts = np.arange(depth - 1, -1, -1)
        packed = [
            np.packbits((row[:, None] >> shifts & 1).astype(np.uint8)).tobytes() for row in rows
        ]
    return b"".join(b"\0" + row for row in packed)


def png(
    path: Path,
    array: NDArray[Any],
    depth: int,
    colour_type: int,
    before: bytes = b"",
    after: bytes = b"",
    interlaced: bool = False,
) -> Path:
    """Write a PNG by hand, with chunks before and after its pixels."""
    height, width = array.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, int(interlaced))
    passes = [array[r::rr, c::cc] for r, c, rr, cc in ADAM7] if interlaced else [array]
    data = zlib.compress(b"".join(rows_of(part, depth) for part in passes if part.size))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + chunk(b"IDAT", data)
        + after
        + chunk(b"IEND", b"")
    )
    return path


def image_of(array: NDArray[Any], full: int, n_colours: int) -> NDArray[Any]:
    """Return the image that an array is, by float64."""
    values = array.astype(np.float64) / full
    colours = values[..., :n_colours]
    if values.shape[2] > n_colours:
        colours = colours * values[..., n_colours:]
    return np.broadcast_to(colours, (*array.shape[:2], 3))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("colour_type", [GREY, GREY_ALPHA, RGB, RGBA])
def test_sixteen_bits_of_png(tmp_path: Path, colour_type: int, interlaced: bool) -> None:
    array = DEEP[..., : N_CHANNELS[colour_type]]
    image = read_image(png(tmp_path / "a.png", array, 16, colour_type, interlaced=interlaced))
    assert image.dtype == np.float32
    assert image.flags.c_contiguous
    expected = image_of(array, 65535, 1 if colour_type in (GREY, GREY_ALPHA) else 3)
    if colour_type in (GREY, RGB):
        np.testing.assert_array_equal(image, expected.astype(np.float32))
        np.testing.assert_array_equal(
            np.rint(image.astype(np.float64) * 65535)[..., 0], array[..., 0]
        )
    else:
        np.testing.assert_allclose(image, expected, rtol=1e-6)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_of_png(tmp_path: Path, depth: int, interlaced: bool) -> None:
    array = DEEP[..., :1] >> (16 - depth)
    image = read_image(png(tmp_path / "a.png", array, depth, GREY, interlaced=interlaced))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image[..., 1], array[..., 0] * (255 // (2**depth - 1)))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palette_of_png(tmp_path: Path, depth: int) -> None:
    places = DEEP[..., :1] >> (16 - depth)
    colours = RNG.integers(0, 256, (2**depth, 3)).astype(np.uint8)
    opacity = RNG.integers(0, 256, 2**depth).astype(np.uint8)
    extra = chunk(b"PLTE", colours.tobytes())
    image = read_image(png(tmp_path / "a.png", places, depth, 3, extra))
    np.testing.assert_array_equal(image, colours[places[..., 0]])
    image = read_image(
        png(tmp_path / "b.png", places, depth, 3, extra + chunk(b"tRNS", opacity.tobytes()))
    )
    expected = np.rint(colours[places[..., 0]] * (opacity[places] / 255))
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_black_at_every_depth(tmp_path: Path, depth: int) -> None:
    array = DEEP[..., :1] >> (16 - depth)
    array[0, :5] = 2**depth - 1
    transparent = chunk(b"tRNS", struct.pack(">H", 2**depth - 1))
    image = read_image(png(tmp_path / "a.png", array, depth, GREY, transparent))
    expected = image_of(np.where(array == 2**depth - 1, 0, array), 2**depth - 1, 1)
    np.testing.assert_allclose(image / (1 if depth == 16 else 255), expected, rtol=1e-6)


def test_a_transparent_colour_of_sixteen_bits_is_black(tmp_path: Path) -> None:
    array = DEEP[..., :3].copy()
    array[3:5, 4:9] = (256, 257, 258)
    transparent = chunk(b"tRNS", struct.pack(">3H", 256, 257, 258))
    image = read_image(png(tmp_path / "a.png", array, 16, RGB, transparent))
    expected = array.copy()
    expected[3:5, 4:9] = 0
    np.testing.assert_array_equal(image, image_of(expected, 65535, 3).astype(np.float32))


def test_gamma_and_significant_bits_are_left_alone(tmp_path: Path) -> None:
    extra = chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"sBIT", bytes([12, 12, 12]))
    image = read_image(png(tmp_path / "a.png", DEEP[..., :3], 16, RGB, extra))
    np.testing.assert_array_equal(image, image_of(DEEP[..., :3], 65535, 3).astype(np.float32))


@pytest.mark.parametrize("place", ["before", "after"])
def test_orientation_of_sixteen_bits_of_colour(tmp_path: Path, place: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    extra = chunk(b"eXIf", exif.tobytes()[6:])
    before, after = (extra, b"") if place == "before" else (b"", extra)
    image = read_image(png(tmp_path / "a.png", DEEP[..., :3], 16, RGB, before, after))
    expected = image_of(np.rot90(DEEP[..., :3], -1), 65535, 3).astype(np.float32)
    np.testing.assert_array_equal(image, expected)


def test_damage_of_sixteen_bits_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = png(tmp_path / "a.png", DEEP[..., :3], 16, RGB).read_bytes()
    whole = read_image(tmp_path / "a.png")
    n_refused = 0
    for place in range(0, len(content) - 12, 37):
        for damaged in (content[:place] or b"\x89", content[:place] + b"?" + content[place + 1 :]):
            (tmp_path / "b.png").write_bytes(damaged)
            try:
                np.testing.assert_array_equal(read_image(tmp_path / "b.png"), whole)
            except ImageError as error:
                assert str(error).startswith(str(tmp_path / "b.png"))  # noqa: PT017
                n_refused += 1
    assert n_refused > 2 * (len(content) // 37) - 5
    assert not caplog.records


@pytest.mark.parametrize("suffix", [".jp2", ".j2k"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("n_channels", [1, 3, 4])
def test_jpeg_2000(tmp_path: Path, n_channels: int, bits: int, suffix: str) -> None:
    array = (DEEP[..., :n_channels] >> (16 - bits)).astype(np.uint8 if bits == 8 else np.uint16)
    content = imagecodecs.jpeg2k_encode(
        array[..., 0] if n_channels == 1 else array,
        level=0,
        reversible=True,
        codecformat=suffix[1:],
        bitspersample=bits,
    )
    (tmp_path / f"a{suffix}").write_bytes(content)
    image = read_image(tmp_path / f"a{suffix}")
    expected = image_of(array, 2**bits - 1, min(3, n_channels))
    if bits == 8:
        np.testing.assert_array_equal(image, np.rint(expected * 255))
    elif n_channels == 4:
        np.testing.assert_allclose(image, expected, rtol=1e-6)
    else:
        np.testing.assert_array_equal(image, expected.astype(np.float32))
    (tmp_path / f"b{suffix}").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=rf"b\{suffix}: expected"):
        read_image(tmp_path / f"b{suffix}")


@pytest.mark.parametrize("largest", [1, 100, 255, 256, 4095, 65535])
@pytest.mark.parametrize("magic", [b"P2", b"P3", b"P5", b"P6"])
def test_netpbm(tmp_path: Path, magic: bytes, largest: int) -> None:
    n_channels = 3 if magic in (b"P3", b"P6") else 1
    array = (DEEP[..., :n_channels] / 65535 * largest).round().astype(np.uint16)
    if magic in (b"P2", b"P3"):
        body = " ".join(map(str, array.ravel().tolist())).encode()
    else:
        body = array.astype("u1" if largest < 256 else ">u2").tobytes()
    header = b"%s\n# a comment\n30 21 # another\n%d\n" % (magic, largest)
    (tmp_path / "a.pnm").write_bytes(header + body)
    image = read_image(tmp_path / "a.pnm")
    expected = image_of(array, largest, n_channels)
    if largest < 256:
        assert image.dtype == np.uint8
        np.testing.assert_allclose(image, expected * 255, atol=0.51)
    else:
        np.testing.assert_array_equal(image, expected.astype(np.float32))
    (tmp_path / "b.pnm").write_bytes(header + body[: len(body) // 2])
    with pytest.raises(ImageError, match=r"b\.pnm: expected"):
        read_image(tmp_path / "b.pnm")


def test_pillow_is_asked_for_no_more_bits_than_it_reads(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", DEEP[..., :3], 16, RGB)
    with Image.open(path) as image, pytest.warns(ReadingWarning, match="give the path to have all"):
        pixels = image_from_pillow(image, "a")
    np.testing.assert_array_equal(pixels, DEEP[..., :3] >> 8)


def test_a_missing_decoder_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = png(tmp_path / "deep.png", DEEP[..., :3], 16, RGB)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)  # as if it were not installed
    with pytest.raises(ImageError, match=r"deep\.png: reading this file needs imagecodecs.*pip"):
        read_image(path)


@pytest.mark.parametrize("bits", [1, 2, 4, 16])
def test_greys_of_a_png_need_no_other_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    pixels = DEEP[..., 0] >> (16 - bits)
    path = png(tmp_path / "grey.png", pixels[..., np.newaxis], bits, GREY)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)  # as if it were not installed
    expected = (pixels / (2**bits - 1))[..., np.newaxis]
    image = read_image(path)
    found = image / 255 if image.dtype == np.uint8 else image
    np.testing.assert_allclose(found, np.repeat(expected, 3, axis=2), rtol=0, atol=1e-7)
