"""TIFF files, compared with the array that was written."""

from __future__ import annotations

import logging
import struct
import warnings
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from knnspect.data import read_image
from knnspect.errors import ImageError, ReadingWarning

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 65536, (21, 36, 3)).astype(np.uint16)
GREY = COLOUR[..., 0]
SMALL = (COLOUR >> 8).astype(np.uint8)


def expected(array: NDArray[Any], full: int) -> NDArray[Any]:
    """Return the image that an array of grey or colours is, by float64."""
    values = array.astype(np.float64) / full
    return np.repeat(values[..., None], 3, axis=2) if array.ndim == 2 else values


def assert_read(path: Path, array: NDArray[Any], full: int) -> None:
    image = read_image(path)
    if full == 255:
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, expected(array, 1))
    else:
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image, expected(array, full).astype(np.float32))


class Tiff:
    """Writes a TIFF file tag by tag, so that what is written depends on no library."""

    def __init__(self, order: str = "<", big: bool = False) -> None:
        self.order, self.big = order, big
        self.tags: dict[int, tuple[str, list[int]]] = {}

    def tag(self, code: int, *values: int, kind: str = "H") -> Tiff:
        self.tags[code] = (kind, list(values))
        return self

    def write(self, path: Path, segments: list[bytes], tiled: bool = False) -> Path:
        mark = b"II" if self.order == "<" else b"MM"
        header = mark + struct.pack(
            self.order + ("HHHQ" if self.big else "HI"),
            *((43, 8, 0, 16) if self.big else (42, 8)),
        )
        offset_code, count_code = (324, 325) if tiled else (273, 279)
        self.tag(offset_code, *[0] * len(segments), kind="I")
        self.tag(count_code, *map(len, segments), kind="I")
        entry, word = (20, "Q") if self.big else (12, "I")
        n_value = struct.calcsize(word)
        size = struct.calcsize(self.order + ("Q" if self.big else "H"))
        values_at = len(header) + size + entry * len(self.tags) + n_value
        long = b"".join(
            packed for packed in map(self._packed, sorted(self.tags)) if len(packed) > n_value
        )
        at = values_at + len(long)
        places = []
        for segment in segments:
            places.append(at)
            at += len(segment)
        self.tag(offset_code, *places, kind="I")
        directory = struct.pack(self.order + ("Q" if self.big else "H"), len(self.tags))
        long = b""
        for code in sorted(self.tags):
            kind, values = self.tags[code]
            packed = self._packed(code)
            directory += struct.pack(
                self.order + "HH" + word, code, {"H": 3, "I": 4}[kind], len(values)
            )
            if len(packed) > n_value:
                directory += struct.pack(self.order + word, values_at + len(long))
                long += packed
            else:
                directory += packed.ljust(n_value, b"\0")
        path.write_bytes(header + directory + bytes(n_value) + long + b"".join(segments))
        return path

    def _packed(self, code: int) -> bytes:
        kind, values = self.tags[code]
        return struct.pack(f"{self.order}{len(values)}{kind}", *values)


def tiff_of(
    array: NDArray[Any],
    photometric: int,
    order: str = "<",
    big: bool = False,
    sample_format: int = 1,
) -> Tiff:
    """Return a file's tags, without those that say where the pixels are."""
    height, width = array.shape[:2]
    n_channels = 1 if array.ndim == 2 else array.shape[2]
    tiff = Tiff(order, big).tag(256, width).tag(257, height)
    tiff.tag(258, *[array.dtype.itemsize * 8] * n_channels).tag(259, 1).tag(262, photometric)
    return tiff.tag(277, n_channels).tag(278, height).tag(339, *[sample_format] * n_channels)


# --- what is written without a library


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [False, True])
def test_sixteen_bits_of_colour(tmp_path: Path, planar: bool, order: str, big: bool) -> None:
    tiff = tiff_of(COLOUR, 2, order, big).tag(284, 2 if planar else 1)
    in_file = COLOUR.astype(f"{order}u2")
    planes = [in_file[..., i].tobytes() for i in range(3)] if planar else [in_file.tobytes()]
    assert_read(tiff.write(tmp_path / "a.tif", planes), COLOUR, 65535)


