"""Filling a gallery with the features of normal images, in memory or in a folder."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.data import open_images
from knnspect.data.sources import ImageItem, ImageSource
from knnspect.detectors.learning import ConstantLevels, check_pooled, weights_digest
from knnspect.errors import ImageError, ParameterError, StoreError
from knnspect.features import Backbone, Features
from knnspect.files import replace_file
from knnspect.gallery import Gallery, is_gallery_folder
from knnspect.memory import (
    PeakMemory,
    anonymous_bytes,
    check_memory,
    describe_bytes,
    parse_bytes,
)
from knnspect.progress import Stopwatch
from knnspect.pyramid import FeaturePyramid
from knnspect.validation import check_count

__all__ = [
    "CHECKPOINT",
    "GALLERY",
    "MODEL",
    "Learnt",
    "learn",
    "save_learnt",
    "stored_gallery",
    "stored_pooled",
]

#: What a folder of features holds: the gallery; the pooled features and sizes of its images, as a
#: gallery, too; what the features were made with; a checkpoint while a network is trained on them;
#: and in the end the model.
GALLERY, _IMAGES, _SETTINGS = "gallery", "images", "settings.json"
CHECKPOINT, MODEL = "checkpoint", "model"


@dataclass(frozen=True)
class Learnt:
    """The features of normal images.

    Parameters
    ----------
    gallery : Gallery
        Their pyramids.
    pooled : ndarray of float32, shape (n_images, n_features)
        Their pooled features, in the order of ``gallery.ids``.
    sizes : dict of str to (int, int)
        Height and width of each image as it came.
    """

    gallery: Gallery
    pooled: NDArray[np.float32]
    sizes: dict[str, tuple[int, int]]


def learn(
    backbone: Backbone,
    images: object,
    gallery: Gallery,
    *,
    batch_size: int,
    n_workers: int,
    skip_bad: bool,
    progress: bool,
    watch: Stopwatch,
    max_memory: int | str | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Learnt:
    """Fill a gallery with the features of all images.

    Parameters
    ----------
    backbone, images, batch_size, n_workers, skip_bad, progress
        As in `Detector.fit`.
    gallery : Gallery
        An empty gallery in memory; its settings are those of one in a folder.
    watch : Stopwatch
        Receives the time of each stage.
    max_memory : int or str, optional
        Anonymous memory of the process, in bytes or words; the features then go to a folder.
    folder : path-like, optional
        The folder; a temporary one by default, which goes with the gallery. What an earlier call
        has left there is kept: images that it knows are not read again, those that are not among
        `images` are removed.

    Returns
    -------
    Learnt
        The features; a gallery in a folder is open for reading.

    Raises
    ------
    ImageError
        If an image cannot be used, there is none, or the features are constant or not finite.
    ParameterError
        If `max_memory` is less than one image needs, or the features in the folder were made with
        other settings.
    StoreError
        If the folder cannot be written, has no room, or is being written by another process.
    MemoryError
        If more than `max_memory` is in use; what was learnt is in the folder.
    """
    work = {"n_workers": n_workers, "skip_bad": skip_bad, "progress": progress, "stopwatch": watch}
    if max_memory is None and folder is None:
        return _in_memory(backbone, images, gallery, batch_size, work)
    limit = None if max_memory is None else parse_bytes("max_memory", max_memory)
    is_temporary = folder is None
    path = Path(tempfile.mkdtemp(prefix="knnspect-")) if folder is None else Path(folder)
    try:
        learnt = _in_folder(backbone, images, gallery, batch_size, work, limit, path)
    except BaseException:
        if is_temporary:
            shutil.rmtree(path, ignore_errors=True)
        raise
    if is_temporary:
        weakref.finalize(learnt.gallery, shutil.rmtree, path, ignore_errors=True)
    return learnt


def save_learnt(
    path: str | os.PathLike[str],
    method: str,
    metadata: dict[str, str],
    tensors: dict[str, NDArray[Any]],
    gallery: Gallery | None = None,
    more: dict[str, NDArray[Any]] | None = None,
) -> None:
    """Write a detector to a file, or, without what is there, to the folder of its features.

    Parameters
    ----------
    path : path-like
        The file, or a folder that `learn` has filled.
    method : str
        The kind of detector.
    metadata, tensors
        What it consists of, but for its features.
    gallery : Gallery, optional
        What it searches.
    more : dict of str to ndarray, optional
        What is in the folder beside the gallery, if it is there.

    Raises
    ------
    StoreError
        If the file cannot be written.
    """
    folder = Path(path)
    is_folder = (folder / _SETTINGS).exists()
    file = folder / MODEL if is_folder else folder
    is_there = gallery is not None and gallery.path is not None and is_folder
    if gallery is None or (is_there and gallery.path.parent.samefile(folder)):  # type: ignore[union-attr]
        _core.save_tensors(file, method, metadata, tensors)
    else:
        gallery.core.save(file, method, metadata, tensors | (more or {}))


def stored_gallery(store: _core.Store, folder: Path | None) -> Gallery:
    """Return the gallery of an open file: its own, or that of the folder in which it is.

    Raises
    ------
    StoreError
        If there is none, or it is damaged.
    """
    if folder is None or "gallery.ids" in store.metadata:
        return Gallery.from_core(_core.Gallery.from_store(store))
    return Gallery.open(folder / GALLERY)


def stored_pooled(store: _core.Store, folder: Path | None, gallery: Gallery) -> NDArray[np.float32]:
    """Return the pooled features of the images of `stored_gallery`, from the same place.

    Raises
    ------
    StoreError
        If there are none, or they are damaged.
    """
    if folder is None or "pooled" in store.names:
        return store.tensor("pooled")
    return _about_images(folder, gallery.ids)[0]


def _about_images(
    folder: Path, ids: list[str]
) -> tuple[NDArray[np.float32], list[tuple[int, int]]]:
    """Return the pooled features and the sizes of images in a folder that `learn` has filled."""
    images = Gallery.open(folder / _IMAGES).pyramid(ids)
    pooled: NDArray[np.float32] = images.levels[0].reshape(len(ids), -1)
    sizes = images.levels[1].reshape(len(ids), 2).astype(int).tolist()
    return pooled, [(height, width) for height, width in sizes]


def _in_memory(
    backbone: Backbone, images: object, gallery: Gallery, batch_size: int, work: dict[str, Any]
) -> Learnt:
    ids: list[str] = []
    sizes: list[tuple[int, int]] = []
    pooled: list[NDArray[np.float32]] = []
    constant = ConstantLevels()
    for features in backbone.iterate(images, batch_size, label="learning", **work):
        with work["stopwatch"].stage("gallery"):
            gallery.add(features.pyramid, features.ids)
            check_pooled(features)
            constant.see(features.pyramid)
        ids += features.ids
        sizes += features.sizes
        pooled.append(features.pooled)
    constant.check()
    by_id = sorted(range(len(ids)), key=ids.__getitem__)
    return Learnt(gallery, np.concatenate(pooled)[by_id], dict(zip(ids, sizes, strict=True)))


def _in_folder(
    backbone: Backbone,
    images: object,
    empty: Gallery,
    batch_size: int,
    work: dict[str, Any],
    limit: int | None,
    folder: Path,
) -> Learnt:
    source = open_images(images)
    check_count("batch_size", batch_size)
    settings = _settings(backbone, empty)
    _make(folder, settings)
    with (
        _open_or_create(folder / GALLERY, empty.upsample, empty.dtype) as gallery,
        _open_or_create(folder / _IMAGES) as about,
    ):
        # The gallery is what counts: an image is added to it last.
        about.remove([id_ for id_ in about.ids if id_ not in gallery])
        new = _New(source, set(gallery.ids))
        constant = ConstantLevels()
        for id_ in gallery.ids:
            if constant.is_settled:
                break
            constant.see(gallery.pyramid([id_]))
        plan = _plan(backbone, source, new, gallery, batch_size, work["n_workers"], limit)
        _check_room(folder, plan)
        if work["progress"]:
            sys.stderr.write(f"{folder}: {plan.describe(limit)}\n")
            sys.stderr.flush()
        work = work | {"n_workers": plan.n_workers}
        pending = ImageSource(new, plan.n_images)
        for features in (
            backbone.iterate(
                pending, plan.batch_size, label="learning", may_be_none=bool(new.known), **work
            )
            if plan.n_images != 0
            else ()
        ):
            with work["stopwatch"].stage("gallery"):
                check_pooled(features)
                about.add(_about(features), features.ids)
                gallery.add(features.pyramid, features.ids)
                constant.see(features.pyramid)
            new.known.update(features.ids)
            new.met.update(features.ids)
            check_memory(
                limit,
                f"raise it, or lower batch_size or n_workers; {len(gallery)} images are in "
                f"{folder}, where the work can go on",
            )
        gone = sorted(new.known - new.met)
        gallery.remove(gone)
        about.remove(gone)
        if not len(gallery):
            raise ImageError("images: none could be used")
    constant.check()
    gallery = Gallery.open(folder / GALLERY)
    ids = gallery.ids
    pooled, sizes = _about_images(folder, ids)
    return Learnt(gallery, pooled, dict(zip(ids, sizes, strict=True)))


class _New:
    """The images of a source that are not known yet."""

    def __init__(self, source: ImageSource, known: set[str]) -> None:
        self._source, self.known = source, known
        #: Known images that are in the source.
        self.met: set[str] = set()

    def __iter__(self) -> Iterator[ImageItem]:
        known = frozenset(self.known)
        for item in self._source:
            if item.id in known:
                self.met.add(item.id)
            else:
                yield item


@dataclass(frozen=True)
class _Plan:
    """What a build will take; the number of images is None where only reading them tells."""

    n_images: int | None
    n_known: int
    batch_size: int
    n_workers: int
    memory: int
    image_bytes: int

    def describe(self, limit: int | None) -> str:
        words = f"{describe_bytes(self.image_bytes)} of disk an image"
        if self.n_images is not None:
            disk = self.n_images * self.image_bytes
            words = f"{self.n_images} images to learn, {describe_bytes(disk)} of disk"
        if self.n_images == 0:
            words = "nothing to learn"
        if self.n_known:
            words = f"{self.n_known} images are there, {words}"
        words += f", about {describe_bytes(self.memory)} of memory"
        if limit is not None:
            words += f" of {describe_bytes(limit)} (batches of {self.batch_size})"
        return words


def _plan(
    backbone: Backbone,
    source: ImageSource,
    new: _New,
    gallery: Gallery,
    batch_size: int,
    n_workers: int,
    limit: int | None,
) -> _Plan:
    """Measure what an image takes, and choose how many are handled together."""
    n_images = None
    largest = 0
    if source.n_images is not None:
        pending = list(new)
        n_images = len(pending)
        largest = _decoded_bytes(pending[:1])
    height, width = backbone.geometry.image_size
    prepared = 12 * height * width
    before = anonymous_bytes() or 0
    with PeakMemory() as memory:
        features = backbone.extract(np.zeros((1, height, width, 3), np.uint8))
    network = max(memory.peak - before, 0)
    pyramid = features.pyramid.nbytes
    sample = Gallery(gallery.upsample, gallery.dtype)
    sample.add(features.pyramid)
    image_bytes = sample.nbytes + features.pooled.nbytes + 300  # with its share of the journal
    now = anonymous_bytes() or 0

    def needed(batch: int, workers: int) -> int:
        # Batches are prepared two ahead, stacked, and their features exist as parts and as a whole.
        decoding = 4 * largest * max(workers, 1)
        return now + network + decoding + batch * (4 * prepared + 3 * pyramid)

    batch, workers = batch_size, n_workers
    while limit is not None and needed(batch, workers) > limit and (batch > 1 or workers > 1):
        if batch > 1:
            batch //= 2
        else:
            workers -= 1
    memory_needed = needed(batch, workers)
    if limit is not None and memory_needed > limit:
        raise ParameterError(
            f"max_memory: expected at least {describe_bytes(memory_needed)}, got "
            f"{describe_bytes(limit)}: the process has {describe_bytes(now)}, one image needs "
            f"{describe_bytes(memory_needed - now)}"
        )
    return _Plan(n_images, len(gallery), batch, workers, memory_needed, image_bytes)


def _decoded_bytes(items: list[ImageItem]) -> int:
    try:
        return max((item.load().nbytes for item in items), default=0)
    except ImageError:
        return 0  # what is to be done about it is decided when its turn has come


def _check_room(folder: Path, plan: _Plan) -> None:
    free = shutil.disk_usage(folder).free
    needed = (plan.n_images or 0) * plan.image_bytes
    if needed > free:
        raise StoreError(
            f"{folder}: {plan.n_images} images need {describe_bytes(needed)} of disk, "
            f"{describe_bytes(free)} are free"
        )


def _about(features: Features) -> FeaturePyramid:
    """Return pooled features and sizes as pyramids of one cell."""
    n_images = len(features.ids)
    sizes = np.array(features.sizes, np.float32).reshape(n_images, 1, 1, 2)
    return FeaturePyramid([features.pooled.reshape(n_images, 1, 1, -1), sizes])


def _settings(backbone: Backbone, gallery: Gallery) -> dict[str, Any]:
    """Return all that features in a folder depend on."""
    settings, tensors = backbone.state()
    settings.pop("source")
    return {
        **settings,
        "weights": weights_digest(tensors),
        "upsample": gallery.upsample,
        "dtype": gallery.dtype,
    }


def _make(folder: Path, settings: dict[str, Any]) -> None:
    """Make the folder, or check that what is in it was made with the same settings."""
    try:
        folder.mkdir(exist_ok=True)
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror}") from error
    file = folder / _SETTINGS
    if _SETTINGS not in names:
        if any(not name.startswith(".") for name in names):
            raise StoreError(f"{folder}: expected an empty folder or one of features, it has files")
        replace_file(file, json.dumps(settings, indent=2).encode())
        return
    try:
        found = json.loads(file.read_text())
        changed = [name for name, value in settings.items() if found[name] != value]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: is damaged: it cannot be read ({error})") from error
    if changed:
        name = changed[0]
        raise ParameterError(
            f"{folder}: its features were made with another {name} ({found[name]!r}, not "
            f"{settings[name]!r}): choose another folder, or delete it"
        )


def _open_or_create(path: Path, upsample: str = "bilinear", dtype: str = "float32") -> Gallery:
    if is_gallery_folder(path):
        return Gallery.open(path, "r+")
    return Gallery.create(path, upsample, dtype)
