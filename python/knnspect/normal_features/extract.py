"""Filling a gallery with the features of normal images, in memory or in a folder."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from knnspect.data import Geometry, ImageSource, open_to_learn
from knnspect.errors import ImageError
from knnspect.features import Extractor, Features
from knnspect.files import check_path
from knnspect.gallery import Gallery
from knnspect.memory import check_memory, parse_bytes
from knnspect.normal_features.checks import ConstantLevels, add_to_gallery, check_pooled
from knnspect.normal_features.feature_maker import How
from knnspect.normal_features.file_stamps import FILES, FileStamps
from knnspect.normal_features.folder import (
    GALLERY,
    IMAGES,
    THUMBNAILS,
    about_images,
    digests_of,
    forget,
    make_folder,
    open_or_create,
    rows_about,
    settings_of,
)
from knnspect.normal_features.memory_plan import Plan, check_room, plan_build, warn_of_variants
from knnspect.normal_features.on_cluster import (
    Into,
    check_for_cluster,
    check_shards,
    fill_shards,
    opened,
)
from knnspect.normal_features.pending import Pending
from knnspect.normal_features.run import Run
from knnspect.normal_features.thumbnails import ThumbnailMaker, Thumbnails
from knnspect.validation import check_count, some_ids
from knnspect.views import Placement, StoredImages, Variants

__all__ = ["NormalFeatures", "extract", "extract_in_memory"]


@dataclass(frozen=True)
class NormalFeatures:
    """The features of normal images.

    Parameters
    ----------
    gallery : Gallery
        Their pyramids; of each variant, if they were learnt in several, under an id of its own.
    pooled : ndarray of float32, shape (n_images, n_features)
        Their pooled features, in the order of ``gallery.ids``.
    sizes : dict of str to (int, int)
        Height and width of each image as it came.
    digests : dict of str to bytes
        What each image was made of, as `ImageItem.digest` gives it.
    geometry : Geometry
        How images meet the network.
    stored : StoredImages
        Which ids of the gallery belong to which image.
    thumbnails : Thumbnails
        Small copies of the images, as many as are to be kept.
    """

    gallery: Gallery
    pooled: NDArray[np.float32]
    sizes: dict[str, tuple[int, int]]
    digests: dict[str, bytes]
    geometry: Geometry
    stored: StoredImages
    thumbnails: Thumbnails

    def of_image(self, image: str) -> NormalFeatures:
        """Return the features of one image, in a gallery of its own."""
        ids = self.stored.ids_of([image])
        gallery = Gallery(self.gallery.upsample, self.gallery.dtype)
        gallery.add(self.gallery.pyramid(ids), ids)
        places = {id_: place for place, id_ in enumerate(self.gallery.ids)}
        return NormalFeatures(
            gallery,
            self.pooled[[places[id_] for id_ in gallery.ids]],
            {image: self.sizes[image]},
            {image: self.digests[image]},
            self.geometry,
            StoredImages(gallery.ids, self.stored.variants),
            Thumbnails({}),
        )

    def placement(self, id_: str) -> Placement:
        """Return how an image met the network."""
        return Placement(self.sizes[id_], self.geometry)


def extract(backbone: Extractor, images: object, gallery: Gallery, run: Run) -> NormalFeatures:
    """Fill a gallery with the features of all images.

    Parameters
    ----------
    backbone : Extractor
        What extracts them.
    images
        As in `Detector.fit`.
    gallery : Gallery
        An empty gallery in memory; its settings are those of one in a folder.
    run : Run
        How it is to be done. With a folder, what an earlier call has left there is kept: images
        that it knows are not learnt again if their digests are the same, which are taken anew where
        size or times of a file are others; those that changed are, with a warning, and those that
        are not among `images` are removed. With a limit of memory and no folder there is a
        temporary one, which goes with the gallery.

    Returns
    -------
    NormalFeatures
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
    images = backbone.opened(images)
    if run.on_cluster is not None:
        images = open_to_learn(images)
        check_for_cluster(run, images)
    if backbone.white == "auto":
        images = open_to_learn(images)
        backbone.find_white(images, run.n_workers, run.skip_bad, run.progress)
    if run.max_memory is None and run.folder is None:
        return extract_in_memory(backbone, images, gallery, run)
    limit = None if run.max_memory is None else parse_bytes("max_memory", run.max_memory)
    if run.folder is not None:
        return _in_folder(backbone, images, gallery, run, limit, check_path(run.folder))
    path = Path(tempfile.mkdtemp(prefix="knnspect-"))
    try:
        found = _in_folder(backbone, images, gallery, run, limit, path)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    weakref.finalize(found.gallery, _remove_folder, path, os.getpid())
    return found


