"""What PatchCore compares with: a coreset, or the cells of all normal images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.backends import Backend
from knnspect.detectors.building import stored_gallery
from knnspect.gallery import Coreset, Gallery, ReadOnlyGallery
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Neighbors

__all__ = ["CoresetMemory", "GalleryMemory", "Memory", "stored_memory"]

Rows = NDArray[np.float32]


class Memory(ABC):
    """Normal features, and how they are searched."""

    #: Number of normal images.
    n_images: int
    #: Number of features.
    n_rows: int
    #: Bytes of all features.
    nbytes: int

    @abstractmethod
    def search(
        self, query: FeaturePyramid, threads: int | None, backend: str | Backend
    ) -> Neighbors:
        """Find the nearest feature of every cell."""

    @abstractmethod
    def around(
        self,
        id_: str,
        cell: tuple[int, int],
        n: int,
        threads: int | None,
        backend: str | Backend,
    ) -> tuple[Rows, Rows]:
        """Return a feature, shape (n_features,), by its place, and its `n` nearest with itself."""

    @abstractmethod
    def search_others(
        self, query: FeaturePyramid, ids: Sequence[str], threads: int | None, backend: str | Backend
    ) -> Neighbors | None:
        """Find the nearest features that came from none of these images; None if there is none."""

    @abstractmethod
    def parts(self) -> tuple[ReadOnlyGallery, dict[str, str], dict[str, NDArray[Any]]]:
        """Return what a file holds: a gallery, metadata and tensors."""


class CoresetMemory(Memory):
    """The rows of a coreset."""

    def __init__(self, coreset: Coreset) -> None:
        self.coreset = coreset
        self.n_images, self.n_rows = len(coreset.image_ids), len(coreset)
        self.nbytes = coreset.nbytes

    def search(
        self, query: FeaturePyramid, threads: int | None, backend: str | Backend
    ) -> Neighbors:
        """Find the nearest row of every cell."""
        return self.coreset.search(query, 1, threads, backend)

    def around(
        self,
        id_: str,
        cell: tuple[int, int],
        n: int,
        threads: int | None,
        backend: str | Backend,
    ) -> tuple[Rows, Rows]:
        """Return a row by its place, and its `n` nearest."""
        return self.coreset.around(id_, cell, n, threads, backend)

    def search_others(
        self, query: FeaturePyramid, ids: Sequence[str], threads: int | None, backend: str | Backend
    ) -> Neighbors | None:
        """Find the nearest rows that came from none of these images."""
        others = self.coreset.without(ids)
        return others.search(query, 1, threads, backend) if len(others) else None

    def parts(self) -> tuple[ReadOnlyGallery, dict[str, str], dict[str, NDArray[Any]]]:
        """Return the bank, and what is known of its rows."""
        metadata, tensors = self.coreset.state()
        return self.coreset.bank, metadata, dict(tensors)


class GalleryMemory(Memory):
    """Every cell of every normal image."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        height, width, _ = gallery.shapes[0]
        self.n_images, self.n_rows = len(gallery), len(gallery) * height * width
        self.nbytes = gallery.nbytes

    def search(
        self, query: FeaturePyramid, threads: int | None, backend: str | Backend
    ) -> Neighbors:
        """Find the nearest cell of every cell."""
        return self.gallery.search(query, 1, None, threads, backend)

    def around(
        self,
        id_: str,
        cell: tuple[int, int],
        n: int,
        threads: int | None,
        backend: str | Backend,
    ) -> tuple[Rows, Rows]:
        """Return the feature of a cell, and its `n` nearest."""
        return self.gallery.around(id_, cell, n, threads, backend)

    def search_others(
        self, query: FeaturePyramid, ids: Sequence[str], threads: int | None, backend: str | Backend
    ) -> Neighbors | None:
        """Find the nearest cells of the images that are none of these."""
        others = self.gallery.without(ids)
        return others.search(query, 1, None, threads, backend) if len(others) else None

    def parts(self) -> tuple[ReadOnlyGallery, dict[str, str], dict[str, NDArray[Any]]]:
        """Return the gallery."""
        return self.gallery, {}, {}


def stored_memory(store: _core.Store, folder: Path | None) -> Memory:
    """Return what an open file holds, or the folder in which it is."""
    if "coreset" in store.metadata:
        return CoresetMemory(Coreset.from_store(store))
    return GalleryMemory(stored_gallery(store, folder))
