"""What tells that a file is as it was without reading it: its size and its times."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from knnspect import _core
from knnspect.data import ImageItem
from knnspect.errors import StoreError
from knnspect.files import as_damage, is_there, parse_json, write_json

__all__ = ["FILES", "FileStamps"]

#: The file in a folder of features.
FILES = "files.json"

#: A file that was changed less than this before it was looked at may be changed again without
#: another time: times have steps, of 2 s at most (FAT). In nanoseconds.
_STEP = 2_000_000_000

#: Bytes of a file that holds them: enough for two million images.
_LONGEST = 1 << 28

#: Size in bytes; times of the last change of the contents, and of the file, in nanoseconds.
_Stamp = tuple[int, int, int]


class FileStamps:
    """Knows which files are unchanged by their sizes and times, so that they need not be read.

    Like Git and rsync it takes a file for unchanged if its size and the time of its last change are
    those that it had when its digest was taken. Beside the time that programs may set
    (``st_mtime``), that which only the system sets is compared (``st_ctime``; on Windows it is when
    the file was made): a copy with the old time in place of a file is noticed. A file that was
    changed within the last two seconds before it was looked at is never taken for unchanged, as
    it may have been changed again in the same step of the clock. What is not known to be unchanged
    is read, and its digest decides.

    Parameters
    ----------
    path : Path
        Where they are kept; a missing file knows nothing, and neither does a damaged one, of which
        it warns.

    Examples
    --------
    >>> import os, tempfile
    >>> from knnspect.data import open_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     image = Path(folder, "a.png")
    ...     _ = image.write_bytes(b"pixels")
    ...     os.utime(image, (0, 0))
    ...     (item,) = open_images(image)
    ...     stamps = FileStamps(Path(folder, "files.json"))
    ...     stamps.is_unchanged(item, item.digest())
    False
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[str, tuple[_Stamp, bytes]] = {}
        self._seen: dict[str, _Stamp] = {}
        if is_there(path):
            try:
                self._kept = _parsed(path)
            except StoreError as error:
                warnings.warn(f"{error}; all files are read to be compared", stacklevel=6)

    def is_unchanged(self, item: ImageItem, digest: bytes) -> bool:
        """Return whether an image's file is as it was when it had this digest; see it, too."""
        self.see(item)
        stamp = self._seen.get(item.id)
        return stamp is not None and self._kept.get(item.id) == (stamp, digest)

    def see(self, item: ImageItem) -> None:
        """Look at the size and the times of an image's file, before its digest is taken."""
        self._seen.pop(item.id, None)
        if item.file is not None:
            try:
                found = item.file.stat()
            except OSError:
                return  # whoever reads it says what is wrong
            if max(found.st_mtime_ns, found.st_ctime_ns) < time.time_ns() - _STEP:
                self._seen[item.id] = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def save(self, digests: Mapping[str, bytes]) -> None:
        """Keep those of the files of images, with their digests; forget all others.

        Raises
        ------
        StoreError
            If the file cannot be written.
        """
        now = {id_: (self._seen[id_], digests[id_]) for id_ in digests if id_ in self._seen}
        if now != self._kept:
            files = {id_: [*stamp, digest.hex()] for id_, (stamp, digest) in now.items()}
            write_json(self._path, files)
            self._kept = now


def _parsed(path: Path) -> dict[str, tuple[_Stamp, bytes]]:
    found: Any = parse_json(_core.read_file(path, _LONGEST, False), path, "it")
    with as_damage(path, "it"):
        return {
            id_: ((int(size), int(changed), int(of_file)), bytes.fromhex(digest))
            for id_, (size, changed, of_file, digest) in found.items()
        }
