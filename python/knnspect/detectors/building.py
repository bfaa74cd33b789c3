"""Filling a gallery with the features of normal images, in memory or in a folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import warnings
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.data import open_to_learn
from knnspect.data.digests import DIGEST_BYTES
from knnspect.detectors.learning import ConstantLevels, check_pooled, weights_digest
from knnspect.detectors.pending import Pending
from knnspect.detectors.plan import check_room, plan_build
from knnspect.errors import ImageError, ParameterError, StoreError
from knnspect.features import Backbone, Features
from knnspect.files import as_damage, check_path, is_there, read_json, replace_file
from knnspect.gallery import Gallery, ReadOnlyGallery, is_gallery_folder
from knnspect.memory import check_memory, parse_bytes
from knnspect.progress import Stopwatch
from knnspect.pyramid import FeaturePyramid
from knnspect.validation import check_count, some_ids

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

#: What a folder of features holds: the gallery; the pooled features, sizes and digests of its
#: images, as a gallery, too; what the features were made with; a checkpoint while a network is
#: trained on them; and in the end the model.
GALLERY, _IMAGES, _SETTINGS = "gallery", "images", "settings.json"
CHECKPOINT, MODEL = "checkpoint", "model"
#: Settings that are left out where they have their default.
_DEFAULTS: dict[str, Any] = {"white": None}

#: The entry of a model's metadata that says which images are in the gallery beside it.
_OF_IMAGES = "images"


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
    digests : dict of str to bytes
        What each image was made of, as `ImageItem.digest` gives it; empty if not asked for.
    """

    gallery: Gallery
    pooled: NDArray[np.float32]
    sizes: dict[str, tuple[int, int]]
    digests: dict[str, bytes]


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
    with_digests: bool = False,
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
        has left there is kept: images that it knows are not learnt again if their digests are the
        same, those that changed are, with a warning, and those that are not among `images` are
        removed.
    with_digests : bool
        Whether the digests of the images are needed; in a folder they always are.

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
    if backbone.white == "auto":
        images = open_to_learn(images)
        backbone.find_white(images, n_workers, skip_bad, progress)
    if max_memory is None and folder is None:
        return _in_memory(backbone, images, gallery, batch_size, work, with_digests)
    limit = None if max_memory is None else parse_bytes("max_memory", max_memory)
    is_temporary = folder is None
    path = Path(tempfile.mkdtemp(prefix="knnspect-")) if folder is None else check_path(folder)
    try:
        learnt = _in_folder(backbone, images, gallery, batch_size, work, limit, path)
    except BaseException:
        if is_temporary:
            shutil.rmtree(path, ignore_errors=True)
        raise
    if is_temporary:
        weakref.finalize(learnt.gallery, _remove_folder, path, os.getpid())
    return learnt


def save_learnt(
    path: str | os.PathLike[str],
    method: str,
    metadata: dict[str, str],
    tensors: dict[str, NDArray[Any]],
    gallery: ReadOnlyGallery | None = None,
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
    folder = check_path(path)
    is_ours = is_there(folder / _SETTINGS)
    # The user's own path may be a link to the file; names in a folder are no links of ours.
    file, follow_links = (folder / MODEL, False) if is_ours else (folder, True)
    home = None if gallery is None else gallery.path
    if gallery is None or (is_ours and home is not None and home.parent.samefile(folder)):
        if gallery is not None:
            metadata = {**metadata, _OF_IMAGES: _digest_of_images(folder, gallery.ids)}
        _core.save_tensors(file, method, metadata, tensors, follow_links)
    else:
        gallery.core.save(file, method, metadata, tensors | (more or {}), follow_links)


def stored_gallery(store: _core.Store, folder: Path | None) -> Gallery:
    """Return the gallery of an open file: its own, or that of the folder in which it is.

    Raises
    ------
    StoreError
        If there is none, it is damaged, or it has other images than when the file was saved.
    """
    if folder is None or "gallery.ids" in store.metadata:
        return Gallery.from_core(_core.Gallery.from_store(store))
    gallery = Gallery.open(folder / GALLERY)
    saved_with = store.metadata.get(_OF_IMAGES)  # earlier versions did not keep it
    if saved_with is not None and saved_with != _digest_of_images(folder, gallery.ids):
        raise StoreError(
            f"{folder}: its images were changed after its model was saved: fit it again, with the "
            "same folder, and save it"
        )
    return gallery


def stored_pooled(store: _core.Store, folder: Path | None, gallery: Gallery) -> NDArray[np.float32]:
    """Return the pooled features of the images of `stored_gallery`, from the same place.

    Raises
    ------
    StoreError
        If there are none, or they are damaged.
    """
    if folder is None or "pooled" in store.names:
        pooled: NDArray[Any] = store.tensor("pooled")
    else:
        pooled = _about_images(folder, gallery.ids)[0]
    if pooled.dtype != np.float32 or pooled.ndim != 2 or len(pooled) != len(gallery):
        raise StoreError(
            f"{store.path}: is damaged: expected pooled features of {len(gallery)} images, got "
            f"{pooled.dtype} of shape {pooled.shape}"
        )
    if not np.isfinite(pooled).all():
        raise StoreError(f"{store.path}: is damaged: its pooled features are not finite")
    return pooled


def _remove_folder(path: Path, process: int) -> None:
    """Remove the folder of a gallery that is gone; not for a forked child, whose copy is gone."""
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)


