"""Variants of an image that is judged: on their way to the network, and back to the image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from knnspect.data.decoded import ImageArray
from knnspect.data.geometry import Geometry
from knnspect.views.placement import Box, Placement
from knnspect.views.turning import turned_positions
from knnspect.views.variants import Variant, Variants

__all__ = ["ChosenVariants", "QueryViews", "cells_of_variant"]


@dataclass(frozen=True)
class QueryViews:
    """All variants of an image that is judged, one after the other; the image as it is first.

    Parameters
    ----------
    variants : Variants
        In which variants images are judged.
    """

    variants: Variants

    def __len__(self) -> int:
        return len(self.variants)

    def prepare(
        self, id_: str, image: ImageArray, geometry: Geometry
    ) -> list[tuple[str, NDArray[np.float32]]]:
        """Return all variants of an image, prepared, with ids for messages.

        Unlike a normal image it may have any id.

        Raises
        ------
        ImageError
            If it cannot be turned.
        """
        ids = [self.variants.stored_id(id_, variant) for variant in self.variants.each]
        return list(zip(ids, self.variants.prepared(id_, image, geometry), strict=True))


@dataclass(frozen=True, eq=False)
class ChosenVariants:
    """In which variant of a judged image each of its cells is nearest to normal.

    Parameters
    ----------
    variants : Variants
        In which variants it was judged.
    places : ndarray of intp, shape (height, width)
        The chosen one for each cell, as a place in ``variants.each``.
    """

    variants: Variants
    places: NDArray[np.intp]

    def at(self, cell: tuple[int, int]) -> Variant:
        """Return the variant that was chosen for a cell."""
        return self.variants.each[int(self.places[cell])]

    def box_of(self, cell: tuple[int, int], placement: Placement) -> Box:
        """Return what of the image was compared at a cell.

        Parameters
        ----------
        cell : (int, int)
            A cell of the image as it is.
        placement : Placement
            How the image met the network.

        Returns
        -------
        Box
            Its pixels, in the image as it came. A cell of a turned variant is not upright there:
            the box holds it.
        """
        variant, grid = self.at(cell), (self.places.shape[0], self.places.shape[1])
        if not variant.moves:
            return placement.box_of(cell, grid)
        rows, columns = cells_of_variant(variant, placement, grid)
        box = placement.box_of((int(rows[cell]), int(columns[cell])), grid)
        return variant.box_in_image(box, placement.size)


def cells_of_variant(
    variant: Variant, placement: Placement, grid: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return in which cells of a variant the middles of an image's cells lie.

    Parameters
    ----------
    variant : Variant
        A variant of the image, of the same height and width.
    placement : Placement
        How both met the network.
    grid : (int, int)
        Rows and columns of cells.

    Returns
    -------
    tuple of ndarray of intp, shape `grid`
        Rows and columns; -1 where the variant does not show a cell, as its corners.

    Examples
    --------
    >>> placement = Placement((8, 16), Geometry((2, 4)))
    >>> rows, columns = cells_of_variant(Variant(90.0), placement, (2, 4))
    >>> rows.tolist(), columns.tolist()
    ([[-1, 1, 0, -1], [-1, 1, 0, -1]], [[-1, 1, 1, -1], [-1, 2, 2, -1]])
    """
    return _cells_of_variant(variant.angle, variant.is_mirrored, placement, grid)


@lru_cache(maxsize=64)
def _cells_of_variant(
    angle: float, is_mirrored: bool, placement: Placement, grid: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    rows, columns = placement.middles(grid)
    if is_mirrored:
        columns = placement.size[1] - 1 - columns
    at = turned_positions(rows[:, None], columns, angle, placement.size)
    found = placement.cells_at(at[0], at[1], grid)
    is_hidden = (found[0] < 0) | (found[1] < 0)
    for cells in found:
        cells[is_hidden] = -1
        cells.setflags(write=False)  # the cache gives them again
    return found
