"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from knnspect.errors import StoreError

__all__ = ["replace_file"]


def replace_file(path: str | os.PathLike[str], contents: bytes) -> None:
    """Write a file beside its place, then put it there in one step.

    A reader sees the file that was there before, or the new one, and a failure leaves the old one
    as it was.

    Parameters
    ----------
    path : path-like
        Where to. The folder has to exist; a file of that name is replaced.
    contents : bytes
        The whole file.

    Raises
    ------
    StoreError
        If the file cannot be written: no such folder, no permission, no space.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     replace_file(f"{folder}/a.txt", b"whole")
    ...     Path(f"{folder}/a.txt").read_text()
    'whole'
    """
    target = Path(path)
    # A name of its own, not one made from the target's, which may be as long as names can be.
    beside = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        try:
            # Opened by name and not by tempfile, whose files only their owner may read.
            with beside.open("xb") as file:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"{target}: the file cannot be written: {reason}") from error
