"""Galleries in folders, as far as Python looks at them itself."""

from __future__ import annotations

import os
from pathlib import Path

from knnspect.files import is_there

__all__ = ["end_of_journal", "is_gallery_folder"]


def is_gallery_folder(path: Path) -> bool:
    """Return whether there is a gallery in a folder, or one whose shards are in folders."""
    return is_there(path / "journal") or is_there(path / "manifest")


def end_of_journal(folder: Path | None) -> bytes | None:
    """Return the size and the end of a journal: every change of a gallery adds to these.

    None if there is no folder, or its journal cannot be read.
    """
    if folder is None:
        return None
    # Without following a link, or waiting should it be a pipe.
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        with open(os.open(folder / "journal", flags), "rb") as journal:  # noqa: PTH123 - by number
            size = journal.seek(0, os.SEEK_END)
            journal.seek(max(size - 4096, 0))
            return size.to_bytes(8, "little") + journal.read(4096)
    except OSError:
        return None  # opening the gallery finds what is wrong, and says it
