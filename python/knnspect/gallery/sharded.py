"""Galleries that are kept in several folders, as one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from numpy.typing import NDArray

from knnspect import _core
from knnspect.errors import ParameterError, ShapeError, StoreError
from knnspect.files import check_path
from knnspect.gallery.coresets_over_shards import CoresetsOverShards
from knnspect.gallery.gallery import Gallery
from knnspect.gallery.manifest import MANIFEST
from knnspect.gallery.moving import add_shard, remove_shard
from knnspect.gallery.open_shards import OpenShards
from knnspect.gallery.reading import ReadOnlyGallery
from knnspect.gallery.shard_folders import create_shards
from knnspect.pyramid import FeaturePyramid, describe_shapes
from knnspect.search import Search, Window
from knnspect.search.shards import Shards
from knnspect.validation import check_choice, check_ids

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ShardedGallery"]

#: Puts levels under ids into a gallery.
Put: TypeAlias = Callable[[_core.Gallery, list[NDArray[Any]], list[str]], None]


class ShardedGallery(CoresetsOverShards, Gallery):
    """A gallery that is kept in several folders, its *shards*, and used as one.

    Each shard is an ordinary gallery folder, on this disk or another one, with the images whose ids
    belong to it (see `Shards`). A manifest names the shards, and the state in which each counts:
    it is replaced, atomically, once a change is in all shards that it concerns. So a crash at any
    moment leaves the gallery as it was before the change or after it.

    It is searched like any other, by every backend, with the same results to the bit: in this
    process all shards together, memory-mapped; with ``backend="ray"`` by processes of a cluster.
    `Gallery.open` opens it.

    Attributes
    ----------
    shards : Shards
        The folders.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> normal = FeaturePyramid([np.arange(32, dtype="f4").reshape(8, 2, 2, 1)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with ShardedGallery.create(f"{folder}/normal.gallery", shards=3) as gallery:
    ...         _ = gallery.add(normal, ids=list("abcdefgh"))
    ...     gallery = Gallery.open(f"{folder}/normal.gallery")
    ...     print(gallery, [shard.n_images for shard in gallery.shards.shards])
    ...     str(gallery.search(normal[5]).images[0, 1, 1, 0])
    ShardedGallery(upsample='bilinear', dtype='float32', n_images=8, level0=2x2x1) [4, 1, 3]
    'f'
    """

    marker: ClassVar[str] = MANIFEST

    def __init__(self) -> None:
        raise TypeError("a ShardedGallery comes from ShardedGallery.create or Gallery.open")

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        upsample: str = "bilinear",
        dtype: str = "float32",
        shards: int | Sequence[str | os.PathLike[str]] = 4,
    ) -> ShardedGallery:
        """Make an empty gallery in new folders, open for writing.

        Parameters
        ----------
        path : path-like
            The folder of the manifest; it may exist if it is empty.
        upsample, dtype
            As of a gallery in memory.
        shards : int or sequence of path-like, default 4
            How many; they are folders in `path`. Or the folder of each, such as on other disks.

        Returns
        -------
        ShardedGallery
            Empty, and the only one that may change the folders until `close`, or until it is gone.

        Raises
        ------
        StoreError
            If there is something already, or a folder cannot be written.
        ParameterError
            If `upsample` or `dtype` is another word, there are no shards, or one is given twice.
        """
        home = check_path(path).absolute()
        create_shards(home, upsample, dtype, shards)
        return cls.open(home, "r+")

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        mode: str = "r",
        verify: bool | None = None,
        allow_missing: bool = False,
    ) -> ShardedGallery:
        """Open a sharded gallery; see `Gallery.open`.

        Parameters
        ----------
        path, mode, verify
            As of `Gallery.open`.
        allow_missing : bool, default False
            Leave out shards that cannot be opened, and read the others. ``shards.missing`` and the
            `missing` of what searches find name them.

        Raises
        ------
        StoreError
            If there is no manifest, it is damaged, or a shard is missing, damaged, of other
            settings, or not in the state that the manifest names; if an image is in two shards, or
            in another one than it belongs to. The message names the shard, and the image.
        ParameterError
            If `mode` is another word, or shards may be missing from a gallery that is to be
            changed.
        """
        check_choice("mode", mode, ["r", "r+"])
        home = check_path(path).absolute()
        if mode == "r+" and allow_missing:
            raise ParameterError(
                'allow_missing: expected False with mode "r+"', parameter="allow_missing"
            )
        parts = (
            OpenShards.to_write(home) if mode == "r+" else OpenShards.to_read(home, allow_missing)
        )
        gallery = cls._of(parts)
        if verify:
            gallery.verify()
        return gallery

    @property
    def shards(self) -> Shards:
        """The folders, and the state of each."""
        return self._parts.shards

    @property
    def mode(self) -> str:
        """``"r+"`` if the gallery can be changed; in a forked process it is ``"r"``."""
        return "r+" if self._parts.is_writable else "r"

    @property
    def n_removed(self) -> int:
        """Number of removed images whose features are in the folders until `compact`."""
        return sum(core.n_removed for core in self._parts.cores.values())

    @property
    def path(self) -> Path | None:
        """The folder of the manifest."""
        return self.shards.home

    def __copy__(self) -> Gallery:  # type: ignore[override]
        return Gallery.from_core(self.core.copy())

    def __reduce__(self) -> tuple[Callable[..., ReadOnlyGallery], tuple[object, ...]]:
        """Pickle the path: the folders are opened where they are."""
        return _reopened, (self.shards,)

    def add(self, pyramid: FeaturePyramid, ids: Sequence[str] | None = None) -> list[str]:
        """Add images, each to the shard that its id belongs to; see `Gallery.add`."""
        with self._changing():
            if ids is None:
                ids = self.core.free_ids(pyramid.n_images)
            checked = self._checked_ids(pyramid, ids)
            for id_ in checked:
                if self.core.contains(id_):
                    raise ParameterError(
                        f"{self.path}: ids: image {id_!r} is in the gallery already",
                        image=id_,
                        parameter="ids",
                    )
            self._put(pyramid, checked, _core.Gallery.add)
            return checked

    def replace(self, pyramid: FeaturePyramid, ids: Sequence[str]) -> None:
        """Exchange the features of images; see `Gallery.replace`."""
        with self._changing():
            checked = self._checked_ids(pyramid, ids)
            self._check_known(checked)
            self._put(pyramid, checked, _core.Gallery.replace)

    def remove(self, ids: Sequence[str]) -> None:
        """Remove images; see `Gallery.remove`."""
        with self._changing():
            checked = sorted(set(check_ids(ids, "ids")))
            self._check_known(checked)
            self._parts.change(checked, _core.Gallery.remove)
            with self._turn:
                self.core.remove(checked)
                self._shards = self._parts.shards

    def compact(self) -> None:
        """Give back the room of removed images, shard by shard; see `Gallery.compact`.

        Raises
        ------
        StoreError
            As `Gallery.compact`, with the shard. Those that were compacted before it stay so.
        """
        with self._changing():
            try:
                self._parts.compact()
            finally:
                self._take_over()

    def add_shard(self, path: str | os.PathLike[str] | None = None) -> str:
        """Add a shard, to which the images move that belong to it from now on, and no others.

        Of n shards each gives up one image in n + 1, as hashes have it. Images are copied to the
        new shard byte for byte, marked as removed in the others, and the manifest is replaced: a
        crash at any moment leaves the gallery as it was before or after it. The room that they took
        is given back by `compact`. Those who have the gallery open go on with what they have.

        Parameters
        ----------
        path : path-like, optional
            The folder, such as on another disk; it may exist if it is empty. By default one in the
            folder of the manifest.

        Returns
        -------
        str
            The name of the shard, which none had before.

        Raises
        ------
        StoreError
            If there is no room, or the folder is not empty or cannot be written; if an image that
            is to move is damaged: the message names it, and its shard. The gallery is as it was.
        """
        with self._changing():
            try:
                return add_shard(self._parts, None if path is None else check_path(path))
            finally:
                self._take_over()

    def remove_shard(self, name: str) -> None:
        """Move all images of a shard to the others, each to the one that it then belongs to.

        The folder is deleted, once the manifest names it no more; processes of a cluster that have
        not opened it by then cannot search the gallery as it was before. A crash at any moment
        leaves the gallery as it was before or after it.

        Parameters
        ----------
        name : str
            The shard's, as in ``shards.shards``.

        Raises
        ------
        ParameterError
            If there is no such shard, or no other one.
        StoreError
            If there is no room in the others, or an image is damaged: the message names it, and the
            shard. The gallery is as it was.
        """
        with self._changing():
            try:
                remove_shard(self._parts, name)
            finally:
                self._take_over()

    def verify(self) -> None:
        """Read every image of all shards, and compare its checksum; see `Gallery.verify`."""
        self._parts.verify()

    def close(self) -> None:
        """End writing to the folders, so that others may; the gallery can still be searched."""
        self._parts.close()

    def without(self, ids: Sequence[str]) -> ReadOnlyGallery:
        """Return the gallery as it is now, without some images; see `ReadOnlyGallery.without`."""
        with self._turn:
            left = super().without(ids)
            left._shards = self._shards
        return left

    def prepare(
        self,
        query: FeaturePyramid,
        k: int = 1,
        images: Sequence[str] | Sequence[Sequence[str]] | None = None,
        threads: int | None = None,
        window: Window = None,
    ) -> Search:
        """Return a search for a backend, with its arguments checked; see `Gallery.prepare`."""
        with self._turn:
            return super().prepare(query, k, images, threads, window)

    _parts: OpenShards
    _writing: AbstractContextManager[Any]
    _turn: AbstractContextManager[Any]

    @classmethod
    def _of(cls, parts: OpenShards) -> Self:
        gallery = cls.from_core(parts.joined())
        gallery._parts, gallery._shards = parts, parts.shards
        # Changes wait for each other. Searches wait for what they change in memory alone.
        gallery._writing, gallery._turn = threading.RLock(), threading.RLock()
        return gallery

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._writing:
            self._parts.check_writable()
            yield

    def _take_over(self) -> None:
        """Search images where the shards have them from now on."""
        with self._turn:
            self.core.share(self._parts.joined(), None, True)
            self._shards = self._parts.shards

    def _checked_ids(self, pyramid: FeaturePyramid, ids: Sequence[str]) -> list[str]:
        """Check what shards cannot, as each sees a part; return the ids."""
        checked = check_ids(ids, "ids")
        if len(checked) != pyramid.n_images:
            raise ShapeError(
                f"{self.path}: expected one id for each of {pyramid.n_images} images, got "
                f"{len(checked)}"
            )
        if len(set(checked)) < len(checked):
            id_ = next(id_ for place, id_ in enumerate(checked) if id_ in checked[:place])
            raise ParameterError(
                f"{self.path}: ids: {id_!r} is given twice", image=id_, parameter="ids"
            )
        if self.shapes and pyramid.shapes != self.shapes:
            raise ShapeError(
                f"{self.path}: the pyramid to add is {describe_shapes(pyramid.shapes)}, the "
                f"gallery's is {describe_shapes(self.shapes)}"
            )
        return checked

    def _check_known(self, ids: Sequence[str]) -> None:
        for id_ in ids:
            if not self.core.contains(id_):
                raise ParameterError(
                    f"{self.path}: images: there is no image {id_!r} in the gallery",
                    image=id_,
                    parameter="images",
                )

    def _put(self, pyramid: FeaturePyramid, ids: list[str], put: Put) -> None:
        places = {id_: place for place, id_ in enumerate(ids)}

        def put_part(core: _core.Gallery, part: list[str]) -> None:
            at = [places[id_] for id_ in part]
            put(core, [level[at] for level in pyramid.levels], part)

        changed = self._parts.change(ids, put_part)
        new = _core.Gallery(self.upsample, self.dtype)
        for core, part in changed:
            new.share(core, part, False)
        with self._turn:
            self.core.share(new, None, True)
            self._shards = self._parts.shards


def _reopened(shards: Shards) -> ShardedGallery:
    """Return the gallery in some folders, as it was when it was pickled."""
    try:
        gallery = ShardedGallery.open(shards.home, allow_missing=bool(shards.missing))
    except StoreError as error:
        raise StoreError(
            f"{error}; a gallery in folders is pickled by its path: where these are not, save "
            "the gallery, or the detector, to a file and open that"
        ) from error
    if gallery.shards != shards:
        raise StoreError(f"{shards.home}: the gallery was changed after it was opened and pickled")
    return gallery
