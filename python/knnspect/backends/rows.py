"""Backends that search rows of upsampled, concatenated features, made exact.

Indexes of rows compute in float32, so that what they give is nearly right: nearly equal distances
may come in the wrong order, and ties in any. Here their answers are *candidates*: a few more than k
are asked for, the Rust core rescores them by their exact distances, and an error bound says whether
anything that was left out could belong among them. Where it could, more are asked for, and in the
end the core searches itself. So the neighbours are the same, to the bit, whatever the index.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from knnspect.errors import ParameterError
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Backend, Capabilities, Neighbors, Search, SearchStats

__all__ = ["RowsBackend"]

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Squared distances, image ranks and cells, each of shape (n_cells, k).
_Neighbors = tuple[NDArray[Any], NDArray[np.uint32], NDArray[np.uint32]]

#: The relative rounding error of float32.
ROUNDING = 2.0**-24
#: How many more than k are asked for at first, and how many times more when these do not do.
MORE, TIMES = 8, 6
#: More than these are not asked for; the core is quicker.
MOST = 1024
#: Pairs that are compared between two looks at Ctrl-C, about a second's work.
PAIRS_AT_ONCE = 2**28
#: Unless the values of these queries are fewer: indexes then multiply no matrices any more (faiss
#: 1.15 from 128,000 on), and are ten times slower.
VALUES_AT_ONCE = 2**17


class RowsBackend(ABC):
    """Searches by an index of rows; subclasses bring the index.

    The rows of the images that a search is about are kept with their index until the gallery, or
    the set of images, changes: where every query image has its own images, as in SPADE's second
    stage, an index is built for each.
    """

    name: str
    capabilities: Capabilities

    def __init__(self) -> None:
        self._last: WeakKeyDictionary[object, _Indexed] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_last", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        RowsBackend.__init__(self)
        vars(self).update(state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @abstractmethod
    def build(self, rows: Rows, threads: int | None) -> Any:
        """Return an index of rows.

        Parameters
        ----------
        rows : ndarray of float32, shape (n_rows, n_features)
            Finite, of a mean near 0 and a largest absolute value between 1 and 2 (or all 0).
        threads : int, optional
            Threads that it may use; all that the process may use by default.
        """

    @abstractmethod
    def find(
        self, index: Any, queries: Rows, k: int, threads: int | None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the `k` rows of an index that are nearest to each query.

        Parameters
        ----------
        index
            What `build` returned; several threads may search it at the same time.
        queries : ndarray of float32, shape (n_queries, n_features)
            Finite.
        k : int
            At most the number of rows, and at most ``capabilities.max_k``.
        threads : int, optional
            As in `build`.

        Returns
        -------
        sq_distances : ndarray of float, shape (n_queries, k)
            Squared L2 distances, smallest first, as exact as float32 arithmetic makes them, also in
            the expanded form ``|x|^2 - 2 <x, y> + |y|^2``.
        rows : ndarray of integer, shape (n_queries, k)
            Numbers of rows, each once. -1 where an approximate index found none.
        """

    def search(self, search: Search) -> Neighbors:
        """Find the `k` nearest gallery cells of every cell of the query; see `Gallery.search`.

        Indexes of rows know no places: the Rust core answers searches with a window.
        """
        if search.window is not None:
            return search.left_to_core()
        query = search.query
        height, width, _ = query.shapes[0]
        shape = (query.n_images, height * width, search.k)
        found = _Found(np.empty(shape), np.zeros(shape, np.uint32), np.zeros(shape, np.uint32))
        counts = _Counts()
        for image in range(query.n_images):
            self._search_image(search, image, found, counts)
        stages = {self.name: counts.index, "float64": counts.rescored, "core": counts.core}
        stats = SearchStats(counts.pairs, stages)
        return search.found(found.sq_distances, found.ranks, found.cells, stats)

    def recall(
        self,
        gallery: _Searched,
        query: FeaturePyramid,
        k: int = 1,
        images: Sequence[str] | Sequence[Sequence[str]] | None = None,
        threads: int | None = None,
    ) -> float:
        """Return the share of the true neighbours that this backend finds.

        Parameters
        ----------
        gallery, query, k, images, threads
            As of `Gallery.search`.

        Returns
        -------
        float
            1 where it finds all of them, as exact backends do: the share of the neighbours found
            that are no farther than the k-th true one, which the Rust core finds. So one of
            several at the same distance is as good as another.

        Raises
        ------
        KnnspectError
            As `Gallery.search`; `ParameterError` also where the query has no images.
        """
        true = gallery.search(query, k, images, threads, "rust").sq_distances[..., -1:]
        found = gallery.search(query, k, images, threads, self).sq_distances
        if not found.size:
            raise ParameterError("query: expected at least one image, got none")
        return float((found <= true).mean())

    def _search_image(self, search: Search, image: int, found: _Found, counts: _Counts) -> None:
        indexed = self._indexed(search, image)
        n_cells, k = found.sq_distances.shape[1:]
        n_pairs = n_cells * indexed.n_rows
        counts.pairs += n_pairs
        left = np.arange(n_cells)
        rows = search.query[image].concatenated(search.upsample)[0]  # type: ignore[arg-type]
        centred = indexed.centering.query(rows)
        most = min(self.capabilities.max_k or indexed.n_rows, indexed.n_rows)
        ask = min(k + MORE, most)
        # Where it leaves that many, there are ties without end.
        while centred is not None and indexed.index is not None and k <= ask <= max(MOST, k + MORE):
            queries, errors = centred[0][left], centred[1][left]
            sq_last, nearest = self._rescored(indexed, search, image, left, queries, ask, counts)
            found.put(image, left, nearest)
            sq_farthest = nearest[0][:, -1]
            if not self.capabilities.is_exact:
                is_sure = np.isfinite(sq_farthest)  # there are k, whatever they are
            elif ask == indexed.n_rows:
                is_sure = ~np.isnan(sq_last)
            else:
                is_sure = indexed.centering.nothing_nearer(sq_farthest, sq_last, queries, errors)
            left = left[~is_sure]
            if left.size == 0:
                return
            if ask == most or left.size > n_cells // 2 or not self.capabilities.is_exact:
                break
            ask = min(ask * TIMES, most)
        neighbors = search.image_by_core(image)
        found.put(image, left, (neighbors[0][left], neighbors[1][left], neighbors[2][left]))
        counts.core += n_pairs

    def _rescored(
        self,
        indexed: _Indexed,
        search: Search,
        image: int,
        query_cells: Integers,
        queries: Rows,
        ask: int,
        counts: _Counts,
    ) -> tuple[Floats, _Neighbors]:
        """Return the last distance that the index gives to each query, and the exact k nearest.

        The last distance is NaN where the index gave fewer than it was asked for.
        """
        sq_distances, places = self._find(indexed, queries, ask, search.threads)
        is_there = places >= 0
        ranks, cells = np.divmod(places[is_there], indexed.n_cells)
        nearest = search.rescore(
            image,
            query_cells.astype(np.uint32),
            np.concatenate([[0], is_there.sum(axis=1).cumsum()]).astype(np.uint64),
            search.ranks(image)[ranks],
            cells.astype(np.uint32),
        )
        counts.index += len(queries) * indexed.n_rows
        counts.rescored += len(cells)
        return np.where(is_there.all(axis=1), sq_distances[:, -1], np.nan), nearest

    def _find(
        self, indexed: _Indexed, queries: Rows, k: int, threads: int | None
    ) -> tuple[Floats, Integers]:
        at_once = max(PAIRS_AT_ONCE // indexed.n_rows, -(-VALUES_AT_ONCE // queries.shape[1]))
        n_parts = max(1, len(queries) // at_once)  # of equal size, so that none is too small
        parts = [
            self.find(indexed.index, part, k, threads) for part in np.array_split(queries, n_parts)
        ]
        sq_distances = np.concatenate([part[0] for part in parts]).astype(np.float64)
        return sq_distances, np.concatenate([part[1] for part in parts]).astype(np.int64)

    def _indexed(self, search: Search, image: int) -> _Indexed:
        """Return the index of the images for a query image: the last one, or a new one."""
        key = search.serials(image).tobytes()
        with self._lock:
            last = self._last.get(search.source)
        if last is not None and last.key == key:
            return last
        with self._lock:
            self._last.pop(search.source, None)  # its memory is needed for the next
        del last
        rows = search.rows(image)
        n_images, n_cells, n_features = rows.shape
        rows = rows.reshape(n_images * n_cells, n_features)
        centering, is_finite = _Centering.of(rows)
        index = self.build(rows, search.threads) if is_finite else None
        indexed = _Indexed(key, n_cells, len(rows), centering, index)
        with self._lock:
            self._last[search.source] = indexed
        return indexed


class _Searched(Protocol):
    """A gallery, as far as `RowsBackend.recall` uses it."""

    def search(
        self,
        query: FeaturePyramid,
        k: int,
        images: Sequence[str] | Sequence[Sequence[str]] | None,
        threads: int | None,
        backend: str | Backend,
    ) -> Neighbors: ...


@dataclass
class _Counts:
    """Number of pairs, and of those compared by the index, in float64, and by the core."""

    pairs: int = 0
    index: int = 0
    rescored: int = 0
    core: int = 0


@dataclass(frozen=True)
class _Found:
    """Neighbours of all query images, each array of shape (n_images, n_cells, k)."""

    sq_distances: Floats
    ranks: NDArray[np.uint32]
    cells: NDArray[np.uint32]

    def put(self, image: int, query_cells: Integers, neighbors: _Neighbors) -> None:
        """Set the neighbours of some cells of an image."""
        self.sq_distances[image, query_cells] = neighbors[0]
        self.ranks[image, query_cells] = neighbors[1]
        self.cells[image, query_cells] = neighbors[2]


@dataclass(frozen=True)
class _Indexed:
    """An index of the rows of some images."""

    #: The serials of the images, in the order of their ids.
    key: bytes
    n_cells: int
    n_rows: int
    centering: _Centering
    #: None where the rows do not fit float32.
    index: Any


@dataclass(frozen=True)
class _Centering:
    """Where rows are compared: less their mean, times a power of two.

    A common offset then costs no precision, and nothing overflows; where a row or a query does, the
    core searches.
    """

    mean: Floats
    scale: float
    #: Bounds (l2) on the distance of rows to the mean, and on the error of rows of the index.
    radius: float
    error: float

    @classmethod
    def of(cls, rows: Rows) -> tuple[_Centering, bool]:
        """Return the centering of some rows, which are centred, and whether all are finite."""
        mean = rows.mean(axis=0, dtype=np.float64)
        sq_norm, sq_radius = 0.0, 0.0
        largest = float(max((rows.max(axis=0) - mean).max(), (mean - rows.min(axis=0)).max()))
        scale = float(2.0 ** -np.clip(np.floor(np.log2(largest)), -1000, 1000)) if largest else 1.0
        for start in range(0, len(rows), 256):  # what stays in the cache
            chunk = rows[start : start + 256]
            values = chunk.astype(np.float64) * scale
            # The rows themselves were rounded before their mean was subtracted.
            sq_norm = max(sq_norm, float(np.einsum("ij,ij->i", values, values).max()))
            values -= mean * scale
            sq_radius = max(sq_radius, float(np.einsum("ij,ij->i", values, values).max()))
            np.copyto(chunk, values, casting="same_kind")
        error = ROUNDING * 1.001 * (np.sqrt(sq_norm) + np.sqrt(sq_radius)) + 1e-30
        centering = cls(mean, scale, float(np.sqrt(sq_radius)) * 1.001, float(error))
        return centering, bool(np.isfinite([largest, sq_norm, sq_radius]).all())

    def query(self, rows: Rows) -> tuple[Rows, Floats] | None:
        """Return centred queries, shape (n, n_features), and a bound on the error (l2) of each.

        None where one does not fit float32.
        """
        rows = rows.reshape(-1, rows.shape[-1])
        values = rows.astype(np.float64) * self.scale
        centred = values - self.mean * self.scale
        norms = np.sqrt(np.square(values).sum(axis=1)) + np.sqrt(np.square(centred).sum(axis=1))
        if not np.isfinite(norms).all() or norms.max(initial=0) > 1e15:
            return None
        return centred.astype(np.float32), ROUNDING * 1.001 * norms + 1e-30

    def nothing_nearer(
        self, sq_distances: Floats, sq_last: Floats, queries: Rows, errors: Floats
    ) -> NDArray[np.bool_]:
        """Return whether all rows that an index left out are surely farther than those it gave.

        Parameters
        ----------
        sq_distances : ndarray of float64, shape (n,)
            The exact k-th squared distance of each query.
        sq_last : ndarray of float64, shape (n,)
            The largest squared distance that the index gave, centred; NaN: nothing is sure.
        queries : ndarray of float32, shape (n, n_features)
            The queries, centred.
        errors : ndarray of float64, shape (n,)
            A bound on the error (l2) of each query.
        """
        # A sum of n products is wrong by n roundings of sums of absolute values at most, in
        # whatever order; there are three sums in the expanded form, and their own two.
        sq_sizes = np.square(np.linalg.norm(queries.astype(np.float64), axis=1) + self.radius)
        sq_error = 4 * (queries.shape[1] + 4) * ROUNDING * sq_sizes + 1e-30
        farther = np.sqrt(np.maximum(sq_last - sq_error, 0)) - (errors + self.error)
        sure: NDArray[np.bool_] = np.sqrt(sq_distances) * self.scale * (1 + 1e-9) < farther
        return sure
