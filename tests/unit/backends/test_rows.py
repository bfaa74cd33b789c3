"""What makes indexes of rows exact: candidates are rescored, and certified."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect import FeaturePyramid, Gallery, Neighbors, ParameterError
from knnspect.backends import Capabilities, RowsBackend, rows
from knnspect.backends.rows import Rows

#: What float32 rounds by.
ROUNDING = 2.0**-24


class Index(RowsBackend):
    """Compares in float64; what else it does to the answers is up to subclasses."""

    name = "index"

    def __init__(self, max_k: int | None = None, is_exact: bool = True) -> None:
        super().__init__()
        self.capabilities = Capabilities("rows", ("cpu",), ("float64",), max_k, is_exact)
        self.built: list[int] = []
        self.asked: list[tuple[int, int]] = []

    def build(self, rows: Rows, threads: int | None) -> Any:
        self.built.append(len(rows))
        return rows.astype(np.float64)

    def find(
        self, index: Any, queries: Rows, k: int, threads: int | None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        self.asked.append((len(queries), k))
        sq_distances = np.square(queries[:, None] - index).sum(axis=2)
        sq_distances = self.seen(sq_distances, queries, index)
        order = np.argsort(sq_distances, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(sq_distances, order, axis=1), order

    def seen(self, sq_distances: NDArray[Any], queries: Rows, index: Any) -> NDArray[Any]:
        return sq_distances


def same(found: Neighbors, expected: Neighbors) -> bool:
    assert found.image_ids == expected.image_ids
    return (
        np.array_equal(found.sq_distances, expected.sq_distances)
        and np.array_equal(found.image_index, expected.image_index)
        and np.array_equal(found.cells, expected.cells)
    )


def some(seed: int, n_images: int, side: int = 6) -> FeaturePyramid:
    rng = np.random.default_rng(seed)
    return FeaturePyramid([rng.normal(size=(n_images, side, side, 8)).astype("f4")])


def gallery_of(pyramid: FeaturePyramid) -> Gallery:
    gallery = Gallery()
    gallery.add(pyramid)
    return gallery


# ------------------------------------------------------------------------------- certification


class WrongByTheBound(Index):
    """The `nearest` rows seem farther, all others nearer, by nearly all that float32 may do."""

    def __init__(self, nearest: int) -> None:
        super().__init__()
        self.nearest = nearest

    def seen(self, sq_distances: NDArray[Any], queries: Rows, index: Any) -> NDArray[Any]:
        n_features = queries.shape[1]
        sizes = np.linalg.norm(queries, axis=1) + np.linalg.norm(index, axis=1).max()
        wrong = 0.99 * 4 * (n_features + 4) * ROUNDING * np.square(sizes)[:, None]
        ranks = sq_distances.argsort(axis=1).argsort(axis=1)
        seen: NDArray[Any] = np.where(
            ranks < self.nearest, sq_distances + wrong, sq_distances - wrong
        )
        return seen


def trap() -> tuple[Gallery, FeaturePyramid]:
    """Rows around one of four queries whose distances are apart by a fifth of the error bound."""
    rng = np.random.default_rng(5)
    directions = rng.normal(size=(32, 8))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    directions = np.concatenate([directions, -directions])  # their mean is the query
    bound = 4 * (8 + 4) * ROUNDING
    radii = np.sqrt(1 + 0.2 * bound * rng.permutation(64))
    normal = (directions * radii[:, None]).astype("f4").reshape(1, 8, 8, 8)
    queries = rng.normal(size=(1, 2, 2, 8)).astype("f4")
    queries[0, 0, 1] = 0  # the others are easy
    return gallery_of(FeaturePyramid([normal])), FeaturePyramid([queries])


@pytest.mark.parametrize("k", [1, 3, 6])
def test_an_index_may_be_wrong_by_the_error_bound(k: int) -> None:
    gallery, query = trap()
    backend = WrongByTheBound(k)
    found = gallery.search(query, k, backend=backend)
    assert same(found, gallery.search(query, k))
    first = k + rows.MORE
    assert backend.asked == [(4, first), (1, min(first * rows.TIMES, 64))]


@pytest.mark.parametrize("k", [1, 3])
def test_the_trap_catches_a_bound_that_is_too_small(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery, query = trap()
    monkeypatch.setattr(rows, "ROUNDING", ROUNDING / 4)
    found = gallery.search(query, k, backend=WrongByTheBound(k))
    assert not same(found, gallery.search(query, k))


class Drops(Index):
    """Gives nothing in the place of the nearest row, or of the farthest."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.last = last

    def find(
        self, index: Any, queries: Rows, k: int, threads: int | None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        sq_distances, places = super().find(index, queries, k, threads)
        at = k - 1 if self.last else 0
        sq_distances[:, at], places[:, at] = np.inf, -1
        order = np.argsort(sq_distances, axis=1, kind="stable")
        return tuple(np.take_along_axis(part, order, axis=1) for part in (sq_distances, places))  # type: ignore[return-value]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("n_images", [1, 4])
@pytest.mark.parametrize("k", [1, 5, 36])
def test_an_exact_index_that_gives_too_few_is_not_relied_on(
    last: bool, n_images: int, k: int
) -> None:
    gallery, query = gallery_of(some(0, n_images)), some(1, 1)
    found = gallery.search(query, k, backend=Drops(last))
    assert same(found, gallery.search(query, k))
    assert found.stats is not None
    assert found.stats.stages["core"] > 0


def test_ties_without_end_are_for_the_core() -> None:
    gallery = gallery_of(FeaturePyramid([np.zeros((8, 16, 16, 8), "f4")]))
    query = FeaturePyramid([np.ones((1, 2, 2, 8), "f4")])
    backend = Index()
    found = gallery.search(query, 3, backend=backend)
    assert same(found, gallery.search(query, 3))
    assert len(backend.asked) == 1
    assert found.stats is not None
    assert found.stats.stages["core"] == found.stats.pairs


@pytest.mark.parametrize(("k", "core"), [(1, False), (12, False), (13, True), (100, True)])
def test_more_neighbors_than_the_index_can_are_for_the_core(k: int, core: bool) -> None:
    gallery, query = gallery_of(some(0, 4)), some(1, 1)
    backend = Index(max_k=12)
    found = gallery.search(query, k, backend=backend)
    assert same(found, gallery.search(query, k))
    assert [asked for _, asked in backend.asked] == ([] if core else [min(k + rows.MORE, 12)])
    assert found.stats is not None
    if core:
        assert found.stats.stages == {"index": 0, "float64": 0, "core": found.stats.pairs}


def test_work_says_who_compared_what() -> None:
    gallery, query = gallery_of(some(0, 4)), some(1, 2)
    found = gallery.search(query, 1, backend=Index())
    assert found.stats is not None
    assert found.stats.pairs == 2 * 36 * 4 * 36
    candidates = 2 * 36 * (1 + rows.MORE)
    expected = {"index": found.stats.pairs, "float64": candidates, "core": 0}
    assert found.stats.stages == expected


# ------------------------------------------------------------------------------- what is asked


@pytest.mark.parametrize(
    ("pairs", "values", "parts"),
    [
        (2**28, 2**17, [36]),
        (13 * 144, 1, [18, 18]),
        (1, 1, [1] * 36),
        (1, 7 * 8, [8, 7, 7, 7, 7]),
        (1, 20 * 8, [36]),
    ],
)
def test_queries_are_asked_in_parts_that_are_neither_too_large_nor_too_small(
    pairs: int, values: int, parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "PAIRS_AT_ONCE", pairs)
    monkeypatch.setattr(rows, "VALUES_AT_ONCE", values)
    gallery, query = gallery_of(some(0, 4)), some(1, 1)
    backend = Index()
    assert same(gallery.search(query, 2, backend=backend), gallery.search(query, 2))
    assert [n for n, _ in backend.asked] == parts


def test_an_index_is_kept_until_the_images_are_others() -> None:
    gallery, query, backend = gallery_of(some(0, 3)), some(1, 1), Index()

    def built_by(images: list[str] | None) -> list[int]:
        backend.built.clear()
        found = gallery.search(query, 2, images, backend=backend)
        assert same(found, gallery.search(query, 2, images))
        return backend.built

    first, second, third = gallery.ids
    assert built_by(None) == [3 * 36]
    assert built_by(None) == built_by([third, first, second]) == []
    assert built_by([first]) == [36]
    assert built_by([second]) == [36]
    gallery.replace(some(7, 1), [second])
    assert built_by([second]) == [36]
    assert built_by([second]) == []
    gallery.remove([first])
    assert built_by(None) == [2 * 36]


def test_an_index_goes_with_its_gallery() -> None:
    class Weak(Index):
        def build(self, rows: Rows, threads: int | None) -> Any:
            index = super().build(rows, threads).view(Kept)
            self.kept = weakref.ref(index)
            return index

    class Kept(np.ndarray):  # plain arrays know no weak references
        pass

    gallery, backend = gallery_of(some(0, 2)), Weak()
    gallery.search(some(1, 1), backend=backend)
    gc.collect()
    assert backend.kept() is not None
    del gallery
    gc.collect()
    assert backend.kept() is None


# ----------------------------------------------------------------------------------- approximate


class EverySecond(Index):
    """Knows the rows of even numbers alone."""

    def __init__(self) -> None:
        super().__init__(is_exact=False)

    def find(
        self, index: Any, queries: Rows, k: int, threads: int | None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        sq_distances, places = super().find(index[::2], queries, k, threads)
        missing = ((0, 0), (0, k - places.shape[1]))
        return (
            np.pad(sq_distances, missing, constant_values=np.inf),
            np.pad(2 * places, missing, constant_values=-1),
        )


def test_recall_is_the_share_of_true_neighbors_that_are_found() -> None:
    gallery, query = gallery_of(some(0, 3)), some(1, 2)
    for k in (1, 5):
        true = gallery.search(query, k)
        share = (true.cells[..., 1] % 2 == 0).mean()  # rows and images have an even number of cells
        assert 0.3 < share < 0.7
        assert EverySecond().recall(gallery, query, k) == pytest.approx(share)
        assert Index().recall(gallery, query, k) == 1
    one = gallery.ids[:1]
    alone = EverySecond().recall(gallery, query, 2, images=one, threads=1)
    true = gallery.search(query, 2, images=one)
    assert alone == pytest.approx((true.cells[..., 1] % 2 == 0).mean())


def test_a_tie_with_a_true_neighbor_counts() -> None:
    gallery = gallery_of(FeaturePyramid([np.zeros((1, 4, 4, 8), "f4")]))
    query = FeaturePyramid([np.ones((1, 1, 1, 8), "f4")])
    assert EverySecond().recall(gallery, query, 4) == 1


def test_recall_needs_a_query() -> None:
    gallery = gallery_of(some(0, 1))
    with pytest.raises(ParameterError, match="query: expected at least one image"):
        EverySecond().recall(gallery, some(1, 1)[0:0])


def test_what_an_approximate_index_finds_has_exact_distances() -> None:
    normal, query = some(0, 2), some(1, 1)
    gallery = gallery_of(normal)
    found = EverySecond().search(gallery.prepare(query, 3))
    images = normal.levels[0][found.image_index, found.cells[..., 0], found.cells[..., 1]]
    difference = images.astype("f8") - query.levels[0][:, :, :, None]
    np.testing.assert_array_equal(
        found.sq_distances, np.square(difference).sum(axis=-1).astype("f4")
    )


def test_where_an_approximate_index_finds_too_few_the_core_searches() -> None:
    gallery, query = gallery_of(some(0, 1)), some(1, 1)
    assert same(gallery.search(query, 19, backend=EverySecond()), gallery.search(query, 19))
    few = gallery.search(query, 18, backend=EverySecond())
    assert not same(few, gallery.search(query, 18))
