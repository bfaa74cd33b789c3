"""What searches a shard in a process of a cluster."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.cluster import Worker
from knnspect.errors import KnnspectError, StoreError
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Search, SearchStats
from knnspect.search.shards import Shard

__all__ = ["Answer", "Part", "ShardHost"]

#: Shards that a process keeps open: those of so many galleries, or states of one.
_N_OPEN = 8
#: Squared distances (float64), ranks and cells, each of shape (n_cells, k).
_Found = tuple[NDArray[np.float64], NDArray[np.uint32], NDArray[np.uint32]]


@dataclass(frozen=True)
class Part:
    """Query images of which a shard is asked for the same number of neighbours.

    Parameters
    ----------
    images : list of int
        Places of the query images.
    k : int
        Neighbours of each cell.
    ids : list of list of str, optional
        For each of them the images of the shard that it is compared with; None: all.
    """

    images: list[int]
    k: int
    ids: list[list[str]] | None


@dataclass(frozen=True)
class Answer:
    """What a shard has found for a `Part`.

    Parameters
    ----------
    images : list of int
        Places of the query images.
    found : list of (ndarray, ndarray, ndarray)
        For each of them squared distances in float64, ranks among the images of the part, and
        cells, each of shape (n_cells, k), nearest first, ties in the order of places.
    stats : SearchStats
        What was compared.
    """

    images: list[int]
    found: list[_Found]
    stats: SearchStats


class ShardHost(Worker):
    """Searches shards that it opens when it is first asked for them.

    Nothing but what can be opened again is lost when its process dies.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[Shard, _core.Gallery] = OrderedDict()

    def search(
        self,
        shard: Shard,
        levels: Sequence[NDArray[Any]],
        parts: Sequence[Part],
        window: tuple[int | None, ...] | None,
        threads: int,
    ) -> list[Answer] | KnnspectError:
        """Return the nearest of a shard for each part; or the error, as a value."""
        try:
            core = self._opened(shard)
            return [_answered(core, levels, part, window, threads) for part in parts]
        except KnnspectError as error:
            return error

    def _opened(self, shard: Shard) -> _core.Gallery:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        try:
            core = _core.Gallery.open_at(shard.path, False, shard.state)
        except StoreError as error:
            raise StoreError(
                f"shard {shard.name} on node {self.about().node}: {error}", path=shard.path
            ) from error
        self._open[shard] = core
        while len(self._open) > _N_OPEN:
            self._open.popitem(last=False)
        return core


def _answered(
    core: _core.Gallery,
    levels: Sequence[NDArray[Any]],
    part: Part,
    window: tuple[int | None, ...] | None,
    threads: int,
) -> Answer:
    is_all = len(part.images) == len(levels[0])
    query = FeaturePyramid([level if is_all else level[part.images] for level in levels])
    search = Search.of(core, query, part.k, part.ids, threads, window, core)
    found = search.by_core()
    width = search.shapes[0][1]
    n_cells = query.shapes[0][0] * query.shapes[0][1]
    query_cells = np.arange(n_cells, dtype=np.uint32)
    starts = np.arange(n_cells + 1, dtype=np.uint64) * np.uint64(part.k)
    lists = []
    for image in range(query.n_images):
        ranks = np.ascontiguousarray(found.image_index[image]).reshape(-1)
        rows, columns = found.cells[image].reshape(-1, 2).T
        cells = np.ascontiguousarray(rows * np.uint32(width) + columns)
        # In float64: distances that differ may be equal in float32.
        lists.append(search.rescore(image, query_cells, starts, ranks, cells))
    stats = found.stats or SearchStats(0, {})
    return Answer(part.images, lists, stats)