def _remove_folder(path: Path, process: int) -> None:
    """Remove the folder of a gallery that is gone; not for a forked child, whose copy is gone."""
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)


def extract_in_memory(
    backbone: Extractor, images: object, gallery: Gallery, run: Run
) -> NormalFeatures:
    """Fill a gallery in memory, by a backbone that knows the white level; as `extract`."""
    maker = ThumbnailMaker(run.n_thumbnails)
    pending = Pending(maker.watching(open_to_learn(images)), {})
    ids: list[str] = []
    sizes: list[tuple[int, int]] = []
    pooled: list[NDArray[np.float32]] = []
    constant = ConstantLevels(run.variants)
    new = pending.source()
    for features in backbone.iterate(new, run.batch_size, label="learning", **run.of_reading()):
        with run.watch.stage("gallery"):
            add_to_gallery(gallery, features)
            check_pooled(features)
            constant.see(features.pyramid, features.ids)
        ids += features.ids
        sizes += features.sizes
        pooled.append(features.pooled)
    constant.check()
    by_id = sorted(range(len(ids)), key=ids.__getitem__)
    stored = StoredImages([ids[place] for place in by_id], run.variants)
    sizes_of = dict(zip(ids, sizes, strict=True))
    return NormalFeatures(
        gallery,
        np.concatenate(pooled)[by_id],
        {image: sizes_of[image] for image in stored.images},
        {image: pending.digests[image] for image in stored.images},
        backbone.geometry,
        stored,
        maker.of(stored.images),
    )


def _in_folder(
    backbone: Extractor,
    images: object,
    empty: Gallery,
    run: Run,
    limit: int | None,
    folder: Path,
) -> NormalFeatures:
    source = open_to_learn(images)
    check_count("batch_size", run.batch_size)
    settings = settings_of(backbone, empty, run.variants)
    make_folder(folder, settings)
    here = run.on_cluster is None
    with ExitStack() as stack:
        at_home = folder / GALLERY
        gallery = stack.enter_context(opened(at_home, empty.upsample, empty.dtype, run.on_cluster))
        about = stack.enter_context(open_or_create(folder / IMAGES))
        check_shards(gallery, run)
        maker = ThumbnailMaker(run.n_thumbnails, folder / THUMBNAILS)
        if here:
            source = maker.watching(source)
        # The gallery is what counts: an image is added to it last, and removed from it first.
        about.remove([id_ for id_ in about.ids if id_ not in gallery])
        known = _known(folder, gallery, about, run.variants)
        stamps = FileStamps(folder / FILES)
        new = Pending(source, known, run.n_workers, run.progress, backbone.reader(), stamps)
        pending = new.source()
        constant = ConstantLevels(run.variants)
        plan = plan_build(backbone, pending, new, gallery, run, limit)
        check_room(folder, plan)
        warn_of_variants(plan, limit)
        if run.progress:
            sys.stderr.write(f"{folder}: {plan.describe(limit)}\n")
            sys.stderr.flush()
        if source.n_images is not None:
            _warn_of_changed(folder, new)
        if here:
            learnt = _learn(backbone, pending, plan, new, (gallery, about), constant, run, limit)
        else:
            # What is learnt again is removed first: what is kept of it beside is that of the new.
            items = new.items()
            again = [id_ for item in items for id_ in _ids_of(item.id, run.variants)]
            forget(again, gallery, about)
            gallery.close()
            into = Into(at_home, about, maker, new.digests)
            learnt = fill_shards(backbone, items, into, How.of(plan, run, limit), run)
            gallery = stack.enter_context(open_or_create(folder / GALLERY))
        if source.n_images is None:
            _warn_of_changed(folder, new)
        kept = learnt.union(*(_ids_of(id_, run.variants) for id_ in new.unchanged))
        forget([id_ for id_ in gallery.ids if id_ not in kept], gallery, about)
        for id_ in new.unchanged if here else gallery.ids:
            if constant.is_settled:
                break
            constant.see(gallery.pyramid([id_]), [id_])
        if not len(gallery):
            raise ImageError("images: none could be used")
        stamps.save({**{id_: known[id_] for id_ in new.unchanged}, **new.digests})
    constant.check()
    return _of_folder(folder, backbone.geometry, run.variants, maker)