def _about_images(
    folder: Path, ids: list[str]
) -> tuple[NDArray[np.float32], list[tuple[int, int]]]:
    """Return the pooled features and the sizes of images in a folder that `learn` has filled."""
    path = folder / _IMAGES
    with as_damage(path, "what it says of the images"):
        images = Gallery.open(path).pyramid(ids)
        pooled: NDArray[np.float32] = images.levels[0].reshape(len(ids), -1)
        sizes = images.levels[1].reshape(len(ids), 2).astype(int).tolist()
        return pooled, [(height, width) for height, width in sizes]


def _digest_of_images(folder: Path, ids: list[str]) -> str:
    """Return what tells the images of a folder from others: a digest of their ids and digests."""
    digest = hashlib.sha256()
    known = _digests(Gallery.open(folder / _IMAGES), ids)
    for id_ in ids:
        digest.update(json.dumps(id_).encode() + known.get(id_, b""))
    return digest.hexdigest()


def _digests(about: Gallery, ids: list[str]) -> dict[str, bytes]:
    """Return the digests of images; of a folder that an earlier version filled there are none."""
    if len(about.shapes) < 3:
        return {}
    return {id_: about.core.image(id_)[2].astype(np.uint8).tobytes() for id_ in ids}


def _in_memory(
    backbone: Backbone,
    images: object,
    gallery: Gallery,
    batch_size: int,
    work: dict[str, Any],
    with_digests: bool,
) -> Learnt:
    source = open_to_learn(images)
    pending = Pending(source, {})
    ids: list[str] = []
    sizes: list[tuple[int, int]] = []
    pooled: list[NDArray[np.float32]] = []
    constant = ConstantLevels()
    items = pending.source() if with_digests else source
    for features in backbone.iterate(items, batch_size, label="learning", **work):
        with work["stopwatch"].stage("gallery"):
            gallery.add(features.pyramid, features.ids)
            check_pooled(features)
            constant.see(features.pyramid)
        ids += features.ids
        sizes += features.sizes
        pooled.append(features.pooled)
    constant.check()
    by_id = sorted(range(len(ids)), key=ids.__getitem__)
    return Learnt(
        gallery,
        np.concatenate(pooled)[by_id],
        dict(zip(ids, sizes, strict=True)),
        {id_: pending.digests[id_] for id_ in ids} if with_digests else {},
    )


