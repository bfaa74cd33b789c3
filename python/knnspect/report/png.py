"""PNG files that are written some rows at a time, so that large pictures need little memory."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from knnspect.data.own_pictures import SOFTWARE
from knnspect.errors import StoreError
from knnspect.files import check_path, replace_file

__all__ = ["write_png"]

#: Pixels from which on a picture is not held in memory as a file.
_LARGE = 2**24


def write_png(
    parts: Iterable[NDArray[np.uint8]],
    size: tuple[int, int],
    path: str | os.PathLike[str],
    n_channels: int = 3,
) -> None:
    """Write a picture to a PNG file, all of it or nothing.

    Parameters
    ----------
    parts : iterable of ndarray of uint8
        Rows from top to bottom, shape ``(n_rows, width, 3)`` or, for grey, ``(n_rows, width)``.
    size : (int, int)
        Height and width of the whole picture.
    path : path-like
        Where to. The folder has to exist; a file of that name is replaced, and keeps its mode.
    n_channels : {1, 3}, default 3
        Of grey, or of red, green, blue.

    Raises
    ------
    StoreError
        If the file cannot be written: no such folder, no permission, no space.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> rows = [np.full((2, 3), 7, np.uint8), np.full((1, 3), 9, np.uint8)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_png(rows, (3, 3), f"{folder}/grey.png", n_channels=1)
    ...     with Image.open(f"{folder}/grey.png") as picture:
    ...         np.asarray(picture)[:, 0].tolist()
    [7, 7, 9]
    """
    pieces = _png(parts, size, n_channels)
    if size[0] * size[1] <= _LARGE:
        replace_file(path, b"".join(pieces))
    else:
        _replace_by_pieces(check_path(path), pieces)


def _replace_by_pieces(target: Path, pieces: Iterable[bytes]) -> None:
    """Replace a file as `replace_file` does, without having all of it in memory."""
    try:
        real = Path(os.path.realpath(target))  # not the link is replaced, but where it leads
        beside = real.parent / f".knnspect-{secrets.token_hex(8)}"
        try:
            with beside.open("xb") as file:
                _lock(file)
                with contextlib.suppress(OSError):  # there is none yet
                    beside.chmod(stat.S_IMODE(real.stat().st_mode))
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(real)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StoreError(f"{target}: cannot be written: {error.strerror or error}") from error


def _lock(file: IO[bytes]) -> None:
    """Say that a file has a writer: files of such names without one were left by killed ones."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl  # not on Windows

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _png(
    parts: Iterable[NDArray[np.uint8]], size: tuple[int, int], n_channels: int
) -> Iterator[bytes]:
    """Return a PNG in pieces; libraries want the whole picture, and give the whole file.

    Each row is written as its difference from the row above, the filter that serves photographs
    under smooth colours best.
    """
    header = struct.pack(">IIBBBBB", size[1], size[0], 8, {1: 0, 3: 2}[n_channels], 0, 0, 0)
    yield b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header)
    # So that it is not taken for an image to be judged.
    yield _chunk(b"tEXt", b"Software\0" + SOFTWARE.encode("latin-1"))
    compressor = zlib.compressobj()
    above = np.zeros(size[1] * n_channels, np.uint8)
    for part in parts:
        rows = part.reshape(len(part), -1)
        filtered = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
        filtered[:, 0] = 2
        np.subtract(rows[0], above, out=filtered[0, 1:])
        np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
        above = rows[-1]
        if data := compressor.compress(filtered.data):
            yield _chunk(b"IDAT", data)
    yield _chunk(b"IDAT", compressor.flush()) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
