"""Where a picture came from: it travels with its features and its predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from knnspect.data.geometry import Geometry
from knnspect.validation import check_count

__all__ = ["Box", "Placement", "Sizes"]


class Box(NamedTuple):
    """A part of an image in its pixels: rows from `top` to below `bottom`, columns alike."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Placement:
    """How an image met the network: the way from its pixels to cells, and back.

    Parameters
    ----------
    size : (int, int)
        Height and width of the image as it came.
    geometry : Geometry
        How it was brought to the network's input.

    Examples
    --------
    >>> placement = Placement((100, 200), Geometry((64, 64)))
    >>> placement.cell_at(99, 0, (8, 8))
    (7, 0)
    >>> placement.box_of((7, 0), (8, 8))
    Box(top=87, left=0, bottom=100, right=25)
    """

    size: tuple[int, int]
    geometry: Geometry

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the network's input for this image."""
        return self.geometry.input_size(self.size)

    def to_image(self, map_: NDArray[Any]) -> NDArray[np.float32]:
        """Return a map of the network's input as a map of the image, shape `size`."""
        return self.geometry.restore(map_, self.size)

    def cell_at(self, row: int, column: int, grid: tuple[int, int]) -> tuple[int, int]:
        """Return the cell in which a pixel of the image lies.

        Parameters
        ----------
        row, column : int
            The pixel.
        grid : (int, int)
            Rows and columns of cells.
        """
        found = self.geometry.locate(row, column, self.size)
        cells = (
            int((at + 0.5) * n_cells / n_pixels)
            for at, n_cells, n_pixels in zip(found, grid, self.input_size, strict=True)
        )
        row_of_cells, column_of_cells = cells
        return row_of_cells, column_of_cells

    def middles(self, grid: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return where the middles of cells lie in the image.

        Parameters
        ----------
        grid : (int, int)
            Rows and columns of cells.

        Returns
        -------
        tuple of ndarray of float64, shapes (n_rows,) and (n_columns,)
            Rows and columns, which may lie between pixels; NaN where a cell lies beside the image.
        """
        rows, columns = (
            (np.arange(n_cells) + 0.5) * n_pixels / n_cells - 0.5
            for n_cells, n_pixels in zip(grid, self.input_size, strict=True)
        )
        return self.geometry.to_original(rows, columns, self.size)

    def cells_at(
        self, rows: NDArray[np.float64], columns: NDArray[np.float64], grid: tuple[int, int]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return in which cells positions in the image lie, also such between pixels.

        Parameters
        ----------
        rows, columns : ndarray of float64
            The positions.
        grid : (int, int)
            Rows and columns of cells.

        Returns
        -------
        tuple of ndarray of intp
            Rows and columns of cells; -1 for what lies outside of the image, or was cut off.
        """
        places = self.geometry.to_input(rows, columns, self.size)
        cells = []
        for at, n_cells, n_pixels in zip(places, grid, self.input_size, strict=True):
            found = np.floor((np.nan_to_num(at, nan=-1.0) + 0.5) * n_cells / n_pixels)
            cells.append(np.where(np.isnan(at), -1, found.clip(0, n_cells - 1)).astype(np.intp))
        return cells[0], cells[1]

    def box_of(self, cell: tuple[int, int], grid: tuple[int, int]) -> Box:
        """Return the pixels of the image that lie in a cell; at least one.

        Parameters
        ----------
        cell : (int, int)
            Row and column of the cell.
        grid : (int, int)
            Rows and columns of cells.
        """
        spans = []
        for positions, index, n_cells, n_pixels in zip(
            self.geometry.positions(self.size), cell, grid, self.input_size, strict=True
        ):
            # Pixels that were cut off lie in no cell.
            off = np.abs((positions + 0.5) * n_cells / n_pixels - (index + 0.5))
            inside = np.flatnonzero(off <= 0.5)
            first, last = (inside[0], inside[-1]) if len(inside) else [np.nanargmin(off)] * 2
            spans.append((int(first), int(last) + 1))
        (top, bottom), (left, right) = spans
        return Box(top, left, bottom, right)

    def in_image(self, box_of: Callable[[Placement], Box]) -> Box:
        """Return the box that a function gives of what met the network, in the image as it came."""
        return box_of(self)


class Sizes:
    """The sizes of many images by their ids; most of them have the same.

    Parameters
    ----------
    sizes : mapping of str to (int, int)
        Height and width of each image.

    Examples
    --------
    >>> sizes = Sizes({"a": (9, 9), "b": (9, 9), "c": (5, 7)})
    >>> sizes["b"], sizes["c"], Sizes.from_json(sizes.to_json())["c"]
    ((9, 9), (5, 7), (5, 7))
    """

    def __init__(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        ((self._most, _),) = Counter(sizes.values()).most_common(1)
        self._others = {id_: size for id_, size in sizes.items() if size != self._most}

    def __getitem__(self, id_: str) -> tuple[int, int]:
        return self._others.get(id_, self._most)

    def including(self, sizes: Mapping[str, tuple[int, int]]) -> Sizes:
        """Return them with those of more images.

        >>> Sizes({"a": (9, 9)}).including({"b": (5, 7)})["b"]
        (5, 7)
        """
        found = Sizes({"": self._most})
        others = {id_: size for id_, size in sizes.items() if size != self._most}
        found._others = {**self._others, **others}
        return found

    def to_json(self) -> dict[str, Any]:
        """Return them, JSON-compatible."""
        return {"most": list(self._most), "others": {k: list(v) for k, v in self._others.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Sizes:
        """Return what `to_json` was made of; raise a TypeError or ValueError for anything else."""
        found = cls({"": _size(value["most"])})
        found._others = {str(id_): _size(size) for id_, size in value["others"].items()}
        return found


def _size(value: Any) -> tuple[int, int]:
    height, width = (check_count("size", part) for part in value)
    return height, width
