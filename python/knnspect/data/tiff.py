"""TIFF files at their own depth, by what their tags say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from knnspect.data.decoded import Decoded, turned
from knnspect.data.quiet import quiet
from knnspect.errors import ImageError
from knnspect.extras import require

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

__all__ = ["TiffHeader", "decode_bands", "decode_tiff", "open_tiff"]

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
_OTHER_PHOTOMETRIC = {
    4: "a transparency mask",
    8: "CIE L*a*b* colours",
    9: "ICC L*a*b* colours",
    10: "ITU L*a*b* colours",
    32803: "the mosaic of a camera's colour filters",
    32844: "LogL values",
    32845: "LogLuv values",
    34892: "linear raw values of a camera",
}
_ASSOCIATED, _STRAIGHT = 1, 2
_UNSIGNED, _SIGNED, _FLOAT, _UNDEFINED = 1, 2, 3, 4
#: CCITT modified Huffman, group 3 and group 4, and JPEG as TIFF 6.0 had it first.
_FAX, _OLD_JPEG, _JPEG = (2, 3, 4), 6, 7
#: Pages that a file of bands may have.
_MOST_BANDS = 4096
#: Pages after the first that are looked at for whether they are images.
_PAGES_ASKED = 64


class TiffHeader(NamedTuple):
    """The first page of an open file, and its size in pixels."""

    page: TiffPage
    n_pixels: int
    size: str
    has_more_pages: bool


@contextmanager
def open_tiff(stream: IO[bytes], where: str) -> Iterator[TiffHeader]:
    """Open a TIFF file; no pixel is decoded yet.

    Raises
    ------
    ImageError
        The file has no page.
    """
    from tifffile import TiffFile

    # Told not to be other programs' variants, for which the library walks through all pages.
    with (
        quiet(),
        TiffFile(stream, name=where, is_lsm=False, is_scanimage=False, is_ndpi=False) as file,
    ):
        try:
            page = file.pages.first
        except IndexError:
            raise ImageError(f"{where}: expected a TIFF image, got a file without a page") from None
        yield TiffHeader(
            page,
            max(1, page.imagedepth) * page.imagelength * page.imagewidth,
            f"{page.imagewidth} x {page.imagelength}",
            _has_more_pages(file),
        )


def decode_tiff(header: TiffHeader, stream: IO[bytes], file_size: int, where: str) -> Decoded:
    """Return the first page of a TIFF file.

    Parameters
    ----------
    header : TiffHeader
        From `open_tiff`, still open. Its size has been checked.
    stream : binary file
        The file.
    file_size : int
        The bytes of the file.
    where : str
        What messages call the image.

    Returns
    -------
    Decoded
        The pixels, and what the tags say of them.

    Raises
    ------
    ImageError
        The page has no meaning as grey or as red, green and blue, or is damaged.
    """
    page = header.page
    remark = "has more than one page: the first was read" if header.has_more_pages else ""
    photometric = _photometric(page)
    _check_meaning(page, photometric, where)
    _check_segments(page, file_size, where)
    compression = int(page.compression)
    if compression in (*_FAX, _OLD_JPEG) or (photometric == _YCBCR and compression != _JPEG):
        return Decoded(_by_libtiff(page, stream), 255, None, False, _orientation(page), remark)
    pixels = _by_tifffile(page)
    if pixels.dtype == np.bool_ and photometric == _PALETTE:
        pixels = pixels.view(np.uint8)
    n_channels = page.samplesperpixel
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    elif int(page.planarconfig) == 2 and n_channels > 1:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.shape != (page.imagelength, page.imagewidth, n_channels):
        raise ImageError(f"{where}: expected {header.size} pixels, got shape {pixels.shape}")
    n_colours = _COLOURS[photometric]
    alpha: Literal["straight", "associated"] | None = None
    if n_channels > n_colours:
        kind = _extra_samples(page)[0]
        if kind in (_ASSOCIATED, _STRAIGHT):
            alpha = "straight" if kind == _STRAIGHT else "associated"
        else:
            pixels = pixels[..., :n_colours]
            remark = "; ".join(
                filter(None, [remark, "has a band beside its colours that is not alpha: left out"])
            )
    full = _full_scale(page)
    are_counts = True
    if photometric == _PALETTE:
        pixels, full = _from_palette(page, pixels, where)
        are_counts = False
    elif photometric == _CMYK:
        pixels, full = _from_cmyk(pixels, full, where)
        are_counts = False
    return Decoded(
        pixels,
        full,
        alpha,
        inverted=photometric == _WHITE_IS_ZERO,
        orientation=_orientation(page),
        remark=remark,
        are_counts=are_counts,
    )


def decode_bands(stream: IO[bytes], file_size: int, where: str, max_values: int) -> NDArray[Any]:
    """Return all bands of a TIFF file as they are, shape (height, width, n_bands).

    Parameters
    ----------
    stream : binary file
        The file.
    file_size : int
        The bytes of the file.
    where : str
        What messages call it.
    max_values : int
        Values that it may have, which are counted before any is decoded.

    Returns
    -------
    ndarray
        Bands are the samples of a pixel; where a pixel has one, each page is a band.

    Raises
    ------
    ImageError
        Pages differ in size, have several bands each, are too large, damaged, or no bands at all.
    """
    from tifffile import TiffFile

    with (
        quiet(),
        TiffFile(stream, name=where, is_lsm=False, is_scanimage=False, is_ndpi=False) as file,
    ):
        pages = _pages_of_bands(file, where)
        first = pages[0]
        n_bands = len(pages) * first.samplesperpixel
        shape = (first.imagelength, first.imagewidth, n_bands)
        if int(np.prod(shape, dtype=float)) > max_values:
            raise ImageError(f"{where}: expected at most {max_values:,} values, got {shape}")
        for page in pages:
            if page.shape != first.shape or page.dtype != first.dtype:
                raise ImageError(
                    f"{where}: expected bands of one size and type, got {page.shape} {page.dtype} "
                    f"beside {first.shape} {first.dtype}"
                )
            _check_segments(page, file_size, where)
        if len(pages) > 1:
            return np.stack([_by_tifffile(page) for page in pages], axis=-1).reshape(shape)
        pixels = _by_tifffile(first)
        if first.samplesperpixel > 1 and int(first.planarconfig) == 2:
            pixels = np.moveaxis(pixels, 0, -1)
        return pixels.reshape(shape)


def _pages_of_bands(file: TiffFile, where: str) -> list[TiffPage]:
    """Return the pages of a file that are bands, or the one that has them all."""
    pages: list[Any] = []
    for page in file.pages:
        if len(pages) > _MOST_BANDS or any(page.offset == other.offset for other in pages[:1]):
            break
        pages.append(page)
    pages = [page for page in pages if not int(page.subfiletype) & 0b101]
    n_images = int((file.imagej_metadata or {}).get("images", 1))
    if not pages or len(pages) > _MOST_BANDS or n_images > max(1, len(pages)):
        n_found = max(n_images, len(pages))
        raise ImageError(
            f"{where}: expected a page with bands, or up to {_MOST_BANDS} pages of one band each, "
            f"got {n_found or 'none'}{' in one page of ImageJ' if n_images > 1 else ''}"
        )
    first = pages[0]
    if len(pages) > 1 and first.samplesperpixel > 1:
        raise ImageError(
            f"{where}: expected one scene, got {len(pages)} pages of {first.samplesperpixel} bands"
        )
    if int(first.photometric) == _PALETTE or first.imagedepth > 1 or first.dtype is None:
        raise ImageError(f"{where}: expected bands of numbers, got a palette or a volume")
    return pages


def _by_tifffile(page: TiffPage) -> NDArray[Any]:
    try:
        return page.asarray(maxworkers=1)  # threads of ours read images already
    except Exception as error:
        if isinstance(error, ImportError) or "requires the 'imagecodecs' package" in str(error):
            require("imagecodecs", for_="reading this file")
        raise


def _by_libtiff(page: TiffPage, stream: IO[bytes]) -> NDArray[Any]:
    """Return grey or colours of 8 bits, as libtiff converts them.

    It knows faxes, old JPEG, and luminance and chrominance that are not in a JPEG stream.
    """
    require("imagecodecs", for_="reading this file")
    import imagecodecs

    stream.seek(0)
    pixels = imagecodecs.tiff_decode(stream.read(), asrgb=True)
    if pixels.shape != (page.imagelength, page.imagewidth, 4):
        raise ValueError(f"its pixels have the shape {pixels.shape}")
    pixels = pixels[..., : 1 if page.samplesperpixel == 1 else 3]
    # It has mirrored the pixels, but does not swap rows and columns: back to how they lie.
    mirrored = {2: 2, 3: 3, 4: 4, 6: 2, 7: 3, 8: 4}.get(_orientation(page), 1)
    return turned(pixels, mirrored)


def _has_more_pages(file: TiffFile) -> bool:
    """Return whether there is an image after the first, not counting reduced ones and masks."""
    stack = file.imagej_metadata
    if stack and int(stack.get("images", 1)) > 1:  # one page with others right behind it
        return True
    offsets = {file.pages.first.offset}
    for index in range(1, _PAGES_ASKED):
        try:
            page: Any = file.pages[index]
        except Exception:
            # The end, or damage after the first page, which is whole.
            return False
        if page.offset in offsets:  # a chain that bites its tail
            return False
        offsets.add(page.offset)
        if not int(page.subfiletype) & 0b101:
            return True
    return False


def _photometric(page: TiffPage) -> int:
    if page.tags.valueof(262) is not None:
        return int(page.photometric)
    # As libtiff takes it where the tag is missing.
    return _RGB if page.samplesperpixel in (3, 4) else _BLACK_IS_ZERO


def _extra_samples(page: TiffPage) -> tuple[int, ...]:
    value = page.tags.valueof(338)
    if value is None:
        return (0,)
    return tuple(map(int, value)) if isinstance(value, tuple) else (int(value),)


def _orientation(page: TiffPage) -> int:
    value = page.tags.valueof(274)
    return value if isinstance(value, int) else 1


def _full_scale(page: TiffPage) -> int:
    bits = page.bitspersample
    if int(page.sampleformat) == _FLOAT or bits == 1:
        return 1
    if int(page.sampleformat) == _SIGNED and bits == 8:
        return 127
    # 16 signed bits, and 32, hold what 16 bits without a sign hold: programs that have no other
    # type write them so.
    return 65535 if bits >= 32 or int(page.sampleformat) == _SIGNED else int(2**bits - 1)


def _check_meaning(page: TiffPage, photometric: int, where: str) -> None:
    """Raise the true reason why a page cannot become red, green and blue."""
    bits, n_bands = page.bitspersample, page.samplesperpixel
    words = f"{n_bands} bands of {bits} bits" if n_bands > 1 else f"one band of {bits} bits"
    expected = f"{where}: expected grey or red, green and blue, with or without alpha"
    if photometric not in _COLOURS:
        kind = _OTHER_PHOTOMETRIC.get(photometric, f"photometric interpretation {photometric}")
        raise ImageError(f"{expected}, got {kind} ({words})")
    if isinstance(bits, tuple):
        raise ImageError(f"{expected}, got bands of different depths ({bits} bits)")
    if page.dtype is None or page.dtype.kind not in "buif":
        raise ImageError(f"{expected}, got {words} that are neither whole numbers nor floats")
    if photometric == _CMYK and page.tags.valueof(332, 1) != 1:
        raise ImageError(f"{expected}, got {words} of other inks than CMYK")
    if page.imagedepth > 1:
        raise ImageError(f"{expected}, got a volume of {page.imagedepth} slices")
    n_colours = _COLOURS[photometric]
    if not n_colours <= n_bands <= n_colours + 1:
        which = {1: "grey", 3: "red, green and blue", 4: "CMYK"}[n_colours]
        if photometric == _PALETTE:
            which = "a palette"
        raise ImageError(f"{expected}, got {words}; its tags call them {which}")


def _check_segments(page: TiffPage, file_size: int, where: str) -> None:
    """Raise if a strip or tile is missing, lies outside the file, or is too large.

    The library fills with zeros what is missing.
    """
    damaged = f"{where}: expected a TIFF image, got a damaged file"
    if 0 in page.shaped:
        raise ImageError(f"{where}: expected an image with pixels, got {page.shape}")
    n_segments = int(np.prod(page.chunked))
    offsets, counts = page.dataoffsets, page.databytecounts
    if len(offsets) != n_segments or len(counts) != n_segments:
        raise ImageError(f"{damaged} ({n_segments} strips or tiles, {len(offsets)} places)")
    # A tile may be larger than the image, but not by much more than programs round up.
    if page.is_tiled and np.prod(page.chunks, dtype=float) > 4 * page.size + 2**24:
        raise ImageError(f"{damaged} (tiles of {page.chunks} values for {page.size})")
    for offset, count in zip(offsets, counts, strict=True):
        if offset <= 0 or count <= 0:
            raise ImageError(f"{damaged} (a strip or tile is missing)")
        if offset + count > file_size:
            raise ImageError(f"{damaged} (it ends within a strip or tile)")


def _from_palette(page: TiffPage, pixels: NDArray[Any], where: str) -> tuple[NDArray[Any], int]:
    """Return the colours of a palette: 8 bits where these are all that it has."""
    if page.dtype is None or page.dtype.kind not in "bu" or page.bitspersample > 16:
        raise ImageError(f"{where}: expected places in a palette, got {page.dtype}")
    colormap = page.colormap
    if colormap is None or colormap.shape != (3, 2**page.bitspersample):
        shape = None if colormap is None else colormap.shape
        raise ImageError(
            f"{where}: expected a palette of 3 x {2**page.bitspersample} values, got {shape}"
        )
    colours = np.asarray(colormap.T)
    if not ((colours % 257).any() and (colours % 256).any()):  # both ways to write 8 bits in 16
        colours = (colours >> 8).astype(np.uint8)
    colours = np.take(colours, pixels[..., 0], axis=0)
    if pixels.shape[2] == 1:
        return _unit(colours)
    raise ImageError(f"{where}: expected a palette without alpha, got {pixels.shape[2]} bands")


def _from_cmyk(pixels: NDArray[Any], full: int, where: str) -> tuple[NDArray[Any], int]:
    """Return red, green and blue, as Pillow does; deeper ones by the same formula."""
    ink, rest = pixels[..., :4], pixels[..., 4:]
    if full == 255:
        rgb = np.asarray(Image.fromarray(np.ascontiguousarray(ink), "CMYK").convert("RGB"))
        return np.concatenate([rgb, rest], axis=2), 255
    shares = pixels.astype(np.float32) / np.float32(full)
    if not (shares.min() >= 0 and shares.max() <= 1):
        raise ImageError(f"{where}: expected values in [0, {full}]")
    rgb = (1 - shares[..., :3]) * (1 - shares[..., 3:4])
    return np.concatenate([rgb, shares[..., 4:]], axis=2), 1


def _unit(colours: NDArray[Any]) -> tuple[NDArray[Any], int]:
    if colours.dtype == np.uint8:
        return colours, 255
    return colours.astype(np.float32) / np.float32(65535), 1
