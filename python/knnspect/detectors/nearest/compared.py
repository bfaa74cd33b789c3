"""What the comparison of an image with the normal ones gives, before there is a map."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from knnspect.search import Neighbors
from knnspect.views import Placement, Variants
from knnspect.views.query_variants import ChosenVariants, cells_of_variant

__all__ = ["Compared", "Counts", "LeastOfVariants", "Nearest"]

#: Which cells of an image count, shape (height, width); None: all.
Counts: TypeAlias = NDArray[np.bool_] | None
#: Normal images and their squared distances, nearest first.
Nearest: TypeAlias = list[tuple[str, float]]


class Compared(NamedTuple):
    """What the comparison of an image with the normal ones gives.

    Parameters
    ----------
    neighbors : Neighbors
        The normal cells that are nearest to each of its cells.
    cells : ndarray of float, shape (height, width)
        The scores of its cells, evened out at the border; 0 where they are masked.
    own_score : float
        The image score of the method's paper; NaN where ``score`` asks for another one.
    images : tuple of (str, float)
        The normal images that were chosen for it, nearest first, and their squared distances.
    is_part : ndarray of bool, shape (height, width), optional
        Which cells are not masked; None: all.
    """

    neighbors: Neighbors
    cells: NDArray[Any]
    own_score: float
    images: tuple[tuple[str, float], ...] = ()
    is_part: Counts = None

    @property
    def counted(self) -> NDArray[Any]:
        """The scores of its cells, NaN where they are masked."""
        return self.cells if self.is_part is None else np.where(self.is_part, self.cells, np.nan)


class LeastOfVariants:
    """The comparisons of all variants of an image as one: at each cell the least score counts.

    Scores are turned back cell by cell: they have been divided at the border, as the border is that
    of what the network saw, and are not blurred yet, so that each comes with the normal cell that
    it is the distance to. The middle of each cell of the image lies in one cell of the variant, or
    in none, as the variant's corners; then other variants decide. The image as it is shows all, and
    says what is masked.

    Parameters
    ----------
    variants : Variants
        In which variants the image is judged; the first is the image as it is.
    placement : Placement
        How the image, and each variant, met the network.
    image : Compared
        The comparison of the image as it is.
    """

    def __init__(self, variants: Variants, placement: Placement, image: Compared) -> None:
        self._placement = placement
        self._cells = image.cells.copy()
        found = image.neighbors
        self._neighbors = replace(
            found,
            sq_distances=found.sq_distances.copy(),
            image_index=found.image_index.copy(),
            cells=found.cells.copy(),
        )
        self._own_score = image.own_score
        self._images = dict(image.images)
        self.chosen = ChosenVariants(variants, np.zeros(self._cells.shape, np.intp))

    def add(self, place: int, found: Compared) -> None:
        """Add the comparison of a variant, by its place in ``variants.each``."""
        variant = self.chosen.variants.each[place]
        grid = (found.cells.shape[0], found.cells.shape[1])
        there = cells_of_variant(variant, self._placement, grid)
        is_less = (there[0] >= 0) & (found.cells[there] < self._cells)
        if found.is_part is not None:
            is_less &= found.is_part[there]
        there = there[0][is_less], there[1][is_less]
        self._cells[is_less] = found.cells[there]
        self.chosen.places[is_less] = place
        mine, other = self._neighbors, _with_ids_of(found.neighbors, self._neighbors)
        if mine.image_ids != other.image_ids:
            mine = self._neighbors = _with_ids_of(mine, other)
        for name in ("sq_distances", "image_index", "cells"):
            getattr(mine, name)[0, is_less] = getattr(other, name)[0][there]
        self._own_score = min(self._own_score, found.own_score)
        for id_, far in found.images:
            self._images[id_] = min(far, self._images.get(id_, far))

    def result(self) -> Compared:
        """Return them as one comparison, of the image as it is."""
        images = sorted(self._images.items(), key=lambda image: (image[1], image[0]))
        return Compared(self._neighbors, self._cells, self._own_score, tuple(images))


def _with_ids_of(found: Neighbors, other: Neighbors) -> Neighbors:
    """Return neighbours whose `image_ids` are those of both."""
    if found.image_ids == other.image_ids:
        return found
    ids = tuple(sorted({*found.image_ids, *other.image_ids}))
    places = {id_: place for place, id_ in enumerate(ids)}
    index = np.array([places[id_] for id_ in found.image_ids], found.image_index.dtype)
    return replace(found, image_index=index[found.image_index], image_ids=ids)
