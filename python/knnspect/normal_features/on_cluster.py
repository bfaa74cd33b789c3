"""Filling the shards of a gallery with features, by processes of a cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knnspect.cluster import Cluster, OnCluster, ProcessDied
from knnspect.cluster.pools import nodes, planned
from knnspect.cluster.streams import Pieces, streamed
from knnspect.data import ImageItem, ImageReader, ImageSource
from knnspect.errors import BackendUnavailable, KnnspectError, ParameterError, StoreError
from knnspect.features import Extractor
from knnspect.features.reading import Skipped
from knnspect.gallery import Gallery, ShardedGallery
from knnspect.gallery.shard_owner import Change
from knnspect.gallery.shard_owners import ShardOwners, patiently
from knnspect.normal_features.checks import other_grid
from knnspect.normal_features.feature_maker import About, FeatureMaker, How, Made
from knnspect.normal_features.folder import open_or_create, rows_about
from knnspect.normal_features.run import Run
from knnspect.normal_features.thumbnails import ThumbnailMaker
from knnspect.progress import Progress
from knnspect.pyramid import describe_shapes

__all__ = ["Into", "check_for_cluster", "check_shards", "fill_shards", "opened"]

#: Seconds after which what was added is made to count.
_ROUND = 1.0
#: Batches of which a piece consists, at most: a process that dies loses as much.
_BATCHES = 4
#: Pieces for each process, at least, so that all end at about the same time.
_PIECES = 3


@dataclass(frozen=True)
class Into:
    """Where features go: the shards, what is kept of images beside them, and small copies."""

    home: Path
    about: Gallery
    maker: ThumbnailMaker
    #: Receives the digests of the images.
    digests: dict[str, bytes]


def opened(path: Path, upsample: str, dtype: str, options: OnCluster | None) -> Gallery:
    """Return the gallery in a folder, open for writing; on a cluster a new one is in shards.

    There it is waited for processes of a fit that was killed, which end within seconds.
    """
    if options is None:
        return open_or_create(path, upsample, dtype)
    shards = _shards_on(options)
    return patiently(lambda: open_or_create(path, upsample, dtype, shards))


def check_for_cluster(run: Run, images: ImageSource) -> None:
    """Raise a ParameterError if images cannot be learnt on a cluster as it is to be done."""
    if run.folder is None:
        raise ParameterError(
            "folder: is needed with cluster, whose processes write the features there; expected a "
            "folder that all nodes reach under this path",
            parameter="folder",
        )
    if images.n_images is None:
        raise ParameterError(
            "images: expected files, arrays or Pillow images with cluster, got a loader or a "
            "video, which this process alone can read",
            parameter="images",
        )


def check_shards(gallery: Gallery, run: Run) -> None:
    """Raise an error if a fit on a cluster goes on in a gallery that is not in such shards."""
    if run.on_cluster is None:
        return
    if not isinstance(gallery, ShardedGallery):
        raise StoreError(
            f"{gallery.path}: expected a gallery in shards to go on with on a cluster, it is in "
            "one folder: fit without a cluster, or choose another folder",
            path=gallery.path,
        )
    asked, there = run.on_cluster.shards, len(gallery.shards.shards)
    if asked is not None and there != (asked if isinstance(asked, int) else len(asked)):
        raise ParameterError(
            f"shards: {gallery.path} is in {there}, got {asked}", parameter="shards"
        )


def _shards_on(options: OnCluster) -> int | Sequence[str | os.PathLike[str]]:
    """Return in how many folders a new gallery is kept, or in which; connect to the cluster."""
    if options.shards is not None:
        return options.shards
    Cluster(options.address, "fit").connect()
    return max(2, len(nodes()))


def fill_shards(
    backbone: Extractor, items: Sequence[ImageItem], into: Into, how: How, run: Run
) -> set[str]:
    """Learn images on a cluster; return the ids under which they were stored.

    Ray Data hands pieces of the images to processes with the backbone; these hand the features to
    the owners of the shards, each of which writes its own. Every second what the owners have is
    written and made to count: what is kept of the images beside their pyramids is written before
    the manifest of the gallery. Images whose processes have died are asked for again.

    Parameters
    ----------
    backbone : Extractor
        What extracts the features, with its white level.
    items : sequence of ImageItem
        Images that are not in the gallery.
    into : Filled
        Where the features go.
    how : How
        How they are extracted.
    run : Run
        The fit.

    Returns
    -------
    set of str
        The ids that were added.

    Raises
    ------
    BackendUnavailable
        If there is no cluster, a node has another version of knnspect, or processes die again and
        again.
    ImageError, StoreError, MemoryError
        As `extract`; the message names the node, the shard and the image where these matter. What
        was added before counts.
    """
    options = run.on_cluster
    if options is None:
        raise ValueError("expected a fit on a cluster")
    work = _Work(backbone, list(items), into, how, run, options)
    with Progress("learning", len(items), run.progress) as report:
        for attempt in range(1, options.attempts + 1):
            try:
                work.go_through(report)
            except ProcessDied as error:
                if attempt == options.attempts:
                    raise ProcessDied(
                        f"{error}; it was tried {attempt} times, and {len(work.learnt)} images "
                        f"are in {into.home.parent}, where the work can go on"
                    ) from error
                continue
            if not work.left():
                work.reader.warn()
                return work.learnt
    raise BackendUnavailable(f"fit: {len(work.left())} images were neither learnt nor refused")


class _Work:
    """The images of a fit: those that count, those that cannot be used, and those that are left."""

    def __init__(
        self,
        backbone: Extractor,
        items: list[ImageItem],
        into: Into,
        how: How,
        run: Run,
        options: OnCluster,
    ) -> None:
        self._backbone, self._items, self._into, self._how = backbone, items, into, how
        self._run, self._options = run, options
        self._cluster = Cluster(options.address, "fit")
        self._skipped = Skipped(run.skip_bad)
        self._bad: set[str] = set()
        self.learnt: set[str] = set()
        #: Of images that owners have added and that do not count yet.
        self._notes: dict[str, About] = {}
        #: Collects what is to be said of the images.
        self.reader: ImageReader = backbone.reader()

    def left(self) -> list[ImageItem]:
        """Return the images that are neither learnt nor unusable."""
        variants = self._how.variants
        return [
            item
            for item in self._items
            if item.id not in self._bad
            and not self.learnt.issuperset(
                [item.id] if variants is None else variants.stored_ids(item.id)
            )
        ]

    def go_through(self, report: Progress) -> None:
        """Have what is left learnt, once."""
        self._cluster.connect()
        left = self.left()
        pool = planned(self._options, nodes(), _may_use_gpus(self._backbone))
        pieces = _pieces(left, self._how.batch_size, pool.n_actors)
        self._done = len(self._items) - len(left)
        if not left:
            return
        with ShardOwners(self._cluster, self._into.home) as owners:
            args = (self._backbone, self._how, owners.shards, owners.owners)
            timeout = self._options.timeout
            stream = streamed(self._cluster, FeatureMaker, args, pieces, pool, timeout)
            try:
                with closing(stream):
                    self._follow(stream, owners, report)
            except Exception:
                with suppress(KnnspectError):  # the first error is the one to be told
                    self._count(owners)
                raise
            self._count(owners)

    def _follow(self, stream: Iterator[Made | None], owners: ShardOwners, report: Progress) -> None:
        """Take what processes say that they have made; have what was added count now and then."""
        counted = time.monotonic()
        while True:
            with self._run.watch.stage("features"):
                made = next(stream, _END)
            if made is _END:
                return
            if made is not None:
                self._take(made)
                report.reach(self._done)
            if time.monotonic() - counted > _ROUND:
                self._count(owners)
                counted = time.monotonic()

    def _take(self, made: Made) -> None:
        for id_, error in made.bad:
            self._bad.add(id_)
            self._skipped(id_, error)
        if made.remarks is not None:
            self.reader.take(made.remarks)
            self.reader.warn(at_end=False)
        self._done += made.n_images

    def _count(self, owners: ShardOwners) -> None:
        """Have what was added count: an image is added to the gallery last."""
        with self._run.watch.stage("gallery"):
            changes, error = owners.changes()
            self._check_grids(changes)
            for change in changes:
                self._notes |= change.notes
            for note in self._notes.values():
                if note.thumbnail is not None:
                    self._into.maker.take(note.image, note.thumbnail)
            about = self._into.about
            new = {id_: note for id_, note in self._notes.items() if id_ not in about}
            if new:
                rows = rows_about(
                    np.stack([note.pooled for note in new.values()]),
                    [note.size for note in new.values()],
                    [note.digest for note in new.values()],
                )
                about.add(rows, list(new))
            owners.commit()
            self._take_over()
        if error is not None:
            raise error

    def _take_over(self) -> None:
        """Take note of the images that count by now."""
        self._into.digests.update({note.image: note.digest for note in self._notes.values()})
        self.learnt.update(self._notes)
        self._notes = {}

    def _check_grids(self, changes: Sequence[Change]) -> None:
        """Raise a ShapeError if an owner was given images of another grid than the others."""
        filled = [change for change in changes if change.shapes]
        for change in filled:
            if change.shapes != filled[0].shapes:
                image = next(iter(change.notes), "")
                reason = (
                    f"its pyramid is {describe_shapes(change.shapes)}, others are "
                    f"{describe_shapes(filled[0].shapes)}"
                )
                raise other_grid(image, reason, self._backbone.geometry)


def _may_use_gpus(backbone: Extractor) -> bool:
    """Return whether a backbone runs on a GPU where there is one."""
    if backbone.device is None:
        return not backbone.is_exported  # which runs on the CPU by default
    return not str(backbone.device).startswith("cpu")


#: What comes after the last answer.
_END: Any = object()


def _pieces(items: Sequence[ImageItem], batch_size: int, n_actors: int) -> Pieces:
    """Return images as pieces of whole batches, some for each process."""
    n_batches = -(-len(items) // batch_size)
    step = batch_size * max(1, min(_BATCHES, n_batches // (_PIECES * n_actors)))
    pieces = Pieces()
    for start in range(0, len(items), step):
        pieces.add(items[start : start + step], f"image {items[start].id}")
    return pieces
