"""What searches shards in a process of a cluster."""

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

__all__ = ["Answer", "Part", "ShardHost", "in_pieces"]

#: Galleries that a process keeps open: those of so many, or states of one.
_N_OPEN = 8
#: Bytes of a piece of a query; Ray sends arguments of less than 100 kB with the call.
_PIECE = 90_000
#: Squared distances (float64), ranks and cells, each of shape (n_images * n_cells, k).
_Found = tuple[NDArray[np.float64], NDArray[np.uint32], NDArray[np.uint32]]


@dataclass(frozen=True)
class Part:
    """Query images of which shards are asked for the same number of neighbours.

    Parameters
    ----------
    images : list of int
        Places of the query images.
    k : int
        Neighbours of each cell.
    ids : list of list of str, optional
        For each of them the images of the shards that it is compared with; None: all.
    """

    images: list[int]
    k: int
    ids: list[list[str]] | None


@dataclass(frozen=True)
class Answer:
    """What shards have found for a `Part`.

    Parameters
    ----------
    images : list of int
        Places of the query images.
    found : tuple of ndarray
        Squared distances in float64, ranks among the images of the part, and cells, each of shape
        (n_images * n_cells, k), nearest first, ties in the order of places.
    stats : SearchStats
        What was compared.
    """

    images: list[int]
    found: _Found
    stats: SearchStats


class ShardHost(Worker):
    """Searches shards that it opens when it is first asked for them.

    Several shards are searched together: each profits from what is found in the others, and the
    query is prepared once. Nothing but what can be opened again is lost when the process dies.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[Shard, _core.Gallery] = OrderedDict()
        self._together: OrderedDict[tuple[Shard, ...], _Together] = OrderedDict()

    def search(
        self,
        shards: tuple[Shard, ...],
        asked: tuple[int, ...],
        parts: Sequence[Part],
        window: tuple[int | None, ...] | None,
        threads: int,
        *query: Any,
    ) -> list[Answer] | dict[str, StoreError] | KnnspectError:
        """Return the nearest of shards for each part.

        Parameters
        ----------
        shards : tuple of Shard
            Those that this process searches for a gallery.
        asked : tuple of int
            Which of them to search: the others need not be there.
        parts : sequence of Part
            What is looked for.
        window : tuple of (int or None), optional
            See `Search`.
        threads : int
            Number of threads.
        *query
            The levels, as one list of arrays, or `in_pieces`.

        Returns
        -------
        list of Answer, or dict of str to StoreError, or KnnspectError
            For each part an answer; or, for each shard that cannot be opened, by name, why; or what
            else went wrong. Errors are values here, as Ray would wrap them.
        """
        try:
            together = self._opened(shards)
            if errors := self._add(together, shards, asked):
                return errors
            levels = query[0] if len(query) == 1 else _from_pieces(*query)
            return [_answered(together, asked, levels, part, window, threads) for part in parts]
        except KnnspectError as error:
            if error.image is not None or error.path is not None:
                error.args = (f"node {self.about().node}: {error}",)
            return error

    def _opened(self, shards: tuple[Shard, ...]) -> _Together:
        """Return the images of shards together, as far as these were asked for."""
        together = self._together.setdefault(shards, _Together())
        self._together.move_to_end(shards)
        while len(self._together) > _N_OPEN:
            self._together.popitem(last=False)
        return together

    def _add(
        self, together: _Together, shards: tuple[Shard, ...], asked: tuple[int, ...]
    ) -> dict[str, StoreError]:
        """Open what is asked for and not open; return why some shards cannot be opened."""
        errors = {}
        for at in asked:
            if at in together.cores:
                continue
            shard = shards[at]
            try:
                if shard not in self._open:
                    self._open[shard] = _core.Gallery.open_at(shard.path, False, shard.state)
            except StoreError as error:
                errors[shard.name] = StoreError(
                    f"shard {shard.name} on node {self.about().node}: {error}", path=shard.path
                )
                continue
            self._open.move_to_end(shard)
            together.add(at, self._open[shard])
        while len(self._open) > max(_N_OPEN, len(shards)):
            self._open.popitem(last=False)
        return errors


class _Together:
    """The images of some shards as one gallery, which shares them."""

    def __init__(self) -> None:
        self.cores: dict[int, _core.Gallery] = {}
        self._gallery: _core.Gallery | None = None

    def add(self, at: int, core: _core.Gallery) -> None:
        """Add a shard."""
        if self._gallery is None:
            self._gallery = _core.Gallery(core.upsample, core.dtype)
        self._gallery.share(core, None, False)
        self.cores[at] = core

    def gallery(self, asked: Sequence[int]) -> tuple[_core.Gallery, list[str] | None]:
        """Return a gallery, and which of its images are those of some shards; None: all."""
        if self._gallery is None:
            raise StoreError("no shard is asked for")
        if len(asked) == len(self.cores):
            return self._gallery, None
        return self._gallery, [id_ for at in asked for id_ in self.cores[at].ids]


def in_pieces(levels: Sequence[NDArray[Any]]) -> tuple[Any, ...]:
    """Return levels as arguments of `ShardHost.search` that are small enough to go with the call.

    Ray sends what is larger by way of its store, which takes longer than some small pieces.
    """
    about = [(level.shape, level.dtype.str) for level in levels]
    whole = b"".join(level.tobytes() for level in levels)
    return (about, *(whole[start : start + _PIECE] for start in range(0, len(whole), _PIECE)))


def _from_pieces(about: Sequence[tuple[tuple[int, ...], str]], *pieces: bytes) -> list[Any]:
    whole, start, levels = b"".join(pieces), 0, []
    for shape, dtype in about:
        level = np.frombuffer(whole, dtype, int(np.prod(shape)), start)
        start += level.nbytes
        levels.append(level.reshape(shape))
    return levels


def _answered(
    together: _Together,
    asked: tuple[int, ...],
    levels: Sequence[NDArray[Any]],
    part: Part,
    window: tuple[int | None, ...] | None,
    threads: int,
) -> Answer:
    core, ids = together.gallery(asked)
    is_all = len(part.images) == len(levels[0])
    query = FeaturePyramid([level if is_all else level[part.images] for level in levels])
    images = ids if part.ids is None else part.ids
    search = Search.of(core, query, part.k, images, threads, window, core)
    return Answer(part.images, *search.exactly_by_core())
