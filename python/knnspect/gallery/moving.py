"""Images that move between shards, when one is added or taken away."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from knnspect import _core
from knnspect.errors import ParameterError, StoreError
from knnspect.gallery.manifest import read_manifest
from knnspect.gallery.open_shards import OpenShards, naming
from knnspect.search.shards import Shard, Shards

__all__ = ["add_shard", "remove_shard"]

#: Bytes that are to be free beyond those of the images, such as for journals.
_SPARE = 1 << 20


def add_shard(opened: OpenShards, path: Path | None) -> str:
    """Add a shard; see `ShardedGallery.add_shard`.

    Its folder is among what is left over until the manifest names the shard: then all images are
    there, and each shard that has given some up has one change more, which removes them.
    """
    manifest, shards = opened.manifest, opened.shards
    name = f"shard-{manifest.next_number:04d}"
    new = Shard(name, shards.home / (path or name), "", 0)
    if new.path in manifest.leftover:
        opened.delete_leftover([new.path])
    _check_new(shards, new.path)
    among = replace(shards, shards=(*shards.shards, new))
    moving = _moving(opened, among, shards.shards)
    to_new = {old: to[name] for old, to in moving.items() if name in to}
    _check_room(opened, {new: sum(map(len, to_new.values()))})
    leftover = opened.manifest.leftover
    opened.commit((), leftover=(*leftover, new.path), next_number=manifest.next_number + 1)
    with opened.changing(to_new), _made(opened, new) as core:
        for old, ids in to_new.items():
            with naming(shards, old):
                core.take(opened.cores[old], ids)
        for old, ids in to_new.items():
            with naming(shards, old):
                opened.cores[old].remove(ids)
        opened.commit((*to_new, name), among.shards, leftover=leftover)
    return name


def remove_shard(opened: OpenShards, name: str) -> None:
    """Take a shard away; see `ShardedGallery.remove_shard`."""
    shards = opened.shards
    names = [shard.name for shard in shards.shards]
    if name not in names:
        raise ParameterError(
            f"{shards.home}: name: expected one of {', '.join(names)}, got {name!r}",
            parameter="name",
        )
    if len(names) == 1:
        raise ParameterError(
            f"{shards.home}: name: {name} is the only shard, which cannot be taken away",
            parameter="name",
        )
    old = shards.shards[names.index(name)]
    among = replace(shards, shards=tuple(shard for shard in shards.shards if shard != old))
    to = _moving(opened, among, [old])[name]
    _check_room(opened, {shard: len(to.get(shard.name, ())) for shard in among.shards})
    core = opened.cores[name]
    with opened.changing(to):
        for owner, ids in to.items():
            with naming(shards, owner):
                opened.cores[owner].take(core, ids)
        opened.commit(to, among.shards, leftover=(*opened.manifest.leftover, old.path))
    del opened.cores[name]
    core.close()
    opened.delete_leftover([old.path])


def _moving(
    opened: OpenShards, among: Shards, old: tuple[Shard, ...] | list[Shard]
) -> dict[str, dict[str, list[str]]]:
    """Return for each old shard which ids belong to others among new shards, by these."""
    moving: dict[str, dict[str, list[str]]] = {}
    for shard in old:
        ids = opened.cores[shard.name].ids
        to = moving.setdefault(shard.name, {})
        for id_, owner in zip(ids, among.owners(ids).tolist(), strict=True):
            if (name := among.shards[owner].name) != shard.name:
                to.setdefault(name, []).append(id_)
    return moving


def _check_new(shards: Shards, path: Path) -> None:
    """Raise a StoreError unless a folder can be that of a new shard: it is nothing, or empty."""
    for shard in shards.shards:
        if os.path.realpath(shard.path) == os.path.realpath(path):
            raise StoreError(f"{path}: is the folder of {shard.name}", path=path)
    try:
        there = next(path.iterdir(), None)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{path}: cannot be a shard: {error}", path=path) from error
    if there is not None:
        raise StoreError(f"{path}: is not empty: it has {there.name!r}", path=path)


def _check_room(opened: OpenShards, n_images: Mapping[Shard, int]) -> None:
    """Raise a StoreError unless the disks have room for so many images in these shards."""
    stored = [core for core in opened.cores.values() if len(core)]
    bytes_each = stored[0].nbytes / len(stored[0]) if stored else 0
    needed: dict[int, int] = {}
    for shard, n in n_images.items():
        place = shard.path if shard.path.exists() else shard.path.parent
        try:
            disk, free = place.stat().st_dev, shutil.disk_usage(place).free
        except OSError as error:
            raise StoreError(f"{shard.path}: cannot be looked at: {error}", path=place) from error
        needed[disk] = needed.get(disk, _SPARE) + int(n * bytes_each)
        if needed[disk] > free:
            raise StoreError(
                f"{opened.shards.home}: shard {shard.name}: the disk of {shard.path} has no room: "
                f"{needed[disk] / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free",
                path=shard.path,
            )


@contextmanager
def _made(opened: OpenShards, new: Shard) -> Iterator[_core.Gallery]:
    """Make a shard among those that are open; delete it if there is an error within."""
    manifest = opened.manifest
    core = None
    try:
        with naming(opened.shards, new.name):
            core = _core.Gallery.create(new.path, manifest.upsample, manifest.dtype)
        opened.cores[new.name] = core
        yield core
    except BaseException:
        # What came late, such as Ctrl-C, may have found it named.
        if new.path in read_manifest(opened.shards.home).leftover:
            opened.cores.pop(new.name, None)
            if core is not None:
                core.close()
            opened.delete_leftover([new.path])
        raise
