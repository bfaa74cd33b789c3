"""Reading files and checking arrays."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from knnspect.data import check_image, elpv_split, image_from_pillow, read_image
from knnspect.errors import DTypeError, ImageError, ReadingWarning, ShapeError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (11, 7, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (11, 7), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (11, 7), dtype=np.uint16)


def save(path: Path, array: np.ndarray[Any, Any], **options: Any) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.bmp", {}),
        ("a.tif", {}),
        ("a.tiff", {"compression": "tiff_lzw"}),
        ("a.webp", {"lossless": True}),
        ("a.PNG", {}),
        ("no-suffix", {"format": "PNG"}),
    ],
)
def test_reads_lossless_colour_and_grey(tmp_path: Path, name: str, options: Any) -> None:
    colour = read_image(save(tmp_path / name, COLOUR, **options))
    np.testing.assert_array_equal(colour, COLOUR)
    assert colour.dtype == np.uint8
    assert colour.flags.c_contiguous
    grey = read_image(save(tmp_path / name, GREY, **options))
    np.testing.assert_array_equal(grey, np.stack([GREY] * 3, axis=2))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_reads_jpeg_as_pillow_does(tmp_path: Path, mode: str, progressive: bool) -> None:
    path = tmp_path / "a.jpg"
    image = Image.fromarray(COLOUR).resize((70, 110)).convert(mode)
    image.save(path, progressive=progressive)
    with Image.open(path) as expected:
        np.testing.assert_array_equal(read_image(path), np.asarray(expected.convert("RGB")))


def test_reads_real_images() -> None:
    path = elpv_split(1, 0, 0).train[0]
    image = read_image(str(path))
    assert image.shape == (300, 300, 3)
    with Image.open(path) as expected:
        np.testing.assert_array_equal(image[..., 1], np.asarray(expected))


def test_one_bit(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    bits = GREY > 100
    Image.fromarray(bits).save(path)
    with Image.open(path) as image:
        assert image.mode == "1"
    np.testing.assert_array_equal(read_image(path)[..., 0], bits * 255)


def test_palette(tmp_path: Path) -> None:
    palette = Image.fromarray(COLOUR).quantize(256)
    palette.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), palette.convert("RGB"))


@pytest.mark.parametrize("as_bytes", [False, True])
def test_palette_transparency_becomes_black(tmp_path: Path, as_bytes: bool) -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata([0, 1, 2])
    palette.save(tmp_path / "a.png", transparency=b"\xff\x00\x33" if as_bytes else 1)
    expected = [[255, 0, 0], [0, 0, 0], [0, 0, 51 if as_bytes else 255]]
    assert read_image(tmp_path / "a.png")[0].tolist() == expected


def test_transparent_colour_of_rgb_and_grey(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.array([[[9, 8, 7], [1, 2, 3]]], np.uint8), transparency=(9, 8, 7))
    assert read_image(tmp_path / "a.png")[0].tolist() == [[0, 0, 0], [1, 2, 3]]
    save(tmp_path / "b.png", np.array([[200, 100]], np.uint8), transparency=200)
    assert read_image(tmp_path / "b.png")[0, :, 0].tolist() == [0, 100]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_over_black(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(COLOUR).convert(mode)
    image.putalpha(Image.fromarray(GREY))
    image.save(tmp_path / "a.png")
    opaque = np.asarray(image.convert("RGBA"))[..., :3].astype(float)
    expected = np.rint(opaque * GREY[..., None] / 255)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


def test_premultiplied_modes() -> None:
    for mode, pre in (("RGBA", "RGBa"), ("LA", "La")):
        image = Image.new(mode, (2, 2), (200,) * (len(mode) - 1) + (255,)).convert(pre)
        assert image_from_pillow(image, "x")[0, 0].tolist() == [200, 200, 200]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits(tmp_path: Path, suffix: str) -> None:
    image = read_image(save(tmp_path / f"a{suffix}", DEEP))
    assert image.dtype == np.float32
    expected = np.stack([DEEP.astype(np.float32) / 65535] * 3, axis=2)
    np.testing.assert_array_equal(image, expected)


def test_big_endian_tiff(tmp_path: Path) -> None:
    Image.frombytes("I;16B", (7, 11), DEEP.astype(">u2").tobytes()).save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as image:
        assert image.mode == "I;16B"
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 2] * 65535, DEEP)


def test_thirty_two_bit_integers(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", DEEP.astype(np.int32))
    np.testing.assert_array_equal(read_image(path)[..., 0] * 65535, DEEP)
    for value in (-1, 65536):
        save(path, np.full((2, 2), value, np.int32))
        with pytest.raises(ImageError, match=rf"a\.tif: expected values in \[0, 65535\].*{value}"):
            read_image(path)


def test_float_tiff(tmp_path: Path) -> None:
    values = RNG.random((11, 7), dtype=np.float32)
    path = save(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(read_image(path)[..., 0], values)
    save(path, values * 2)
    with pytest.raises(ImageError, match=r"a\.tif: expected values in \[0, 1\]"):
        read_image(path)
    values[3, 3] = np.nan
    save(path, values)
    with pytest.raises(ImageError, match=r"a\.tif: expected finite values"):
        read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    image = Image.fromarray(COLOUR)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    image.save(tmp_path / f"plain{suffix}", **options)
    image.save(tmp_path / f"turned{suffix}", exif=exif, **options)
    plain = Image.fromarray(read_image(tmp_path / f"plain{suffix}"))
    plain.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(plain))
    np.testing.assert_array_equal(read_image(tmp_path / f"turned{suffix}"), expected)


def test_exif_orientation_of_sixteen_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.png", DEEP, exif=exif)
    np.testing.assert_array_equal(read_image(path)[..., 0] * 65535, np.rot90(DEEP, -1))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_meaningless_orientation_is_ignored(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", COLOUR, exif=exif)), COLOUR)


def test_damaged_exif_is_ignored(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", COLOUR, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f")
    np.testing.assert_array_equal(read_image(path), COLOUR)


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_first_of_several_frames(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    second = Image.fromarray(255 - COLOUR)
    Image.fromarray(COLOUR).save(path, save_all=True, append_images=[second], **options)
    np.testing.assert_array_equal(read_image(path), COLOUR)


def test_first_of_several_pages_is_read_and_the_others_are_said(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    second = Image.fromarray(255 - COLOUR)
    Image.fromarray(COLOUR).save(path, save_all=True, append_images=[second, second])
    with pytest.warns(ReadingWarning, match=r"a\.tif: has more than one page: the first was read"):
        image = read_image(path)
    np.testing.assert_array_equal(image, COLOUR)


def test_one_pixel(tmp_path: Path) -> None:
    assert read_image(save(tmp_path / "a.png", COLOUR[:1, :1])).shape == (1, 1, 3)


def test_missing_folder_and_empty(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png: expected an image file, but there is no"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match=f"{tmp_path.name}: expected an image file, got a folder"):
        read_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty\.png: expected .*empty file \(0 bytes\)"):
        read_image(tmp_path / "empty.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match=r"pipe\.png: .*not a file"):
        read_image(tmp_path / "pipe.png")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything"
)
def test_unreadable_file(tmp_path: Path) -> None:
    save(tmp_path / "a.png", GREY).chmod(0)
    with pytest.raises(ImageError, match=r"a\.png: expected a readable file"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "nul\x00.png"])
def test_impossible_names(name: str) -> None:
    with pytest.raises(ImageError, match=r"\.png: expected"):
        read_image(name)


@pytest.mark.parametrize("content", [b"hello, this is text", b"\x00" * 500, b"\x89PNG\r\n\x1a\n"])
def test_not_an_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"text\.png: expected a PNG, JPEG, .*TIFF, WebP"):
        read_image(tmp_path / "text.png")


def test_other_formats_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.gif", GREY)
    with pytest.raises(ImageError, match=r"a\.gif: expected a PNG"):
        read_image(tmp_path / "a.gif")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_truncated(tmp_path: Path, suffix: str, part: float) -> None:
    noise = RNG.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    path = save(tmp_path / f"cut{suffix}", noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ImageError, match=rf"cut\{suffix}: expected"):
        read_image(path)


@given(
    position=st.integers(0, 400), value=st.integers(0, 255), suffix=st.sampled_from([0, 1, 2, 3])
)
def test_damage_never_raises_anything_else(position: int, value: int, suffix: int) -> None:
    content = bytearray(_ENCODED[suffix])
    content[position % len(content)] = value
    path = _ENCODED_FOLDER / f"{suffix}.img"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = read_image(path)
        except ImageError as error:
            message = str(error)
        else:
            message = ""
            assert image.ndim == 3
            assert image.shape[2] == 3
    assert not message or message.startswith(str(path))


@pytest.fixture(autouse=True, scope="module")
def _encoded(tmp_path_factory: pytest.TempPathFactory) -> None:
    global _ENCODED, _ENCODED_FOLDER
    _ENCODED_FOLDER = tmp_path_factory.mktemp("encoded")
    _ENCODED = [
        save(_ENCODED_FOLDER / f"a{suffix}", COLOUR).read_bytes()
        for suffix in (".png", ".jpg", ".tif", ".bmp")
    ]


_ENCODED: list[bytes] = []
_ENCODED_FOLDER = Path()


def test_header_of_zero_size(tmp_path: Path) -> None:
    path = save(tmp_path / "a.bmp", COLOUR)
    content = bytearray(path.read_bytes())
    content[18:22] = bytes(4)  # the width
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.bmp: expected"):
        read_image(path)
    with pytest.raises(ImageError, match=r"empty: expected an image with pixels"):
        image_from_pillow(Image.new("L", (0, 3)), "empty")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp", ".jp2", ".ppm"])
@pytest.mark.parametrize("limit", [76, 20])  # of 77 pixels
def test_more_pixels_than_allowed(tmp_path: Path, suffix: str, limit: int) -> None:
    path = save(tmp_path / f"bomb{suffix}", COLOUR)
    words = rf"bomb\{suffix}: expected at most {limit} pixels, got 7 x 11 \(77\); .*max_pixels"
    with pytest.raises(ImageError, match=words):
        read_image(path, max_pixels=limit)
    assert read_image(path, max_pixels=77).shape == COLOUR.shape


def png_of(width: int, height: int, colour_type: int, depth: int) -> bytes:
    """Return a small file that claims a size, and has the pixels for one row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("depth", [1, 8, 16])
