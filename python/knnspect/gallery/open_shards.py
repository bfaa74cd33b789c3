"""The shards of a sharded gallery: made, opened, and changed together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from knnspect import _core
from knnspect.errors import KnnspectError, ParameterError, StoreError
from knnspect.files import check_path, is_there
from knnspect.gallery.manifest import MANIFEST, Manifest, read_manifest
from knnspect.search.shards import Shard, Shards
from knnspect.validation import check_count

__all__ = ["OpenShards", "create_shards"]

#: Readers try this often to see shards in the states of one manifest, while these change.
_ATTEMPTS = 100


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
    Manifest(1, upsample, dtype, Shards(home, tuple(made))).write()


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
        self._manifest, self.cores, self._lock = manifest, cores, lock
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
            opened._commit(opened.cores)  # a shard that was compacted has another state
        except BaseException:
            lock.close()
            raise
        return opened

    @property
    def shards(self) -> Shards:
        """The folders, and the states that count."""
        return self._manifest.shards

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
        whole = _core.Gallery(self._manifest.upsample, self._manifest.dtype)
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
        self._is_broken = True
        try:
            for name, part in parts.items():
                with _naming(self.shards, name):
                    change(self.cores[name], part)
            self._commit(parts)
        except BaseException:
            with suppress(StoreError):  # if it fails, later changes are refused
                self._take_back(parts)
                self._is_broken = False
            raise
        self._is_broken = False
        return [(self.cores[name], part) for name, part in parts.items()]

    def compact(self) -> None:
        """Give back the room of removed images, shard by shard; see `ShardedGallery.compact`."""
        # A state is found in a journal that was compacted once since, and not twice.
        self._commit(self.cores)
        done: list[str] = []
        try:
            for name, core in self.cores.items():
                with _naming(self.shards, name):
                    core.compact()
                done.append(name)
        finally:
            self._commit(done)

    def verify(self) -> None:
        """Read every image, and compare its checksum."""
        for name, core in self.cores.items():
            with _naming(self.shards, name):
                core.verify()

    def close(self) -> None:
        """End writing; in a forked process it does nothing."""
        for core in self.cores.values():
            core.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _commit(self, names: Collection[str]) -> None:
        """Replace the manifest, so that the states of some shards count: the change is made."""
        shards = []
        for shard in self.shards.shards:
            if shard.name in names:
                core = self.cores[shard.name]
                state = core.journal_state or ""
                shards.append(replace(shard, state=state, n_images=len(core)))
            else:
                shards.append(shard)
        if tuple(shards) == self.shards.shards:
            return
        manifest = self._manifest.after(shards)
        try:
            manifest.write()
        except BaseException:
            # What came late, such as Ctrl-C, may have found it written.
            if read_manifest(self.shards.home).version != manifest.version:
                raise
        self._manifest = manifest

    def _take_back(self, names: Collection[str]) -> None:
        """Bring shards back to the states that the manifest names."""
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


def _check(core: _core.Gallery, shard: Shard, manifest: Manifest) -> None:
    settings = (core.upsample, core.dtype, len(core))
    expected = (manifest.upsample, manifest.dtype, shard.n_images)
    if settings != expected:
        words = "{} upsampling, {}, {} images"
        raise StoreError(
            f"{shard.path}: expected {words.format(*expected)}, got {words.format(*settings)}",
            path=shard.path,
        )


@contextmanager
def _naming(shards: Shards, name: str) -> Iterator[None]:
    """Name the shard in errors."""
    try:
        yield
    except KnnspectError as error:
        error.args = (f"{shards.home}: shard {name}: {error}",)
        raise


def _paths_of(home: Path, shards: int | Sequence[str | os.PathLike[str]]) -> list[Path]:
    if isinstance(shards, int) or not isinstance(shards, Sequence) or isinstance(shards, str):
        n = check_count("shards", shards)
        return [home / f"shard-{number:04d}" for number in range(n)]
    paths = [home / check_path(path, "shards") for path in shards]
    if not paths:
        raise ParameterError("shards: expected at least one, got none", parameter="shards")
    for path in paths:
        if paths.count(path) > 1:
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
