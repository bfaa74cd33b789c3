"""A history as bytes: in a file of its own, which grows, or inside a model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from knnspect import _core
from knnspect.corrections.history import Correction, History
from knnspect.errors import StoreError
from knnspect.files import as_damage, is_there, parse_json, replace_file

__all__ = ["Journal"]

_FORMAT = 1
#: Hexadecimal digits of the checksum at the beginning of a line.
_DIGITS = 32
#: Bytes of the longest journal that is read.
_LONGEST = 1 << 36


@dataclass(frozen=True)
class Journal:
    """The corrections of one fitted model, line by line.

    Each line has a checksum of itself and of the line before it. A line that was cut short, as by a
    kill, is the last one and has no end: it does not count, and the next one is written over it. So
    a correction is there as a whole or not at all.

    Parameters
    ----------
    model : str
        What tells the fitted model from others: a journal of another one does not count.
    images : tuple of str or None
        The images of `fit` in the gallery beside the file; None where there is no gallery.
    history : History
        The corrections.
    size : int
        Bytes of all whole lines; 0 before the first correction.
    last : int
        Where the last line begins.
    checksum : str
        That of the last line.

    Examples
    --------
    >>> journal = Journal("4f0c", None, History())
    >>> Journal.parse(journal.to_bytes(), Path("corrections")).model
    '4f0c'
    """

    model: str
    images: tuple[str, ...] | None
    history: History
    size: int = 0
    last: int = 0
    checksum: str = ""

    def to_bytes(self) -> bytes:
        """Return the whole journal."""
        lines, checksum = [], ""
        for value in (self._head(), *(one.to_json() for one in self.history.corrections)):
            line, checksum = _line(value, checksum)
            lines.append(line)
        return b"".join(lines)

    @classmethod
    def parse(cls, contents: bytes, path: Path) -> Journal:
        """Return what `to_bytes` returned, or a file holds.

        Raises
        ------
        StoreError
            If it is damaged, or of a newer version.
        """
        *lines, rest = contents.split(b"\n")
        checksum, values = "", []
        with as_damage(path, "what was corrected"):
            for number, line in enumerate(lines, start=1):
                before, checksum = checksum, line[:_DIGITS].decode("ascii", "replace")
                if not _is_whole(line, before):
                    raise ValueError(f"line {number} was altered")
                values.append(parse_json(line[_DIGITS + 1 :], path, "what was corrected"))
            if _is_whole(rest[:-1], checksum):  # no kill leaves a byte in place of the end
                raise ValueError("the end of the last line was altered")
            if not values:
                return cls("", None, History())
            head = values[0]
            if head["format"] != _FORMAT:
                raise StoreError(f"{path}: was written by a newer version of knnspect", path=path)
            images = head["images"]
            history = History(map(Correction.from_json, values[1:]))
            size = sum(len(line) + 1 for line in lines)
            last = size - len(lines[-1]) - 1
            of_fit = None if images is None else tuple(map(str, images))
            return cls(str(head["model"]), of_fit, history, size, last, checksum)

    @classmethod
    def read(cls, file: Path) -> Journal | None:
        """Return the journal in a file; None if there is none, or no whole line in it."""
        if not is_there(file):
            return None
        journal = cls.parse(_core.read_file(file, _LONGEST, False), file)
        return journal if journal.size else None

    def check(self, file: Path) -> None:
        """Raise a StoreError unless this is what a file holds; one of another model counts as none.

        Half a line at its end, as a kill leaves it, does not matter.
        """
        if self.size:
            is_known = self._is_in(file)
        else:
            there = Journal.read(file)
            is_known = there is None or there.model != self.model
        if not is_known:
            raise StoreError(
                f"{file.parent}: was corrected by another process since it was loaded: load it "
                "again",
                path=file.parent,
            )

    def append(self, file: Path, correction: Correction) -> Journal:
        """Write one more correction to a file, and return the journal with it.

        When it returns, the correction is on the disk. The caller keeps others from writing.

        Raises
        ------
        StoreError
            If the file holds something else than this journal, or cannot be written; it is then as
            it was.
        """
        begun = self.begun(file, self.images)
        line, checksum = _line(correction.to_json(), begun.checksum)
        _write_at(file, begun.size, line)
        return Journal(
            self.model,
            self.images,
            self.history.with_(correction),
            begun.size + len(line),
            begun.size,
            checksum,
        )

    def begun(self, file: Path, images: tuple[str, ...] | None) -> Journal:
        """Write the first line to a file, if there is none, and return the journal with it.

        Parameters
        ----------
        file : Path
            The file, which is checked as `check` does.
        images : tuple of str or None
            The images of `fit`, for the first line.
        """
        self.check(file)
        if self.size:
            return self
        begun = replace(self, images=images)
        line, checksum = _line(begun._head(), "")
        replace_file(file, line, follow_links=False)
        return replace(begun, size=len(line), checksum=checksum)

    def _is_in(self, file: Path) -> bool:
        """Return whether a file holds this journal, and no more whole lines."""
        try:
            with open(os.open(file, _flags(os.O_RDONLY)), "rb") as opened:  # noqa: PTH123 - by number
                opened.seek(self.last)
                line, rest = opened.read(self.size - self.last), opened.read()
        except OSError as error:
            raise StoreError(f"{file}: cannot be read: {error.strerror}", path=file) from error
        return (
            line.startswith(self.checksum.encode()) and line.endswith(b"\n") and b"\n" not in rest
        )

    def _head(self) -> dict[str, Any]:
        images: Sequence[str] | None = self.images
        return {
            "format": _FORMAT,
            "model": self.model,
            "images": None if images is None else list(images),
        }


def _line(value: dict[str, Any], before: str) -> tuple[bytes, str]:
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    checksum = _checksum(text, before)
    return checksum.encode() + b" " + text + b"\n", checksum


def _is_whole(line: bytes, before: str) -> bool:
    text = line[_DIGITS + 1 :]
    return line[: _DIGITS + 1] == f"{_checksum(text, before)} ".encode()


def _checksum(text: bytes, before: str) -> str:
    return sha256(before.encode("utf-8", "replace") + text).hexdigest()[:_DIGITS]


def _write_at(file: Path, size: int, line: bytes) -> None:
    """Write a line behind so many bytes of a file; what is there is the rest of a killed one."""
    try:
        number = os.open(file, _flags(os.O_WRONLY))
        try:
            os.ftruncate(number, size)
            os.lseek(number, size, os.SEEK_SET)
            left = memoryview(line)
            try:
                while left:
                    left = left[os.write(number, left) :]
                os.fsync(number)
            except OSError:
                os.ftruncate(number, size)
                raise
        finally:
            os.close(number)
    except OSError as error:
        raise StoreError(f"{file}: cannot be written: {error.strerror}", path=file) from error


def _flags(flags: int) -> int:
    """Return flags to open a file with, but not what a link leads to, and without waiting."""
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):
        flags |= getattr(os, name, 0)
    return flags