def test_the_limit_is_ours_and_its_advice_can_be_followed(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png_of(20_001, 10_000, 0, depth))
    with pytest.raises(ImageError, match=r"200,000,000 pixels, got 20001 x 10000") as caught:
        read_image(path)
    assert "max_pixels=210_000_000, on the command line --max-pixels 210MP" in str(caught.value)
    assert Image.MAX_IMAGE_PIXELS is not None
    assert Image.MAX_IMAGE_PIXELS < 100_000_000
    # Above Pillow's limit, below ours: the file is looked at, and found to be truncated.
    path.write_bytes(png_of(10_000, 9_000, 0, 1))
    with pytest.raises(ImageError, match=r"large\.png: expected .*(damaged|truncated)"):
        read_image(path)


# --- arrays


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 3)])
@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "f2", "f4", ">f4", "f8", "?"])
def test_arrays(shape: tuple[int, ...], dtype: str) -> None:
    unit = RNG.random(shape)
    scale = {"u1": 255, "u2": 65535, ">u2": 65535}.get(dtype, 1)
    array = (unit > 0.5) if dtype == "?" else (unit * scale).astype(dtype)
    image = check_image(array, "x")
    assert image.shape == (5, 4, 3)
    assert image.flags.c_contiguous
    expected = array.reshape(5, 4, -1).astype(np.float64)
    if dtype in ("u1", "?"):
        assert image.dtype == np.uint8
        expected = expected * (255 if dtype == "?" else 1)
    else:
        assert image.dtype == np.float32
        assert image.dtype.isnative
        expected = expected / scale
    np.testing.assert_allclose(image, np.broadcast_to(expected, (5, 4, 3)), rtol=1e-6)


