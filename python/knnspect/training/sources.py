"""What training reads: features, or images, by the ids of images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from knnspect.data import Geometry, ImageItem, ImageReader
from knnspect.gallery import Gallery
from knnspect.pyramid import FeaturePyramid

__all__ = ["IMAGES_AT_ONCE", "FeatureSource", "PictureSource", "Source", "batches_of"]

#: Images that are in memory at a time; their cells are shuffled together.
IMAGES_AT_ONCE = 32

Batch = TypeVar("Batch", covariant=True)


class Source(Protocol[Batch]):
    """Gives what a network is trained on."""

    def batch(self, ids: Sequence[str]) -> Batch:
        """Return some images, or what was made of them, in the order of their ids."""
        ...


class FeatureSource:
    """The features of a gallery."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery

    def batch(self, ids: Sequence[str]) -> FeaturePyramid:
        """Return the feature pyramids of some images."""
        return self._gallery.pyramid(list(ids))


class PictureSource:
    """Images, read and brought to one size whenever they are asked for.

    Parameters
    ----------
    items : iterable of ImageItem
        The images.
    geometry : Geometry
        How they are brought to one size.
    reader : ImageReader, optional
        How they are read.

    Examples
    --------
    >>> from knnspect.data import open_images
    >>> images = open_images(np.zeros((3, 10, 12, 3), np.uint8))
    >>> PictureSource(images, Geometry((8, 8))).batch(["000002", "000000"]).shape
    (2, 3, 8, 8)
    """

    def __init__(
        self,
        items: Iterable[ImageItem],
        geometry: Geometry,
        reader: ImageReader | None = None,
    ) -> None:
        self._items = {item.id: item for item in items}
        self._geometry = geometry
        self._reader = ImageReader() if reader is None else reader

    def batch(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """Return some images, shape (n_images, 3, height, width), float32 in [0, 1]."""
        read = (self._items[id_].read(self._reader) for id_ in ids)
        return np.stack([self._geometry.prepare(image) for image in read])


def batches_of(source: Source[Batch], ids: Sequence[str]) -> Iterator[Batch]:
    """Yield some images, a few at a time."""
    for start in range(0, len(ids), IMAGES_AT_ONCE):
        yield source.batch(ids[start : start + IMAGES_AT_ONCE])
