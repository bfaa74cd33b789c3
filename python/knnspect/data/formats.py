"""Which files are images, by their first bytes and by their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, NamedTuple

from PIL import (
    BmpImagePlugin,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    WebPImagePlugin,
)

__all__ = ["FORMATS", "FORMAT_WORDS", "IMAGE_SUFFIXES", "OTHER_SUFFIXES", "Format", "format_of"]


class Format(NamedTuple):
    """A file format that is read.

    Attributes
    ----------
    name : str
        Its name.
    suffixes : tuple of str
        Endings of its files, in lower case.
    signatures : tuple of (int, bytes)
        What its files begin with: bytes at a position. One of them is enough.
    open_in_pillow : callable or None
        Pillow's reader, for the size, and for what Pillow reads at its own depth. None for TIFF.
    """

    name: str
    suffixes: tuple[str, ...]
    signatures: tuple[tuple[int, bytes], ...]
    open_in_pillow: Callable[[IO[bytes]], ImageFile.ImageFile] | None


# A closed list: Pillow's other plugins are less tried, and one of them starts Ghostscript. The
# readers are called by their classes, as `Image.open` has one limit of pixels for all threads.
FORMATS = (
    Format("PNG", (".png",), ((0, b"\x89PNG\r\n\x1a\n"),), PngImagePlugin.PngImageFile),
    Format(
        "JPEG",
        (".jpg", ".jpeg", ".jpe", ".jfif", ".jif"),
        ((0, b"\xff\xd8\xff"),),
        JpegImagePlugin.JpegImageFile,
    ),
    Format(
        "TIFF",
        (".tif", ".tiff", ".btf"),
        ((0, b"II*\0"), (0, b"MM\0*"), (0, b"II+\0"), (0, b"MM\0+")),
        None,
    ),
    Format("BMP", (".bmp", ".dib"), ((0, b"BM"),), BmpImagePlugin.BmpImageFile),
    Format("WebP", (".webp",), ((8, b"WEBP"),), WebPImagePlugin.WebPImageFile),
    Format(
        "JPEG 2000",
        (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        ((0, b"\xff\x4f\xff\x51"), (0, b"\0\0\0\x0cjP  \r\n\x87\n")),
        Jpeg2KImagePlugin.Jpeg2KImageFile,
    ),
    Format(
        "PNM",
        (".ppm", ".pgm", ".pbm", ".pnm"),
        tuple((0, b"P" + digit) for digit in (b"1", b"2", b"3", b"4", b"5", b"6")),
        PpmImagePlugin.PpmImageFile,
    ),
)

FORMAT_WORDS = "a PNG, JPEG, JPEG 2000, BMP, TIFF, WebP or PNM (PPM, PGM, PBM) image"
"""The formats that are read, for messages."""

IMAGE_SUFFIXES = frozenset(suffix for format_ in FORMATS for suffix in format_.suffixes)
"""File name endings, in lower case, of the formats that `read_image` reads."""

OTHER_SUFFIXES = frozenset(
    """
    .3fr .apng .arw .avif .bpg .cr2 .cr3 .crw .cur .czi .dcm .dcr .dds .dicom .djvu .dng .emf .eps
    .erf .exr .fit .fits .flif .gif .hdr .heic .heif .hif .icns .ico .iiq .img .j2p .jls .jng .jp3
    .jpm .jxl .jxr .kdc .lif .lsm .mef .mng .mos .mpo .mrw .nd2 .nef .nrw .orf .pam .pcx .pef .pfm
    .psb .psd .qoi .raf .ras .raw .rgbe .rw2 .rwl .scn .sgi .sr2 .srf .srw .svg .svs .tga .vsi .wbmp
    .wdp .wmf .x3f .xbm .xcf .xpm
    """.split()  # noqa: SIM905 - a list of them would have one to a line
)
"""Endings of image formats that `read_image` does not read, so that folders can say so."""


def format_of(head: bytes) -> Format | None:
    """Return the format of a file by its first 16 bytes, or None if it is none of those read.

    Examples
    --------
    >>> format_of(b"BM" + bytes(14)).name, format_of(b"GIF89a")
    ('BMP', None)
    """
    for format_ in FORMATS:
        if any(head[at:].startswith(bytes_) for at, bytes_ in format_.signatures):
            return format_
    return None
