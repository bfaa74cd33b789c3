"""What writes a shard in a process of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.cluster import Worker
from knnspect.errors import ImageError, KnnspectError, ShapeError, StoreError
from knnspect.gallery.manifest import read_manifest
from knnspect.pyramid import describe_shapes
from knnspect.search.shards import Shard

__all__ = ["Change", "ShardOwner"]

#: Bytes of features that an owner keeps in memory until they are written, at most, but for one
#: batch; to write them takes as much once more.
_MOST_KEPT = 1 << 28


@dataclass(frozen=True)
class Change:
    """What has become of a shard.

    Parameters
    ----------
    shard : Shard
        The shard, in its new state.
    shapes : list of (int, int, int)
        Of its pyramids, level by level; empty as long as it has none.
    notes : dict of str to object
        Of each image that was added since the last change, by its id, what was said of it.
    """

    shard: Shard
    shapes: list[tuple[int, int, int]]
    notes: dict[str, Any]


class ShardOwner(Worker):
    """Adds images to a shard of a gallery, which is open for writing as long as it lives.

    Images are kept in memory until `change` writes them, all at once: so a shard is never more than
    one change ahead of the manifest, and the next process that opens it can take that back. What
    was written counts as soon as the manifest names the state; see `ShardOwners`.

    Parameters
    ----------
    home : Path
        The folder of the manifest.
    name : str
        The name of the shard.
    """

    def __init__(self, home: Path, name: str) -> None:
        self._home, self._name = home, name
        self._core: _core.Gallery | None = None
        #: What is to be written: pyramids of one image each, and what was said of it.
        self._kept: dict[str, tuple[list[NDArray[Any]], Any]] = {}
        self._nbytes = 0

    def open(self) -> KnnspectError | None:
        """Open the shard in the state that counts; or return the error, as a value."""
        try:
            self._shard = next(
                shard
                for shard in read_manifest(self._home).shards.shards
                if shard.name == self._name
            )
            self._core = _core.Gallery.open_at(self._shard.path, True, self._shard.state)
        except StoreError as error:
            return self._named(error, "")
        return None

    def add(
        self, levels: Sequence[NDArray[Any]], ids: Sequence[str], notes: Sequence[Any]
    ) -> bool | KnnspectError:
        """Take images, but for those that are there; or return the error, as a value.

        A process that asks may die before it has the answer, and is asked again.

        Returns
        -------
        bool
            False if there is no room until the next change: none was taken.
        """
        if self._nbytes > _MOST_KEPT:
            return False
        core = self._opened()
        for place, id_ in enumerate(ids):
            if id_ in self._kept or core.contains(id_):
                continue
            pyramid = [level[place : place + 1].copy() for level in levels]
            if error := self._error_of(pyramid, id_):
                return error
            self._kept[id_] = pyramid, notes[place]
            self._nbytes += sum(level.nbytes for level in pyramid)
        return True

    def change(self) -> Change | KnnspectError:
        """Write what was taken since the last call; or return the error, as a value.

        Of what could not be written nothing is lost.
        """
        core = self._opened()
        kept = self._kept
        if kept:
            pyramids = [pyramid for pyramid, _ in kept.values()]
            levels = [np.concatenate(parts) for parts in zip(*pyramids, strict=True)]
            try:
                core.add(levels, list(kept))
            except StoreError as error:
                first, *more = kept
                others = f" and {len(more)} more" if more else ""
                return self._named(error, f"image {first!r}{others}: ", first)
            except KnnspectError as error:
                return error
            self._kept, self._nbytes = {}, 0
        shard = replace(self._shard, state=core.journal_state or "", n_images=len(core))
        shapes = core.shapes if len(core) else []
        return Change(shard, shapes, {id_: note for id_, (_, note) in kept.items()})

    def close(self) -> None:
        """End writing; what was not written is gone."""
        self._opened().close()

    def _opened(self) -> _core.Gallery:
        if self._core is None:
            raise StoreError(f"shard {self._name}: is not open")
        return self._core

    def _error_of(self, pyramid: list[NDArray[Any]], id_: str) -> KnnspectError | None:
        """Return what is wrong with the pyramid of an image; None if it can be added."""
        core = self._opened()
        shapes = [level.shape[1:] for level in pyramid]
        there = core.shapes if len(core) else shapes
        if self._kept:
            first, _ = next(iter(self._kept.values()))
            there = [level.shape[1:] for level in first]
        if shapes != there:
            return ShapeError(
                f"the pyramid to add is {describe_shapes(shapes)}, the gallery's is "
                f"{describe_shapes(there)}",
                image=id_,
            )
        if not all(np.isfinite(level).all() for level in pyramid):
            return ImageError(f"image {id_}: its features are not finite", image=id_)
        return None

    def _named(self, error: KnnspectError, what: str, image: str | None = None) -> StoreError:
        where = f"shard {self._name} on node {self.about().node}"
        return StoreError(f"{where}: {what}{error}", path=error.path, image=image)
