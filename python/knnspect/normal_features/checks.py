"""What nothing can be learnt from, and nothing judged."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.data import Geometry
from knnspect.errors import ImageError, ShapeError
from knnspect.features import Features
from knnspect.gallery import Gallery
from knnspect.parameters import Parametrized
from knnspect.pyramid import FeaturePyramid
from knnspect.views import Variants

__all__ = [
    "ConstantLevels",
    "add_to_gallery",
    "check_pooled",
    "evenly_spaced",
    "naming_images",
    "other_grid",
    "warn_of_too_many",
]


def evenly_spaced(n_images: int, at_most: int = 16) -> list[int]:
    """Return some images, evenly spaced, that are judged by what was learnt from the others.

    >>> evenly_spaced(0), evenly_spaced(3), len(evenly_spaced(100)), evenly_spaced(9, 3)
    ([], [0, 1, 2], 16, [0, 4, 8])
    """
    if n_images == 0:
        return []
    return [int(image) for image in np.unique(np.linspace(0, n_images - 1, at_most).astype(int))]


def check_pooled(features: Features) -> None:
    """Raise an ImageError for the first image whose pooled features are not finite."""
    for id_, pooled in zip(features.ids, features.pooled, strict=True):
        if not np.isfinite(pooled).all():
            raise ImageError(f"image {id_}: its pooled features are not finite")


def warn_of_too_many(detector: Parametrized, names: Sequence[str], n_images: int) -> None:
    """Warn where a parameter, not by default, asks for more normal images than there are."""
    for name in names:
        asked = getattr(detector, name)
        if asked != detector.parameters[name].default and asked > n_images:
            warnings.warn(
                f"{name}={asked} exceeds the number of normal images: using all {n_images}",
                stacklevel=4,  # who called `fit`, which called `_learn`
            )


#: What messages say of images whose inputs differ in size, by `Geometry.resize`.
_OF_SIZES: dict[str, str] = {
    "shorter": ': with resize="shorter", images of other shapes',
    "own": ': with resize="own" or tiles, images of other sizes',
}


@contextmanager
def naming_images(features: Features) -> Iterator[None]:
    """Name the image whose features are not finite, or of another grid, where only we know its id.

    All images of a batch have one grid.
    """
    try:
        yield
    except ShapeError as error:
        if hint := _OF_SIZES.get(features.placements[0].geometry.resize, ""):
            hint += (
                " than the normal ones are judged by a coreset, a gallery of one level, and "
                "SimpleNet; others need images of one size"
            )
        raise ShapeError(
            f"image {features.ids[0]}: {error}{hint}", image=features.ids[0]
        ) from error
    except ImageError as error:
        for index, id_ in enumerate(features.ids):
            if not all(np.isfinite(level[index]).all() for level in features.pyramid.levels):
                raise ImageError(f"image {id_}: its features are not finite") from error
        raise


def add_to_gallery(gallery: Gallery, features: Features) -> None:
    """Add the pyramids of a batch to a gallery; all images of a gallery have one grid.

    Raises
    ------
    ShapeError
        If they have another, as images of another shape may with ``resize="shorter"``.
    """
    try:
        gallery.add(features.pyramid, features.ids)
    except ShapeError as error:
        geometry = features.placements[0].geometry
        raise other_grid(features.ids[0], str(error), geometry) from error


def other_grid(image: str, reason: str, geometry: Geometry) -> ShapeError:
    """Return the error of a normal image whose grid is not that of the others."""
    return ShapeError(
        f"image {image}: {reason}: the grids of normal images must be equal; {geometry.one_grid}",
        image=image,
    )


class ConstantLevels:
    """Notices levels that are the same at every cell of every image: nothing can be learnt.

    Parameters
    ----------
    variants : Variants, optional
        In which variants images come: only the images as they are are looked at.
    """

    def __init__(self, variants: Variants | None = None) -> None:
        self._variants = variants
        self._first: list[NDArray[Any]] | None = None
        self._constant: set[int] = set()

    @property
    def is_settled(self) -> bool:
        """Whether no level can be constant any more."""
        return self._first is not None and not self._constant

    def see(self, pyramid: FeaturePyramid, ids: Sequence[str]) -> None:
        """Look at more images, of these ids."""
        if self._variants is not None and not self.is_settled:
            own = [n for n, id_ in enumerate(ids) if not self._variants.split(id_)[1].name]
            if not own:
                return
            pyramid = pyramid[own]
        if self._first is None:
            self._first = [level[0, 0, 0].copy() for level in pyramid.levels]
            self._constant = set(range(len(pyramid.levels)))
        for level in sorted(self._constant):
            if (pyramid.levels[level] != self._first[level]).any():
                self._constant.discard(level)

    def check(self) -> None:
        """Raise an ImageError where a level is constant."""
        if self._constant:
            level = min(self._constant)
            raise ImageError(
                f"the features of level {level} are the same at every cell of every image, "
                "so that nothing can be told apart: check the images and the backbone's weights"
            )
