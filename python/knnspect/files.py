"""Files: replaced whole or not at all, and read only where they are files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from knnspect import _core
from knnspect.errors import DTypeError, KnnspectError, StoreError

__all__ = [
    "as_damage",
    "check_path",
    "is_folder",
    "is_there",
    "parse_json",
    "read_json",
    "replace_file",
    "write_json",
]

#: JSON of ours is a few levels deep.
_DEEPEST = 20
#: Bytes of a file that holds JSON of ours and nothing else.
_LONGEST = 1 << 24


def replace_file(
    path: str | os.PathLike[str], contents: bytes, *, follow_links: bool = True
) -> None:
    """Write a file beside its place, then put it there in one step.

    A reader sees the file that was there before, or the new one, and a failure leaves the old one
    as it was. The new one has the permissions of the old one. What killed processes have left in
    the folder is deleted.

    Parameters
    ----------
    path : path-like
        Where to. The folder has to exist; a file of that name is replaced.
    contents : bytes
        The whole file.
    follow_links : bool, default True
        Replace the file that a symbolic link points to; if False, a link is refused.

    Raises
    ------
    StoreError
        If the file cannot be written: no such folder, no permission, no space, or something there
        that is not a regular file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     replace_file(f"{folder}/a.txt", b"whole")
    ...     Path(f"{folder}/a.txt").read_text()
    'whole'
    """
    _core.replace_file(check_path(path), contents, follow_links)


def write_json(path: str | os.PathLike[str], value: Any, *, follow_links: bool = False) -> None:
    """Write a value to a JSON file, in one step: a reader finds the old one or the new one.

    Parameters
    ----------
    path : path-like
        The file.
    value
        JSON-compatible; numbers are finite.
    follow_links : bool, default False
        Replace the file that a symbolic link points to; if False, a link is refused.

    Raises
    ------
    StoreError
        If the file cannot be written.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    replace_file(path, text.encode(), follow_links=follow_links)


def read_json(path: Path, *, follow_links: bool = False) -> Any:
    """Return what a JSON file of ours holds.

    Parameters
    ----------
    path : Path
        A regular file.
    follow_links : bool, default False
        Read the file that a symbolic link points to; if False, a link is refused.

    Raises
    ------
    StoreError
        If it cannot be read, is not JSON, or is too long or too deep to be ours.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     replace_file(f"{folder}/a.json", b'{"seed": 0}')
    ...     read_json(Path(f"{folder}/a.json"))
    {'seed': 0}
    """
    return parse_json(_core.read_file(check_path(path), _LONGEST, follow_links), path, "it")


def parse_json(text: str | bytes, path: str | os.PathLike[str], what: str) -> Any:
    """Return the value of JSON that was read from a file.

    Parameters
    ----------
    text : str or bytes
        The JSON.
    path : path-like
        The file, for messages.
    what : str
        Which part of the file it is, for messages.

    Raises
    ------
    StoreError
        If it is not JSON, is deeper than ours is, or has a key twice.

    Examples
    --------
    >>> parse_json("[" * 100_000, "model.ks", "its config")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    knnspect.errors.StoreError: model.ks: is damaged: its config cannot be read (...)
    """
    with as_damage(path, what, "read"):
        value = json.loads(text, object_pairs_hook=_without_doubles)
        _check_depth(value)
    return value


@contextmanager
def as_damage(path: str | os.PathLike[str], what: str, verb: str = "used") -> Iterator[None]:
    """Raise a StoreError for what goes wrong with the contents of a file.

    Checksums do not keep others from writing nonsense, so any value may be of another type, or far
    from those that make sense.

    >>> with as_damage("a.ks", "its settings"):
    ...     {}["seed"]
    Traceback (most recent call last):
    ...
    knnspect.errors.StoreError: a.ks: is damaged: its settings cannot be used ('seed' is missing)
    """
    try:
        yield
    except StoreError as error:
        if os.fspath(path) in str(error):
            raise
        raise StoreError(f"{os.fspath(path)}: is damaged: {error}") from error
    except KeyError as error:
        reason = _short(f"{error} is missing")
        raise StoreError(
            f"{os.fspath(path)}: is damaged: {what} cannot be {verb} ({reason})"
        ) from error
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        # The words of others say too little without the kind.
        is_clear = isinstance(error, (KnnspectError, ValueError))
        kind = "" if is_clear else f"{type(error).__name__}: "
        reason = f"{kind}{error}"
        raise StoreError(
            f"{os.fspath(path)}: is damaged: {what} cannot be {verb} ({_short(reason)})"
        ) from error


def check_path(path: object, name: str = "path") -> Path:
    """Return a path, or raise a DTypeError or StoreError if no file can have it.

    A URI of this machine is the path that it names.

    >>> check_path("file:///data/solar%20cells").as_posix()
    '/data/solar cells'
    >>> check_path("s3://bucket/cells")
    Traceback (most recent call last):
    ...
    knnspect.errors.StoreError: s3://bucket/cells: expected a path of this machine or file:///…, \
got s3: files are memory-mapped, so mount it, and give its path
    >>> check_path(7)
    Traceback (most recent call last):
    ...
    knnspect.errors.DTypeError: path: expected a path, got int
    """
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise DTypeError(f"{name}: expected a path, got {type(path).__name__}")
    reason = "it has a null character" if "\0" in os.fspath(path) else None
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        reason = "it has characters that the file system has not"
    if reason is not None:
        raise StoreError(f"{os.fspath(path)!r}: cannot be the path of a file: {reason}")
    if uri := re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+)://([^/]*)", os.fspath(path)):
        return _path_of(os.fspath(path), *uri.groups())
    return Path(path)


def _path_of(uri: str, scheme: str, host: str) -> Path:
    """Return the path that a URI names on this machine."""
    if scheme.lower() == "file" and host.lower() in ("", "localhost"):
        return Path(unquote(uri.split("://", 1)[1][len(host) :]))
    got = f"a file of {host}" if scheme.lower() == "file" else scheme
    raise StoreError(
        f"{uri}: expected a path of this machine or file:///…, got {got}: files are memory-mapped, "
        "so mount it, and give its path"
    )


def is_folder(path: Path) -> bool:
    """Return whether there is a folder; not if a path is too long for any."""
    return os.path.isdir(path)  # noqa: PTH112 - Path's raises for paths that are too long


def is_there(path: Path) -> bool:
    """Return whether there is anything of this name, also a link that leads nowhere."""
    return os.path.lexists(path)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{double!r} is there twice")
    return values


def _check_depth(value: object) -> None:
    """Raise a ValueError where comparing or showing a value could end in a RecursionError."""
    values = [value]
    for _ in range(_DEEPEST):
        inner: list[object] = []
        for part in values:
            if isinstance(part, dict):
                inner += part.values()
            elif isinstance(part, list):
                inner += part
        if not inner:
            return
        values = inner
    raise ValueError(f"it is more than {_DEEPEST} levels deep")


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:199] + "…"
