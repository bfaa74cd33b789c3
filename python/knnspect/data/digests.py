"""Digests of images: what tells an image from another one of the same name."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.errors import ImageError

__all__ = ["DIGEST_BYTES", "file_digest", "pixels_digest"]

#: Length of a digest: that of SHA-256.
DIGEST_BYTES = 32

_STEP = 1 << 20


def file_digest(file: str | os.PathLike[str]) -> bytes:
    """Return the SHA-256 of a file's bytes.

    Reading the bytes is far cheaper than decoding them, and unlike a time or a size they cannot
    agree by accident.

    Parameters
    ----------
    file : path-like
        The file of an image.

    Returns
    -------
    bytes
        `DIGEST_BYTES` of them.

    Raises
    ------
    ImageError
        If the file cannot be read, or is not a file: a pipe or a device has no bytes to compare.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a.png"
    ...     _ = path.write_bytes(b"pixels")
    ...     file_digest(path).hex()[:16]
    '6ec9c2b0eb140107'
    """
    digest = hashlib.sha256()
    # Without waiting for a writer, should it be a pipe.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(file, flags), "rb", buffering=0) as opened:  # noqa: PTH123 - by number
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise ImageError(
                    f"{file}: expected an image file, got something that is not a file",
                    path=Path(file),
                )
            while part := opened.read(_STEP):
                digest.update(part)
    except OSError as error:
        raise ImageError(
            f"{file}: expected a readable file, got: {error.strerror}", path=Path(file)
        ) from error
    return digest.digest()


def pixels_digest(image: NDArray[Any]) -> bytes:
    """Return the SHA-256 of an image's shape, element type and values.

    Parameters
    ----------
    image : ndarray
        An image as it was loaded.

    Returns
    -------
    bytes
        `DIGEST_BYTES` of them.

    Examples
    --------
    >>> black = np.zeros((2, 3, 3), np.uint8)
    >>> pixels_digest(black) == pixels_digest(black.copy())
    True
    >>> pixels_digest(black) == pixels_digest(black.swapaxes(0, 1))
    False
    """
    digest = hashlib.sha256(f"{image.shape} {image.dtype.str}".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()
