"""The rows of a shard, of which coresets take some."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.cluster.crew import CrewMember
from knnspect.errors import StoreError
from knnspect.search.shards import Shard

__all__ = ["ShardPicker"]

_Rows = NDArray[np.float32]
_Numbers = NDArray[np.uint64]


class ShardPicker(CrewMember):
    """Keeps how far the rows of a shard are from the picks of all shards.

    Rows have the numbers that they have among those of all shards: image by image, in the order of
    the ids, and cell by cell.

    Parameters
    ----------
    shard : Shard
        The folder, in the state in which it counts.
    ranks : ndarray of uint32, shape (n_images,)
        The place of each of its images among those of all shards.
    kept : ndarray of bool, shape (n_images, height, width), or None
        Which cells may be picked; the others are as if they were not there.
    projection : ndarray of float32, shape (n_features, n), or None
        What rows are multiplied by before they are compared.
    """

    def __init__(
        self,
        shard: Shard,
        ranks: NDArray[np.uint32],
        kept: NDArray[np.bool_] | None,
        projection: NDArray[np.float32] | None,
    ) -> None:
        self._shard, self._ranks = shard, ranks
        self._kept = None if kept is None else np.ascontiguousarray(kept).reshape(-1)
        self._projection = projection
        self._threads: int | None = None
        self._core: Any = None
        self._rows: Any = None
        self._n_picks = 0

    def open(self, threads: int | None) -> None:
        """Open the shard.

        Raises
        ------
        StoreError
            If it cannot be opened, or is damaged; the message names the shard and the node.
        """
        self._threads = threads
        shard = self._shard
        try:
            core = _core.Gallery.open_at(shard.path, False, shard.state)
            self._rows = _core.ShardRows(core, self._ranks, self._kept, self._projection, threads)
        except StoreError as error:
            raise StoreError(
                f"shard {shard.name} on node {self.about().node}: {error}",
                path=shard.path,
                image=error.image,
            ) from error
        self._core = core

    def values(self, numbers: _Numbers, projected: bool) -> _Rows:
        """Return some rows, as they are compared, or as they are."""
        rows: _Rows = self._rows.values(numbers, projected)
        return rows

    def begin(self, picks: _Rows, most: int) -> _Rows:
        """Begin after some picks; return some rows, evenly spaced, as they are compared.

        Raises
        ------
        ImageError
            If a projected row is not finite.
        MemoryError
            If there is no room for 12 bytes for each row.
        """
        self._rows.begin(picks)
        self._n_picks = len(picks)
        sample: _Rows = self._rows.sample_of_values(most)
        return sample

    def advance(
        self,
        n_before: int,
        picks: _Rows,
        shown: tuple[_Numbers, NDArray[np.float64], NDArray[np.uint32]],
        step: int,
    ) -> NDArray[np.float64]:
        """Learn of the picks after some; return how far every so many rows are, as far as is known.

        `shown` says of some rows how far they are, and how many picks they have seen.
        """
        self._rows.advance(picks[self._n_picks - n_before :], *shown)
        self._n_picks = n_before + len(picks)
        sample: NDArray[np.float64] = self._rows.sample(step)
        return sample

    def front(self, reach: float, most: int) -> tuple[Any, ...]:
        """Bring rows up to date that are so far; see `_core.ShardRows.front`."""
        front: tuple[Any, ...] = self._rows.front(reach, most)
        return front

    def coreset(
        self, count: int, place: int | None, number: int | None
    ) -> tuple[_Numbers, _Rows, float]:
        """Pick rows of the shard by itself; return their numbers, the rows, and the squared radius.

        The first is that of a place among those that may be picked, or that of a number.
        """
        height, width, _ = self._core.shapes[0]
        n_cells = height * width
        if number is not None:
            rank, cell = divmod(number, n_cells)
            first = (int(np.searchsorted(self._ranks, rank)), cell)
        else:
            may_be = place if self._kept is None else np.flatnonzero(self._kept)[place]
            first = divmod(int(may_be or 0), n_cells)
        how = (self._kept, self._projection, self._threads, None, None)
        picks = _core.pick_rows(self._core, count, first, *how)
        numbers = self._ranks[picks.ranks].astype(np.uint64) * np.uint64(n_cells) + picks.cells
        return numbers, picks.rows, picks.sq_radius
