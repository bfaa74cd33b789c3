"""A folder of the features of normal images, which `extract` fills and goes on with.

It holds ``gallery``, the pyramids; ``images``, the pooled features, sizes and digests of the same
images, as a gallery, too; ``settings.json``, what the features were made with; ``thumbnails``,
small copies of images, from which a fit that goes on takes them; and ``checkpoint`` while a network
is trained on them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.data.digests import DIGEST_BYTES
from knnspect.errors import ParameterError, StoreError
from knnspect.features import Extractor
from knnspect.features.stored import DEFAULTS
from knnspect.files import as_damage, is_there, read_json, replace_file
from knnspect.gallery import Gallery, ShardedGallery, is_gallery_folder
from knnspect.pyramid import FeaturePyramid
from knnspect.views import Variants

__all__ = [
    "CHECKPOINT",
    "GALLERY",
    "IMAGES",
    "THUMBNAILS",
    "about_images",
    "digest_of_images",
    "digests_of",
    "forget",
    "is_features_folder",
    "make_folder",
    "open_or_create",
    "rows_about",
    "settings_of",
]

GALLERY, IMAGES, CHECKPOINT, THUMBNAILS = "gallery", "images", "checkpoint", "thumbnails"
_SETTINGS = "settings.json"
#: Settings that are left out where they have their default.
_DEFAULTS: dict[str, Any] = {**DEFAULTS, "variants": None}


def is_features_folder(folder: Path) -> bool:
    """Return whether `extract` has made this folder."""
    return is_there(folder / _SETTINGS)


def about_images(folder: Path, ids: list[str]) -> tuple[NDArray[np.float32], list[tuple[int, int]]]:
    """Return the pooled features and the sizes of images in a folder that `extract` has filled."""
    path = folder / IMAGES
    with as_damage(path, "what it says of the images"):
        images = Gallery.open(path).pyramid(ids)
        pooled: NDArray[np.float32] = images.levels[0].reshape(len(ids), -1)
        sizes = images.levels[1].reshape(len(ids), 2).astype(int).tolist()
        return pooled, [(height, width) for height, width in sizes]


def digest_of_images(folder: Path, ids: list[str]) -> str:
    """Return what tells the images of a folder from others: a digest of their ids and digests."""
    digest = hashlib.sha256()
    known = digests_of(Gallery.open(folder / IMAGES), ids)
    for id_ in ids:
        digest.update(json.dumps(id_).encode() + known.get(id_, b""))
    return digest.hexdigest()


def digests_of(about: Gallery, ids: list[str]) -> dict[str, bytes]:
    """Return the digests of images; of a folder that an earlier version filled there are none."""
    if len(about.shapes) < 3:
        return {}
    return {id_: about.core.image(id_)[2].astype(np.uint8).tobytes() for id_ in ids}


def forget(ids: list[str], gallery: Gallery, about: Gallery) -> None:
    """Remove those of some images that are there."""
    for there in (gallery, about):
        there.remove([id_ for id_ in ids if id_ in there])


def rows_about(
    pooled: NDArray[np.float32], sizes: Sequence[tuple[int, int]], digests: Sequence[bytes]
) -> FeaturePyramid:
    """Return pooled features, sizes and digests of images as pyramids of one cell."""
    n_images = len(pooled)
    of_sizes = np.array(sizes, np.float32).reshape(n_images, 1, 1, 2)
    of_images = np.frombuffer(b"".join(digests), np.uint8).reshape(n_images, 1, 1, DIGEST_BYTES)
    return FeaturePyramid(
        [pooled.reshape(n_images, 1, 1, -1), of_sizes, of_images.astype(np.float32)]
    )


def settings_of(
    backbone: Extractor, gallery: Gallery, variants: Variants | None = None
) -> dict[str, Any]:
    """Return all that features in a folder depend on."""
    settings = {**backbone.fingerprint(), "upsample": gallery.upsample, "dtype": gallery.dtype}
    return settings if variants is None else settings | {"variants": str(variants)}


def make_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Make the folder, or check that what is in it was made with the same settings."""
    try:
        folder.mkdir(exist_ok=True)
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror}", path=folder) from error
    file = folder / _SETTINGS
    if _SETTINGS not in names:
        if any(not name.startswith(".") for name in names):
            raise StoreError(
                f"{folder}: expected an empty folder or one of features, it has files", path=folder
            )
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
            f"{wanted[name]!r}): choose another folder, or delete it",
            path=folder,
        )


def open_or_create(
    path: Path,
    upsample: str = "bilinear",
    dtype: str = "float32",
    shards: int | Sequence[str | os.PathLike[str]] | None = None,
) -> Gallery:
    """Return the gallery in a folder, open for writing; a new one, maybe in shards, if none is."""
    if path.is_symlink():
        raise StoreError(f"{path}: expected a folder to write to, it is a symbolic link", path=path)
    if is_gallery_folder(path):
        return Gallery.open(path, "r+")
    if shards is not None:
        return ShardedGallery.create(path, upsample, dtype, shards)
    return Gallery.create(path, upsample, dtype)
