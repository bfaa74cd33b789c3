"""The shards of a sharded gallery: opened, and changed together."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from knnspect import _core
from knnspect.errors import KnnspectError, ParameterError, StoreError
from knnspect.gallery.manifest import Manifest, read_manifest
from knnspect.gallery.shard_folders import delete_shard
from knnspect.search.shards import Shard, Shards

__all__ = ["OpenShards", "naming"]

#: Readers try this often to see shards in the states of one manifest, while these change.
_ATTEMPTS = 100


class OpenShards:
    """The shards of a gallery in the states of its manifest, changed together or not at all.

    Parameters
    ----------
    manifest : Manifest
        What it says; `to_read` and `to_write` read it.
    cores : dict of str to Gallery
        The galleries of the shards that could be opened, by name.
    lock : FolderLock, optional
        The right to change them.
    """

    def __init__(
        self,
        manifest: Manifest,
        cores: dict[str, _core.Gallery],
        lock: _core.FolderLock | None = None,
    ) -> None:
        self.manifest, self.cores, self._lock = manifest, cores, lock
        self._is_broken = False

    @classmethod
    def to_read(cls, home: Path, allow_missing: bool) -> OpenShards:
        """Open the shards in a folder for reading; see `ShardedGallery.open`."""
        manifest = read_manifest(home)
        for _ in range(_ATTEMPTS):
            try:
                cores, missing = _opened(manifest, allow_missing=allow_missing)
            except StoreError:
                # Shards may have been compacted twice since the manifest was read.
                again = read_manifest(home)
                if again.version == manifest.version:
                    raise
                manifest = again
                time.sleep(0.001)
                continue
            shards = replace(manifest.shards, missing=missing)
            return cls(replace(manifest, shards=shards), cores)
        raise StoreError(f"{home}: changes faster than it can be opened", path=home)

    @classmethod
    def to_write(cls, home: Path) -> OpenShards:
        """Open the shards in a folder for writing; a change that was interrupted is taken back."""
        read_manifest(home)  # where there is none, no lock is left behind
        lock = _core.FolderLock(home)
        try:
            manifest = read_manifest(home)
            opened = cls(manifest, _opened(manifest, write=True)[0], lock)
            opened.commit(opened.cores)  # a shard that was compacted has another state
            # Elsewhere others may have put something there since.
            opened.delete_leftover([left for left in manifest.leftover if home in left.parents])
        except BaseException:
            lock.close()
            raise
        return opened

    @property
    def shards(self) -> Shards:
        """The folders, and the states that count."""
        return self.manifest.shards

    @property
    def is_writable(self) -> bool:
        """Whether the shards can be changed."""
        return self._lock is not None and all(core.is_writable for core in self.cores.values())

    def check_writable(self) -> None:
        """Raise a StoreError unless the shards can be changed."""
        home = self.shards.home
        if self._is_broken:
            raise StoreError(
                f"{home}: an earlier change failed and could not be taken back: open the gallery "
                "again",
                path=home,
            )
        if not self.is_writable:
            raise StoreError(f'{home}: is not open for writing: open it with mode="r+"', path=home)

    def joined(self) -> _core.Gallery:
        """Return a gallery in memory that shares the images of all shards.

        Raises
        ------
        StoreError
            If an image is in two shards, or in one that it does not belong to, or shards differ in
            shape; the message names them.
        """
        whole = _core.Gallery(self.manifest.upsample, self.manifest.dtype)
        for place, shard in enumerate(self.shards.shards):
            if (core := self.cores.get(shard.name)) is None:
                continue
            try:
                whole.share(core, None, False)
            except KnnspectError as error:
                raise self._unlike_others(shard, error) from error
            ids = core.ids
            (strays,) = np.nonzero(self.shards.owners(ids) != place)
            if len(strays):
                stray = ids[strays[0]]
                owner = self.shards.shards[self.shards.owners([stray])[0]].name
                raise StoreError(
                    f"{self.shards.home}: shard {shard.name}: image {stray!r} is here, and belongs "
                    f"to {owner}",
                    path=shard.path,
                    image=stray,
                )
        return whole

    def change(
        self, ids: Sequence[str], change: Callable[[_core.Gallery, list[str]], None]
    ) -> list[tuple[_core.Gallery, list[str]]]:
        """Change the shards that ids belong to: all of them, or none when there is an error.

        Parameters
        ----------
        ids : sequence of str
            The images that the change is about.
        change : callable
            Changes one shard; it takes the gallery, and those of the ids that belong there.

        Returns
        -------
        list of (Gallery, list of str)
            The shards that were changed, and the ids that belong to each.
        """
        parts: dict[str, list[str]] = {}
        for id_, owner in zip(ids, self.shards.owners(ids).tolist(), strict=True):
            parts.setdefault(self.shards.shards[owner].name, []).append(id_)
        with self.changing(parts):
            for name, part in parts.items():
                with naming(self.shards, name):
                    change(self.cores[name], part)
            self.commit(parts)
        return [(self.cores[name], part) for name, part in parts.items()]

    @contextmanager
    def changing(self, names: Collection[str]) -> Iterator[None]:
        """Bring shards back to the states that the manifest names, if there is an error within."""
        self._is_broken = True
        try:
            yield
        except BaseException:
            with suppress(StoreError):  # if it fails, later changes are refused
                self._take_back(names)
                self._is_broken = False
            raise
        self._is_broken = False

    def compact(self) -> None:
        """Give back the room of removed images, shard by shard; see `ShardedGallery.compact`."""
        # A state is found in a journal that was compacted once since, and not twice.
        self.commit(self.cores)
        done: list[str] = []
        try:
            for name, core in self.cores.items():
                with naming(self.shards, name):
                    core.compact()
                done.append(name)
        finally:
            self.commit(done)

    def verify(self) -> None:
        """Read every image, and compare its checksum."""
        for name, core in self.cores.items():
            with naming(self.shards, name):
                core.verify()

    def close(self) -> None:
        """End writing; in a forked process it does nothing."""
        for core in self.cores.values():
            core.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def commit(
        self, names: Collection[str], among: Sequence[Shard] | None = None, **changes: Any
    ) -> None:
        """Replace the manifest, so that the states of some shards count: the change is made.

        Parameters
        ----------
        names : collection of str
            The shards whose states have changed.
        among : sequence of Shard, optional
            The shards of the gallery from now on; by default those that it had.
        **changes
            Other fields of the manifest.
        """
        among = self.shards.shards if among is None else among
        shards = tuple(
            _as_it_is(shard, self.cores[shard.name]) if shard.name in names else shard
            for shard in among
        )
        manifest = self.manifest.after(shards, **changes)
        if replace(manifest, version=self.manifest.version) == self.manifest:
            return
        try:
            manifest.write()
        except BaseException:
            # What came late, such as Ctrl-C, may have found it written.
            if read_manifest(self.shards.home).version != manifest.version:
                raise
        self.manifest = manifest

    def delete_leftover(self, folders: Sequence[Path]) -> None:
        """Delete folders that moves between shards have left behind, as far as they can be."""
        gone = [folder for folder in folders if delete_shard(folder)]
        left = tuple(folder for folder in self.manifest.leftover if folder not in gone)
        with suppress(StoreError):  # the next one tries again
            self.commit((), leftover=left)

    def _take_back(self, names: Collection[str]) -> None:
        """Bring shards back to the states that the manifest on the disk names."""
        self.manifest = read_manifest(self.shards.home)
        for shard in self.shards.shards:
            if shard.name in names:
                self.cores[shard.name].close()
                reopened = _core.Gallery.open_at(shard.path, True, shard.state)
                self.cores[shard.name] = reopened

    def _unlike_others(self, shard: Shard, error: KnnspectError) -> StoreError:
        reason = str(error)
        if error.image is not None:
            others = [name for name, core in self.cores.items() if core.contains(error.image)]
            reason = f"image {error.image!r} is in the shards {' and '.join(others)}"
        message = f"{self.shards.home}: shard {shard.name}: {reason}"
        return StoreError(message, path=shard.path, image=error.image)


def _opened(
    manifest: Manifest, write: bool = False, allow_missing: bool = False
) -> tuple[dict[str, _core.Gallery], tuple[str, ...]]:
    """Return the shards of a manifest, and the names of those that are left out.

    Raises
    ------
    StoreError
        If a shard is not there, is damaged, or not in its state; the message names it.
    """
    cores, missing = {}, []
    _check_apart(manifest.shards)
    for shard in manifest.shards.shards:
        try:
            core = _core.Gallery.open_at(shard.path, write, shard.state)
            _check(core, shard, manifest)
        except (StoreError, ParameterError) as error:
            if allow_missing:
                missing.append(shard.name)
                continue
            raise StoreError(
                f"{manifest.shards.home}: shard {shard.name}: {error}", path=shard.path
            ) from error
        cores[shard.name] = core
    return cores, tuple(missing)


def _check_apart(shards: Shards) -> None:
    """Raise a StoreError if two shards are one folder, by links."""
    names: dict[tuple[int, int], str] = {}
    for shard in shards.shards:
        try:
            status = shard.path.stat()
        except OSError:
            continue  # opening it says what is wrong
        other = names.setdefault((status.st_dev, status.st_ino), shard.name)
        if other != shard.name:
            raise StoreError(
                f"{shards.home}: shards {other} and {shard.name} are one folder, {shard.path}",
                path=shard.path,
            )


def _check(core: _core.Gallery, shard: Shard, manifest: Manifest) -> None:
    settings = (core.upsample, core.dtype, len(core))
    expected = (manifest.upsample, manifest.dtype, shard.n_images)
    if settings != expected:
        words = "{} upsampling, {}, {} images"
        raise StoreError(
            f"{shard.path}: expected {words.format(*expected)}, got {words.format(*settings)}",
            path=shard.path,
        )


def _as_it_is(shard: Shard, core: _core.Gallery) -> Shard:
    """Return a shard in the state in which it is open."""
    return replace(shard, state=core.journal_state or "", n_images=len(core))


@contextmanager
def naming(shards: Shards, name: str) -> Iterator[None]:
    """Name the shard in errors."""
    try:
        yield
    except KnnspectError as error:
        error.args = (f"{shards.home}: shard {name}: {error}",)
        raise