@pytest.mark.parametrize("order", ["<", ">"])
def test_strips_and_tiles(tmp_path: Path, order: str) -> None:
    in_file = COLOUR.astype(f"{order}u2")
    tiff = tiff_of(COLOUR, 2, order).tag(278, 8)
    strips = [in_file[top : top + 8].tobytes() for top in (0, 8, 16)]
    assert_read(tiff.write(tmp_path / "strips.tif", strips), COLOUR, 65535)
    padded = np.pad(in_file, ((0, 32 - 21), (0, 48 - 36), (0, 0)))
    tiles = [
        padded[top : top + 16, left : left + 16].tobytes()
        for top in (0, 16)
        for left in (0, 16, 32)
    ]
    tiff = tiff_of(COLOUR, 2, order).tag(322, 16).tag(323, 16)
    del tiff.tags[278]
    assert_read(tiff.write(tmp_path / "tiles.tif", tiles, tiled=True), COLOUR, 65535)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 10, 12, 14, 16])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_every_depth(tmp_path: Path, bits: int, n_channels: int, order: str) -> None:
    values = COLOUR[..., :n_channels] >> (16 - bits)
    if bits == 16:
        rows = [row.astype(f"{order}u2").tobytes() for row in values]
    else:  # packed, most significant bit first, each row from a byte of its own
        shifts = np.arange(bits - 1, -1, -1)
        rows = [
            np.packbits((row.reshape(-1, 1) >> shifts & 1).astype(np.uint8).ravel()).tobytes()
            for row in values
        ]
    tiff = tiff_of(values, 2 if n_channels == 3 else 1, order).tag(258, *[bits] * n_channels)
    path = tiff.write(tmp_path / "a.tif", [b"".join(rows)])
    array = values if n_channels == 3 else values[..., 0]
    if bits <= 8:
        assert_read(path, array * (255 // (2**bits - 1)), 255)
    else:
        assert_read(path, array, 2**bits - 1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("dtype", "sample_format"),
    [("u2", 1), ("u4", 1), ("i2", 2), ("i4", 2), ("f2", 3), ("f4", 3), ("f8", 3), ("u2", 4)],
)
def test_every_sample_format(tmp_path: Path, dtype: str, sample_format: int, order: str) -> None:
    is_float = dtype[0] == "f"
    values = GREY / 65535 if is_float else GREY >> 1
    values = values.astype(order + dtype)
    tiff = tiff_of(values, 1, order, sample_format=sample_format)
    path = tiff.write(tmp_path / "a.tif", [values.tobytes()])
    assert_read(path, values, 1 if is_float else 65535)


def test_values_out_of_range_are_refused(tmp_path: Path) -> None:
    for dtype, sample_format, value, high in (
        ("<i2", 2, -1, 65535),
        ("<u4", 1, 65536, 65535),
        ("<f4", 3, 1.5, 1),
        ("<f4", 3, np.nan, 1),
    ):
        values = np.full((2, 3), value, dtype)
        tiff = tiff_of(values, 1, sample_format=sample_format)
        path = tiff.write(tmp_path / "a.tif", [values.tobytes()])
        with pytest.raises(ImageError, match=rf"a\.tif: expected .*values in \[0, {high}\]"):
            read_image(path)


def test_white_is_zero(tmp_path: Path) -> None:
    for array, full in ((SMALL[..., 0], 255), (GREY, 65535)):
        path = tiff_of(array, 0).write(tmp_path / "a.tif", [array.tobytes()])
        image = read_image(path)
        np.testing.assert_allclose(
            image,
            full - expected(array, 1) if full == 255 else 1 - expected(array, full),
            atol=1e-7,
        )
    bits = GREY > 30000
    packed = b"".join(np.packbits(row).tobytes() for row in bits)
    path = tiff_of(SMALL[..., 0], 0).tag(258, 1).write(tmp_path / "a.tif", [packed])
    np.testing.assert_array_equal(read_image(path)[..., 1], ~bits * 255)


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("step", [256, 257, 1])
def test_palette(tmp_path: Path, bits: int, step: int) -> None:
    colours = RNG.integers(0, 256, (2**bits, 3)) * step
    if step == 1:  # a palette that needs its 16 bits
        colours = RNG.integers(0, 65536, (2**bits, 3))
    places = SMALL[:, :32, 0] >> (8 - bits)
    shifts = np.arange(bits - 1, -1, -1)
    packed = np.packbits((places[..., None] >> shifts & 1).astype(np.uint8)).tobytes()
    tiff = tiff_of(places, 3).tag(258, bits).tag(320, *colours.T.ravel().tolist())
    path = tiff.write(tmp_path / "a.tif", [packed])
    if step == 1:
        assert_read(path, colours[places], 65535)
    else:
        assert_read(path, colours[places] // step, 255)


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize("dtype", ["u1", "<u2"])
@pytest.mark.parametrize("n_colours", [1, 3])
def test_alpha(tmp_path: Path, n_colours: int, dtype: str, kind: int) -> None:
    full = 255 if dtype == "u1" else 65535
    alpha = (RNG.random((*COLOUR.shape[:2], 1)) * full).astype(dtype)
    colours = (RNG.random((*COLOUR.shape[:2], n_colours)) * (alpha if kind == 1 else full)).astype(
        dtype
    )
    array = np.concatenate([colours, alpha], axis=2)
    tiff = tiff_of(array, 2 if n_colours == 3 else 1).tag(338, kind)
    image = read_image(tiff.write(tmp_path / "a.tif", [array.tobytes()]))
    over_black = colours.astype(np.float64)
    if kind == 2:  # not multiplied yet
        over_black = over_black * alpha / full
    if full == 255:
        np.testing.assert_array_equal(image, np.broadcast_to(np.rint(over_black), image.shape))
    else:
        np.testing.assert_allclose(
            image * 65535, np.broadcast_to(over_black, image.shape), atol=0.02
        )


def test_a_band_that_is_not_alpha_is_left_out_and_said(tmp_path: Path) -> None:
    array = np.concatenate([COLOUR, COLOUR[..., :1] // 2], axis=2)
    path = tiff_of(array, 2).tag(338, 0).write(tmp_path / "a.tif", [array.tobytes()])
    with pytest.warns(ReadingWarning, match=r"a\.tif: has a band beside its colours.*left out"):
        image = read_image(path)
    np.testing.assert_array_equal(image, (COLOUR / 65535).astype(np.float32))


@pytest.mark.parametrize("dtype", ["u1", "<u2"])
def test_cmyk(tmp_path: Path, dtype: str) -> None:
    full = 255 if dtype == "u1" else 65535
    ink = RNG.integers(0, full + 1, (21, 36, 4)).astype(dtype)
    path = tiff_of(ink, 5).write(tmp_path / "a.tif", [ink.tobytes()])
    shares = ink.astype(np.float64) / full
    rgb = (1 - shares[..., :3]) * (1 - shares[..., 3:])
    image = read_image(path)
    assert image.dtype == (np.uint8 if full == 255 else np.float32)
    np.testing.assert_allclose(
        image / (255 if full == 255 else 1), rgb, atol=2e-3 if full == 255 else 1e-6
    )


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2), (2, 1)])
def test_luminance_and_chrominance(tmp_path: Path, subsampling: tuple[int, int]) -> None:
    across, down = subsampling
    y = SMALL[:20, :, 0]
    cb, cr = (SMALL[: 20 // down, : 36 // across, i] for i in (1, 2))
    blocks = y.reshape(20 // down, down, 36 // across, across).transpose(0, 2, 1, 3)
    units = np.concatenate(
        [blocks.reshape(*cb.shape, down * across), cb[..., None], cr[..., None]], axis=2
    )
    tiff = tiff_of(SMALL[:20], 6).tag(530, across, down)
    path = tiff.write(tmp_path / "a.tif", [units.tobytes()])
    wide = [np.repeat(np.repeat(c, down, 0), across, 1).astype(float) - 128 for c in (cb, cr)]
    rgb = np.stack(
        [
            y + 1.402 * wide[1],
            y - 0.344136 * wide[0] - 0.714136 * wide[1],
            y + 1.772 * wide[0],
        ],
        axis=2,
    ).clip(0, 255)
    np.testing.assert_allclose(read_image(path), rgb, atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, orientation: int) -> None:
    path = tiff_of(COLOUR, 2).tag(274, orientation).write(tmp_path / "a.tif", [COLOUR.tobytes()])
    flipped = COLOUR[:, ::-1]
    upright = {
        1: COLOUR,
        2: flipped,
        3: np.rot90(COLOUR, 2),
        4: COLOUR[::-1],
        5: COLOUR.swapaxes(0, 1),
        6: np.rot90(COLOUR, -1),
        7: np.rot90(COLOUR, 2).swapaxes(0, 1),
        8: np.rot90(COLOUR),
    }[orientation]
    assert_read(path, upright, 65535)


@pytest.mark.parametrize(
    ("bands", "tags", "reason"),
    [
        (5, {262: [2], 338: [0, 0]}, r"5 bands of 8 bits; its tags call them red, green and blue"),
        (3, {262: [1], 338: [0, 0]}, r"3 bands of 8 bits; its tags call them grey"),
        (2, {262: [2]}, r"2 bands of 8 bits"),
        (3, {262: [8]}, r"CIE L\*a\*b\* colours \(3 bands of 8 bits\)"),
        (1, {262: [32803]}, r"mosaic of a camera's colour filters \(one band of 8 bits\)"),
        (1, {262: [77]}, r"photometric interpretation 77"),
        (4, {262: [5], 332: [2]}, r"4 bands of 8 bits of other inks than CMYK"),
        (3, {262: [2], 258: [8, 8, 4]}, r"bands of different depths \(\(8, 8, 4\) bits\)"),
        (1, {262: [1], 32997: [3]}, r"a volume of 3 slices"),
        (8, {262: [1], 277: [1], 258: [64], 339: [6]}, r"neither whole numbers nor floats"),
    ],
)
def test_what_is_no_image_of_three_colours_is_refused_with_the_true_reason(
    tmp_path: Path, bands: int, tags: dict[int, list[int]], reason: str
) -> None:
    array = RNG.integers(0, 256, (6, 8, bands)).astype(np.uint8)
    tiff = tiff_of(array, 1)
    for code, values in tags.items():
        tiff.tag(code, *values)
    path = tiff.write(tmp_path / "a.tif", [array.tobytes() * 3])
    with pytest.raises(ImageError, match=rf"a\.tif: expected grey or red, .*got .*{reason}"):
        read_image(path)


# --- what a library compresses


@pytest.mark.parametrize("compression", ["lzw", "zlib", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("layout", ["strips", "tiles", "planes"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_compressions(
    tmp_path: Path, compression: str, predictor: bool, layout: str, order: Any
) -> None:
    options: dict[str, Any] = {"rowsperstrip": 5}
    if layout == "tiles":
        options = {"tile": (16, 16)}
    elif layout == "planes":
        options["planarconfig"] = "separate"
    for array, full in ((COLOUR, 65535), (SMALL, 255), ((COLOUR / 65535).astype(np.float32), 1)):
        tifffile.imwrite(
            tmp_path / "a.tif",
            np.moveaxis(array, -1, 0) if layout == "planes" else array,
            photometric="rgb",
            compression=compression,
            predictor=predictor,
            byteorder=order,
            **options,
        )
        assert_read(tmp_path / "a.tif", array, full)


@pytest.mark.parametrize("mode", ["L", "RGB", "YCbCr", "CMYK"])
def test_jpeg_in_tiff(tmp_path: Path, mode: str) -> None:
    smooth = Image.fromarray(SMALL[:3, :3]).resize((64, 48), Image.Resampling.BICUBIC).convert(mode)
    smooth.save(tmp_path / "a.tif", compression="jpeg", quality=98)
    colours = np.asarray(smooth.convert("RGB"), np.float64)
    np.testing.assert_allclose(read_image(tmp_path / "a.tif"), colours, atol=12)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_faxes(tmp_path: Path, compression: str, orientation: int) -> None:
    bits = GREY > 40000
    path = tmp_path / "a.tif"
    Image.fromarray(bits).save(path, compression=compression, tiffinfo={274: orientation})
    with Image.open(path) as upright:
        np.testing.assert_array_equal(read_image(path)[..., 0] == 255, np.asarray(upright))


# --- pages, damage


def test_a_reduced_image_is_not_a_page(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(COLOUR, photometric="rgb")
        writer.write(COLOUR[::2, ::2], photometric="rgb", subfiletype=1)
    assert_read(tmp_path / "a.tif", COLOUR, 65535)


def test_a_stack_of_imagej_has_more_than_one_page(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([GREY, GREY]), imagej=True)
    with pytest.warns(ReadingWarning, match="more than one page"):
        image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image[..., 0], (GREY / 65535).astype(np.float32))


def test_pages_in_a_circle_end(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY, photometric="minisblack", metadata=None)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    (first,) = struct.unpack_from("<I", content, 4)
    (n_tags,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * n_tags, first)
    (tmp_path / "a.tif").write_bytes(content)
    assert_read(tmp_path / "a.tif", GREY, 65535)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd", "packbits"])
@pytest.mark.parametrize("rows", [21, 4])
def test_a_missing_or_cut_strip_is_damage_and_not_black(
    tmp_path: Path, compression: str | None, rows: int
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOUR, photometric="rgb", compression=compression, rowsperstrip=rows)
    content = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        last = page.dataoffsets[-1] + page.databytecounts[-1]
        counts = page.tags[279]
    path.write_bytes(content[: last - 3])
    with pytest.raises(ImageError, match=r"a\.tif: expected .*damaged"):
        read_image(path)
    without = bytearray(content)
    without[counts.valueoffset : counts.valueoffset + 2] = b"\0\0"  # the first strip has no bytes
    path.write_bytes(without)
    with pytest.raises(ImageError, match=r"a\.tif: expected .*damaged"):
        read_image(path)
    if compression is None and rows == 21:
        return  # where the pixels are in one piece, its length follows from the others
    short = bytearray(content)
    short[counts.valueoffset : counts.valueoffset + 2] = b"\7\0"  # or seven of them
    path.write_bytes(short)
    with pytest.raises(ImageError, match=r"a\.tif: expected .*damaged"):
        read_image(path)


def test_more_pixels_than_allowed_are_not_decoded(tmp_path: Path) -> None:
    tiff = tiff_of(GREY, 1).tag(256, 10**5, kind="I").tag(257, 10**5, kind="I")
    path = tiff.write(tmp_path / "a.tif", [b"abc"])
    with pytest.raises(
        ImageError, match=r"a\.tif: expected at most 200,000,000 pixels, got 100000"
    ):
        read_image(path)
    tiff = tiff_of(GREY, 1).tag(259, 8).tag(322, 2**20, kind="I").tag(323, 2**20, kind="I")
    path = tiff.write(
        tmp_path / "a.tif", [bytes(imagecodecs.zlib_encode(bytes(10**6)))], tiled=True
    )
    with pytest.raises(ImageError, match=r"a\.tif: expected .*tiles of"):
        read_image(path)


def test_damage_is_said_by_an_error_and_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", COLOUR, photometric="rgb", compression="lzw")
    content = (tmp_path / "a.tif").read_bytes()
    rng = np.random.default_rng(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReadingWarning)
        for place in rng.integers(0, min(400, len(content)), 100):
            damaged = bytearray(content)
            damaged[place] ^= int(rng.choice([1, 16, 128, 255]))
            (tmp_path / "b.tif").write_bytes(damaged)
            try:
                image = read_image(tmp_path / "b.tif")
            except ImageError as error:
                assert str(error).startswith(str(tmp_path / "b.tif"))  # noqa: PT017
            else:
                assert image.shape[2] == 3
    assert not caplog.records
    logging.getLogger("tifffile").error("from somebody else")  # whose words are left alone
    assert caplog.messages == ["from somebody else"]
