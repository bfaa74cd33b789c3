"""A frame cut out of an image, judged on its own, and the way back into the image as it came.

``View``        what all of them are: `CutView` and `AlignedView`
``CutView``     a box, cut out as it is
``PlacedView``  how such a frame met the network: the placement of features that came from it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from knnspect.data.decoded import ImageArray
from knnspect.errors import ParameterError, ShapeError
from knnspect.views.placement import Box, Placement

__all__ = ["CutView", "PlacedView", "View"]


class View(Protocol):
    """A frame that shows a part of an image. Positions are (row, column), of middles of pixels."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width of the frame."""

    def to_frame(self, rows: Any, columns: Any) -> tuple[Any, Any]:
        """Return where positions in the image lie in the frame, which may be outside of it."""

    def to_original(self, rows: Any, columns: Any) -> tuple[Any, Any]:
        """Return where positions in the frame lie in the image."""

    def cut(self, image: ImageArray) -> ImageArray:
        """Return the frame, cut out of the image."""

    def to_image(self, map_: NDArray[Any], outside: float = 0.0) -> NDArray[np.float32]:
        """Return a map of the frame as one of the image, which is `outside` beside the frame."""


@dataclass(frozen=True)
class CutView:
    """A box of an image, cut out pixel by pixel.

    Parameters
    ----------
    size : (int, int)
        Height and width of the image.
    box : Box
        What is cut out of it.

    Raises
    ------
    ParameterError
        If the box is empty, or goes on beyond the image.

    Examples
    --------
    >>> view = CutView((6, 8), Box(1, 2, 4, 7))
    >>> view.frame, view.to_frame(1, 2), view.to_original(0, 0)
    ((3, 5), (0, 0), (1, 2))
    >>> float(view.to_image(np.ones((3, 5))).sum())
    15.0
    """

    size: tuple[int, int]
    box: Box

    def __post_init__(self) -> None:
        (height, width), box = self.size, self.box
        if not (0 <= box.top < box.bottom <= height and 0 <= box.left < box.right <= width):
            raise ParameterError(
                f"box: expected one within {height} x {width} pixels, top above bottom and left of "
                f"right, got {tuple(box)}",
                parameter="box",
            )

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width of the box."""
        return self.box.bottom - self.box.top, self.box.right - self.box.left

    def to_frame(self, rows: Any, columns: Any) -> tuple[Any, Any]:
        """Return where positions in the image lie in the frame, which may be outside of it."""
        return rows - self.box.top, columns - self.box.left

    def to_original(self, rows: Any, columns: Any) -> tuple[Any, Any]:
        """Return where positions in the frame lie in the image."""
        return rows + self.box.top, columns + self.box.left

    def cut(self, image: ImageArray) -> ImageArray:
        """Return the box of an image; raise a ShapeError if that has another size."""
        if image.shape[:2] != self.size:
            raise ShapeError(
                f"image: expected {self.size[0]} x {self.size[1]} pixels, got {image.shape[:2]}"
            )
        return image[self._pixels]

    def to_image(self, map_: NDArray[Any], outside: float = 0.0) -> NDArray[np.float32]:
        """Return a map of the frame as one of the image, which is `outside` beside the frame."""
        if map_.shape != self.frame:
            raise ShapeError(f"map: expected shape {self.frame}, got {map_.shape}")
        whole = np.full(self.size, outside, np.float32)
        whole[self._pixels] = map_
        return whole

    @property
    def _pixels(self) -> tuple[slice, slice]:
        return slice(self.box.top, self.box.bottom), slice(self.box.left, self.box.right)


@dataclass(frozen=True)
class PlacedView(Placement):
    """How the frame of a view met the network, as the placement of the image that it came from.

    Pixels are those of the image. A cell that is turned there is said as the box that holds it; a
    pixel beside the frame belongs to the nearest cell.

    Parameters
    ----------
    size, geometry
        As in `Placement`: of the image, and of the frame.
    inside : Placement
        That of the frame, which may be a `PlacedView` itself.
    view : View
        The way from the image to the frame.

    Examples
    --------
    >>> from knnspect.data import Geometry
    >>> inside = Placement((3, 5), Geometry((64, 64)))
    >>> placed = PlacedView.of(inside, CutView((6, 8), Box(1, 2, 4, 7)))
    >>> placed.size, placed.box_of((0, 0), (3, 5)), placed.cell_at(0, 7, (3, 5))
    ((6, 8), Box(top=1, left=2, bottom=2, right=3), (0, 4))
    """

    inside: Placement
    view: View

    @classmethod
    def of(cls, inside: Placement, view: View) -> PlacedView:
        """Return the placement of an image, by that of its frame."""
        return cls(view.size, inside.geometry, inside, view)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the network's input for the frame."""
        return self.inside.input_size

    def to_image(self, map_: NDArray[Any]) -> NDArray[np.float32]:
        """Return a map of the network's input as a map of the image, 0 beside the frame."""
        return self.view.to_image(self.inside.to_image(map_))

    def cell_at(self, row: int, column: int, grid: tuple[int, int]) -> tuple[int, int]:
        """Return the cell in which a pixel of the image lies, or the nearest."""
        at = self.view.to_frame(row, column)
        limits = zip(at, self.view.frame, strict=True)
        row, column = (min(max(round(float(each)), 0), n - 1) for each, n in limits)
        return self.inside.cell_at(row, column, grid)

    def middles(self, grid: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return where the middles of cells lie in the image, as two arrays of shape `grid`."""
        rows, columns = self.inside.middles(grid)
        if rows.ndim == 1:
            rows, columns = np.meshgrid(rows, columns, indexing="ij")
        return self.view.to_original(rows, columns)

    def cells_at(
        self, rows: NDArray[np.float64], columns: NDArray[np.float64], grid: tuple[int, int]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return in which cells positions in the image lie; -1 for what lies beside the frame."""
        return self.inside.cells_at(*self.view.to_frame(rows, columns), grid)

    def box_of(self, cell: tuple[int, int], grid: tuple[int, int]) -> Box:
        """Return the smallest box of the image that holds a cell; at least one pixel."""
        return self.in_image(lambda frame: frame.box_of(cell, grid))

    def in_image(self, box_of: Callable[[Placement], Box]) -> Box:
        """Return the box of the image that holds one of the frame, which a function gives."""
        box = self.inside.in_image(box_of)
        edges = np.array([box.top, box.bottom]) - 0.5, np.array([box.left, box.right]) - 0.5
        rows, columns = np.meshgrid(*edges, indexing="ij")
        spans = []
        for at, n in zip(self.view.to_original(rows, columns), self.size, strict=True):
            first = min(max(int(np.floor(at.min() + 0.5 + _ROUNDING)), 0), n - 1)
            end = min(max(int(np.ceil(at.max() + 0.5 - _ROUNDING)), first + 1), n)
            spans.append((first, end))
        (top, bottom), (left, right) = spans
        return Box(top, left, bottom, right)


#: Pixels by which corners may be off by rounding.
_ROUNDING = 1e-6