def _learn(
    backbone: Extractor,
    pending: ImageSource,
    plan: Plan,
    new: Pending,
    into: tuple[Gallery, Gallery],
    constant: ConstantLevels,
    run: Run,
    limit: int | None,
) -> set[str]:
    """Put images into a folder batch by batch; return the ids under which they were stored."""
    gallery, about = into
    learnt: set[str] = set()
    reading = run.of_reading() | {"n_workers": plan.n_workers}
    batches = backbone.iterate(
        pending, plan.batch_size, label="learning", may_be_none=True, **reading
    )
    for features in batches if plan.n_images != 0 else ():
        with run.watch.stage("gallery"):
            _add(features, new.digests, gallery, about, run.variants)
            constant.see(features.pyramid, features.ids)
        learnt.update(features.ids)
        n_images = len(gallery) // plan.n_variants
        check_memory(
            limit,
            f"raise it, or lower batch_size or n_workers; {n_images} images are in "
            f"{run.folder}, where the work can go on",
        )
    return learnt


def _add(
    features: Features,
    digests: dict[str, bytes],
    gallery: Gallery,
    about: Gallery,
    variants: Variants | None,
) -> None:
    """Put images into a folder, in place of those of the same ids."""
    check_pooled(features)
    forget(features.ids, gallery, about)
    images = [id_ if variants is None else variants.split(id_)[0] for id_ in features.ids]
    of_each = [digests[image] for image in images]
    about.add(rows_about(features.pooled, features.sizes, of_each), features.ids)
    add_to_gallery(gallery, features)


def _of_folder(
    folder: Path, geometry: Geometry, variants: Variants | None, maker: ThumbnailMaker
) -> NormalFeatures:
    """Return the features of all images in a folder."""
    gallery = Gallery.open(folder / GALLERY)
    ids = gallery.ids
    stored = StoredImages(ids, variants)
    pooled, of_ids = about_images(folder, ids)
    sizes = {
        image: of_ids[place] for image, place in zip(stored.images, stored.places, strict=True)
    }
    digests = digests_of(Gallery.open(folder / IMAGES), stored.images)
    thumbnails = maker.of(stored.images)
    return NormalFeatures(gallery, pooled, sizes, digests, geometry, stored, thumbnails)


def _ids_of(image: str, variants: Variants | None) -> list[str]:
    return [image] if variants is None else variants.stored_ids(image)


def _known(
    folder: Path, gallery: Gallery, about: Gallery, variants: Variants | None
) -> dict[str, bytes]:
    """Return the digests of the images that were learnt into a folder, in all of their variants.

    What is in a folder without digests is removed: nothing tells whether it is up to date.
    """
    known = digests_of(about, [id_ for id_ in gallery.ids if id_ in about])
    if variants is not None:
        # Interrupted, some variants of an image may be missing, or be those of an earlier one.
        images = {variants.split(id_)[0] for id_ in known}
        found = {image: {known.get(id_) for id_ in variants.stored_ids(image)} for image in images}
        return {
            image: digest
            for image, digests in found.items()
            if len(digests) == 1 and (digest := digests.pop()) is not None
        }
    if len(gallery) and not known:
        warnings.warn(
            f"{folder}: it was filled by a version of knnspect that did not keep what its "
            f"{len(gallery)} images were made of, so they may have changed: learning them again",
            stacklevel=5,
        )
        gallery.remove(gallery.ids)
        about.remove(about.ids)
    return known


def _warn_of_changed(folder: Path, new: Pending) -> None:
    if new.changed:
        n = len(new.changed)
        warnings.warn(
            f"{folder}: {n} {'image has' if n == 1 else 'images have'} changed since "
            f"{'it was' if n == 1 else 'they were'} learnt: {some_ids(new.changed)}; learning "
            f"{'it' if n == 1 else 'them'} again",
            stacklevel=5,
        )
