"""Which tiles of a large image go through the network, and which cells are taken from each."""

from __future__ import annotations

from itertools import pairwise, product
from typing import NamedTuple

from knnspect.errors import ParameterError

__all__ = ["Span", "Tile", "check_tiles", "tiles_of"]


class Span(NamedTuple):
    """The pixels of a tile along one axis.

    Parameters
    ----------
    start, stop : int
        The first pixel, and that behind the last one.
    own_start, own_stop : int
        Where those lie that are deeper in this tile than in its neighbours; in half pixels, as the
        middle between two pixels may be the border.
    """

    start: int
    stop: int
    own_start: int
    own_stop: int

    @property
    def pixels(self) -> slice:
        """The pixels of the network's input."""
        return slice(self.start, self.stop)

    def cells(self, stride: int) -> slice:
        """Return which cells of a level are taken from this tile.

        A cell is taken from the tile in which its middle lies deepest, and if it lies as deep in
        two, from the first one. A border of the image is no border of a tile.

        >>> one, two = tiles_of((16, 48), tile=32, overlap=16, multiple=16)
        >>> one.columns.cells(16), two.columns.cells(16), one.columns.cells(4)
        (slice(0, 2, None), slice(2, 3, None), slice(0, 6, None))
        """
        first, last = ((at + stride) // (2 * stride) for at in (self.own_start, self.own_stop))
        return slice(first, last)


class Tile(NamedTuple):
    """A part of the network's input that goes through the network by itself."""

    rows: Span
    columns: Span

    @property
    def share(self) -> int:
        """How much of the image is its own, in quarters of pixels."""
        rows, columns = self
        return (rows.own_stop - rows.own_start) * (columns.own_stop - columns.own_start)


def tiles_of(size: tuple[int, int], tile: int, overlap: int, multiple: int) -> list[Tile]:
    """Return the tiles of a network's input, row by row.

    There are as few as possible, spread evenly, so that neighbours overlap by at least `overlap`.
    Each begins at a multiple of `multiple`, the stride of the coarsest level, so that cells lie
    where those of the whole image do. An input that is no larger than a tile is one tile.

    Parameters
    ----------
    size : (int, int)
        Height and width of the input, multiples of `multiple`.
    tile, overlap : int
        The side of a tile, and by how much neighbours overlap: multiples of `multiple`, the second
        less than half the first.
    multiple : int
        The stride of the coarsest level.

    Examples
    --------
    >>> [(tile.rows.start, tile.columns.start) for tile in tiles_of((64, 160), 64, 16, 16)]
    [(0, 0), (0, 48), (0, 96)]
    """
    rows, columns = (_spans(side, tile, overlap, multiple) for side in size)
    return [Tile(*spans) for spans in product(rows, columns)]


def _spans(size: int, tile: int, overlap: int, multiple: int) -> list[Span]:
    n_steps = max(0, -((tile - size) // (tile - overlap)))
    starts = (
        [(size - tile) // multiple * step // n_steps * multiple for step in range(n_steps + 1)]
        if n_steps
        else [0]
    )
    stops = [min(start + tile, size) for start in starts]
    middles = [stop + start for stop, (_, start) in zip(stops, pairwise(starts), strict=False)]
    own = pairwise([0, *middles, 2 * size])
    return [
        Span(start, stop, *borders) for start, stop, borders in zip(starts, stops, own, strict=True)
    ]


def check_tiles(tile: int, overlap: int, multiple: int) -> None:
    """Raise a ParameterError unless tiles can have a size and an overlap.

    Parameters
    ----------
    tile, overlap, multiple : int
        As `tiles_of` takes them.

    Examples
    --------
    >>> check_tiles(512, 70, 16)
    Traceback (most recent call last):
    knnspect.errors.ParameterError: overlap: expected a multiple of 16, the stride of the coarsest \
level, got 70; the nearest are 64 and 80
    """
    for name, value in (("tile", tile), ("overlap", overlap)):
        if value % multiple:
            below = value - value % multiple
            nearest = [near for near in (below, below + multiple) if near or name == "overlap"]
            raise ParameterError(
                f"{name}: expected a multiple of {multiple}, the stride of the coarsest level, got "
                f"{value}; the nearest {'is' if len(nearest) == 1 else 'are'} "
                f"{' and '.join(map(str, nearest))}",
                parameter=name,
            )
    if 2 * overlap >= tile:
        raise ParameterError(
            f"overlap: expected less than half of the tile, {tile / 2:g} pixels, got {overlap}",
            parameter="overlap",
        )
