"""The manifest of a sharded gallery: its shards, and the state in which each counts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from knnspect import _core
from knnspect.errors import StoreError
from knnspect.files import as_damage, parse_json, replace_file
from knnspect.search.shards import Shard, Shards
from knnspect.validation import check_choice, check_count

__all__ = ["MANIFEST", "Manifest", "read_manifest"]

#: The file's name.
MANIFEST = "manifest"
_FORMAT = "knnspect sharded gallery"
#: The newest that is read. The first had neither `next` nor `leftover`.
_VERSION = 2
#: Bytes of the largest that is read: some hundred thousand shards.
_LONGEST = 1 << 26


@dataclass(frozen=True)
class Manifest:
    """What a manifest says.

    Parameters
    ----------
    version : int
        One more with each change.
    upsample, dtype : str
        As of the gallery; all shards have the same.
    shards : Shards
        The folders, with the state in which each counts. What a shard's journal has after that
        state was never promised to anyone.
    next_number : int
        The number in the name of the next shard: one that no shard has had.
    leftover : tuple of Path, default ()
        Folders of shards that are not yet, or no more, shards of the gallery. The next process that
        opens it for writing deletes those that lie within its folder.
    """

    version: int
    upsample: str
    dtype: str
    shards: Shards
    next_number: int
    leftover: tuple[Path, ...] = ()

    def after(self, shards: Sequence[Shard], **changes: Any) -> Manifest:
        """Return the manifest after a change of shards, of their states, or of other fields."""
        shards_ = replace(self.shards, shards=tuple(shards))
        return replace(self, version=self.version + 1, shards=shards_, **changes)

    def write(self) -> None:
        """Put the manifest in the place of the one before, in one step.

        Raises
        ------
        StoreError
            If it cannot be written; the one before is still there.
        """
        home = self.shards.home
        value = {
            "format": _FORMAT,
            "format_version": _VERSION,
            "version": self.version,
            "upsample": self.upsample,
            "dtype": self.dtype,
            "next": self.next_number,
            "leftover": [_relative(path, home) for path in self.leftover],
            "shards": [
                {
                    "name": shard.name,
                    "path": _relative(shard.path, home),
                    "state": shard.state,
                    "n_images": shard.n_images,
                }
                for shard in self.shards.shards
            ],
        }
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        replace_file(home / MANIFEST, _checksum(text) + b" " + text + b"\n", follow_links=False)


def read_manifest(home: Path) -> Manifest:
    """Return the manifest in a folder.

    Raises
    ------
    StoreError
        If there is none, or it is damaged, of a newer version, or names a shard twice.
    """
    path = home / MANIFEST
    checksum, _, text = _core.read_file(path, _LONGEST, False).partition(b" ")
    if checksum != _checksum(text.removesuffix(b"\n")):
        raise StoreError(f"{path}: is damaged: its checksum is that of other contents", path=path)
    value = parse_json(text, path, "it")
    with as_damage(path, "it"):
        if value["format"] != _FORMAT:
            raise StoreError(f"{path}: is not the manifest of a gallery", path=path)
        if check_count("format_version", value["format_version"]) > _VERSION:
            raise StoreError(
                f"{path}: was written by a newer knnspect: its format is "
                f"{value['format_version']}, this one reads up to {_VERSION}",
                path=path,
            )
        shards = tuple(
            Shard(
                str(shard["name"]),
                home / str(shard["path"]),
                str(shard["state"]),
                check_count("n_images", shard["n_images"], 0),
            )
            for shard in value["shards"]
        )
        for what in ("name", "path"):
            _check_once(path, what, [str(getattr(shard, what)) for shard in shards])
        return Manifest(
            check_count("version", value["version"]),
            check_choice("upsample", value["upsample"], ["bilinear", "block"]),
            check_choice("dtype", value["dtype"], ["float32", "float16", "int8"]),
            Shards(home, shards),
            check_count("next", value.get("next", len(shards))),
            tuple(home / str(folder) for folder in value.get("leftover", [])),
        )


def _check_once(path: Path, what: str, values: Sequence[str]) -> None:
    if not values:
        raise StoreError(f"{path}: has no shards", path=path)
    for value in set(values):
        if values.count(value) > 1:
            raise StoreError(f"{path}: two shards have the {what} {value}", path=path)


def _relative(path: Path, home: Path) -> str:
    """Return the path as it is kept: a gallery with all its shards can be moved."""
    return os.fspath(path.relative_to(home) if path.is_relative_to(home) else path)


def _checksum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:32].encode()