def _in_folder(
    backbone: Backbone,
    images: object,
    empty: Gallery,
    batch_size: int,
    work: dict[str, Any],
    limit: int | None,
    folder: Path,
) -> Learnt:
    source = open_to_learn(images)
    check_count("batch_size", batch_size)
    settings = _settings(backbone, empty)
    _make(folder, settings)
    with (
        _open_or_create(folder / GALLERY, empty.upsample, empty.dtype) as gallery,
        _open_or_create(folder / _IMAGES) as about,
    ):
        # The gallery is what counts: an image is added to it last, and removed from it first.
        about.remove([id_ for id_ in about.ids if id_ not in gallery])
        known = _known(folder, gallery, about)
        new = Pending(source, known, work["n_workers"], work["progress"], backbone.reader())
        pending = new.source()
        constant = ConstantLevels()
        plan = plan_build(backbone, pending, new, gallery, batch_size, work["n_workers"], limit)
        check_room(folder, plan)
        if work["progress"]:
            sys.stderr.write(f"{folder}: {plan.describe(limit)}\n")
            sys.stderr.flush()
        if source.n_images is not None:
            _warn_of_changed(folder, new)
        work = work | {"n_workers": plan.n_workers}
        learnt: set[str] = set()
        for features in (
            backbone.iterate(pending, plan.batch_size, label="learning", may_be_none=True, **work)
            if plan.n_images != 0
            else ()
        ):
            with work["stopwatch"].stage("gallery"):
                check_pooled(features)
                _forget(features.ids, gallery, about)
                about.add(_about(features, new.digests), features.ids)
                gallery.add(features.pyramid, features.ids)
                constant.see(features.pyramid)
            learnt.update(features.ids)
            check_memory(
                limit,
                f"raise it, or lower batch_size or n_workers; {len(gallery)} images are in "
                f"{folder}, where the work can go on",
            )
        if source.n_images is None:
            _warn_of_changed(folder, new)
        _forget([id_ for id_ in gallery.ids if id_ not in learnt | new.unchanged], gallery, about)
        for id_ in new.unchanged:
            if constant.is_settled:
                break
            constant.see(gallery.pyramid([id_]))
        if not len(gallery):
            raise ImageError("images: none could be used")
    constant.check()
    gallery = Gallery.open(folder / GALLERY)
    ids = gallery.ids
    pooled, sizes = _about_images(folder, ids)
    digests = _digests(Gallery.open(folder / _IMAGES), ids)
    return Learnt(gallery, pooled, dict(zip(ids, sizes, strict=True)), digests)


def _known(folder: Path, gallery: Gallery, about: Gallery) -> dict[str, bytes]:
    """Return the digests of the images that were learnt into a folder.

    What is in a folder without digests is removed: nothing tells whether it is up to date.
    """
    known = _digests(about, [id_ for id_ in gallery.ids if id_ in about])
    if len(gallery) and not known:
        warnings.warn(
            f"{folder}: it was filled by a version of knnspect that did not keep what its "
            f"{len(gallery)} images were made of, so they may have changed: learning them again",
            stacklevel=5,
        )
        gallery.remove(gallery.ids)
        about.remove(about.ids)
    return known


def _forget(ids: list[str], gallery: Gallery, about: Gallery) -> None:
    """Remove those of some images that are there."""
    for there in (gallery, about):
        there.remove([id_ for id_ in ids if id_ in there])


def _warn_of_changed(folder: Path, new: Pending) -> None:
    if new.changed:
        n = len(new.changed)
        warnings.warn(
            f"{folder}: {n} {'image has' if n == 1 else 'images have'} changed since "
            f"{'it was' if n == 1 else 'they were'} learnt: {some_ids(new.changed)}; learning "
            f"{'it' if n == 1 else 'them'} again",
            stacklevel=5,
        )


def _about(features: Features, digests: dict[str, bytes]) -> FeaturePyramid:
    """Return pooled features, sizes and digests as pyramids of one cell."""
    n_images = len(features.ids)
    sizes = np.array(features.sizes, np.float32).reshape(n_images, 1, 1, 2)
    joined = b"".join(digests[id_] for id_ in features.ids)
    of_images = np.frombuffer(joined, np.uint8).reshape(n_images, 1, 1, DIGEST_BYTES)
    pooled = features.pooled.reshape(n_images, 1, 1, -1)
    return FeaturePyramid([pooled, sizes, of_images.astype(np.float32)])


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
        replace_file(file, json.dumps(settings, indent=2).encode(), follow_links=False)
        return
    found = read_json(file)
    with as_damage(file, "it"):
        found, wanted = _DEFAULTS | found, _DEFAULTS | settings
        changed = [name for name, value in wanted.items() if found[name] != value]
    if changed:
        name = changed[0]
        raise ParameterError(
            f"{folder}: its features were made with another {name} ({found[name]!r}, not "
            f"{wanted[name]!r}): choose another folder, or delete it"
        )


def _open_or_create(path: Path, upsample: str = "bilinear", dtype: str = "float32") -> Gallery:
    if path.is_symlink():
        raise StoreError(f"{path}: expected a folder to write to, it is a symbolic link")
    if is_gallery_folder(path):
        return Gallery.open(path, "r+")
    return Gallery.create(path, upsample, dtype)