def test_array_alpha() -> None:
    pixel = np.array([[[200, 100, 50, 51]]], np.uint8)
    assert check_image(pixel, "x")[0, 0].tolist() == [40, 20, 10]
    deep = check_image(pixel.astype(np.uint16) * 257, "x")
    np.testing.assert_allclose(deep[0, 0] * 255, [40, 20, 10], rtol=1e-6)


@pytest.mark.parametrize(
    "shape", [(5,), (2, 5, 4, 3), (5, 4, 2), (3, 50, 40), (), (0, 4), (4, 0, 3)]
)
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"image 7: expected .*got .*\(") as caught:
        check_image(np.zeros(shape, np.uint8), "image 7")
    assert ("channels come last" in str(caught.value)) == (shape == (3, 50, 40))


@pytest.mark.parametrize("dtype", ["i4", "i8", "u4", "i1", "c8", "U1", "O"])
def test_wrong_types(dtype: str) -> None:
    with pytest.raises(DTypeError, match=r"image 7: expected uint8"):
        check_image(np.zeros((2, 2), dtype), "image 7")
    with pytest.raises(DTypeError, match=r"image 7: expected a NumPy array, got list"):
        check_image([[1]], "image 7")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-0.001, 1.001, 255.0, np.nan, np.inf, -np.inf])
def test_wrong_values(value: float) -> None:
    array = np.full((3, 3), 0.5)
    array[1, 1] = value
    with pytest.raises(ImageError, match=r"image 7: expected .*\[0, 1\]") as caught:
        check_image(array, "image 7")
    assert ("normalised beforehand" in str(caught.value)) == bool(np.isfinite(value))
