"""The folders of a sharded gallery: made, and deleted."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from knnspect import _core
from knnspect.errors import ParameterError, StoreError
from knnspect.files import check_path, is_there
from knnspect.gallery.manifest import MANIFEST, Manifest
from knnspect.search.shards import Shard, Shards
from knnspect.validation import check_count

__all__ = ["create_shards", "delete_shard"]


def create_shards(
    home: Path, upsample: str, dtype: str, shards: int | Sequence[str | os.PathLike[str]]
) -> None:
    """Make the folders and the manifest of a sharded gallery; see `ShardedGallery.create`.

    Empty shards that an interrupted attempt has left are taken.
    """
    _core.Gallery(upsample, dtype)  # says what is wrong with these
    paths = _paths_of(home, shards)
    _make_home(home, paths)
    made = []
    for number, path in enumerate(paths):
        core = _made(path, upsample, dtype)
        made.append(Shard(f"shard-{number:04d}", path, core.journal_state or "", 0))
        core.close()
    Manifest(1, upsample, dtype, Shards(home, tuple(made)), len(made)).write()


def delete_shard(path: Path) -> bool:
    """Delete the gallery in a folder, and the folder if it is then empty; return if it is gone."""
    try:
        for file in path.iterdir():
            if file.name in ("journal", "lock") or file.name.startswith(
                ("features-", ".knnspect-")
            ):
                file.unlink()
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        # Files of others, the place of a disk, or a link: there is no gallery in it any more.
        return error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.ENOTDIR)
    return True


def _paths_of(home: Path, shards: int | Sequence[str | os.PathLike[str]]) -> list[Path]:
    if isinstance(shards, int) or not isinstance(shards, Sequence) or isinstance(shards, str):
        n = check_count("shards", shards)
        return [home / f"shard-{number:04d}" for number in range(n)]
    paths = [home / check_path(path, "shards") for path in shards]
    if not paths:
        raise ParameterError("shards: expected at least one, got none", parameter="shards")
    real = [os.path.realpath(path) for path in paths]
    for path in paths:
        if real.count(os.path.realpath(path)) > 1:
            raise ParameterError(f"shards: {path} is given twice", parameter="shards")
    return paths


def _make_home(home: Path, paths: Sequence[Path]) -> None:
    try:
        home.mkdir(exist_ok=True)
        there = sorted(home.iterdir())
    except OSError as error:
        raise StoreError(f"{home}: cannot be made: {error}", path=home) from error
    if is_there(home / MANIFEST):
        raise StoreError(f"{home}: holds a gallery already: open it", path=home)
    for path in there:
        if path not in paths and not path.name.startswith(".knnspect-"):
            raise StoreError(f"{home}: is not empty: it has {path.name!r}", path=home)


def _made(path: Path, upsample: str, dtype: str) -> _core.Gallery:
    if not is_there(path / "journal"):
        return _core.Gallery.create(path, upsample, dtype)
    core = _core.Gallery.open(path, True)
    if len(core) or core.n_removed or (core.upsample, core.dtype) != (upsample, dtype):
        raise StoreError(f"{path}: holds a gallery already", path=path)
    return core
