"""The nearest row that did not come from some images is that of a coreset without them."""

from __future__ import annotations

import numpy as np
import pytest

from knnspect import FeaturePyramid, Gallery
from knnspect.backends import RustBackend
from knnspect.backends.sklearn import SklearnBackend
from knnspect.errors import ParameterError
from knnspect.gallery import Coreset
from knnspect.gallery.leaving_out import nearest_without

IDS = ["a", "b", "c", "d", "e"]


def gallery(seed: int, apart: float = 0.0) -> Gallery:
    rng = np.random.default_rng(seed)
    levels = [
        np.round(2 * rng.normal(size=(len(IDS), side, side, n))).astype("f4") / 2  # with ties
        for side, n in ((8, 3), (4, 5))
    ]
    for level in levels:
        level[0] += apart
    found = Gallery()
    found.add(FeaturePyramid(levels), ids=IDS)
    return found


def check(coreset: Coreset, query: FeaturePyramid, ids: list[str]) -> None:
    expected = coreset.without(ids).search(query)
    for backend in ("rust", RustBackend(matcher="pruned"), SklearnBackend()):
        (found,) = nearest_without(coreset, query, [ids], backend=backend, threads=2)
        assert found is not None
        np.testing.assert_array_equal(found.sq_distances, expected.sq_distances)
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.cells, expected.cells)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_it_is_the_same_to_the_bit(seed: int, share: float) -> None:
    stored = gallery(seed)
    coreset = stored.coreset(share, seed=seed)
    for ids in (["a"], ["c"], ["b", "e"], ["a", "b", "c", "d"]):
        check(coreset, stored.pyramid([ids[0]]), ids)


def test_an_image_apart_finds_rows_although_all_near_ones_are_its_own() -> None:
    stored = gallery(0, apart=1000.0)
    coreset = stored.coreset(1.0)
    query = stored.pyramid(["a"])
    nearest = coreset.search(query, 32)
    assert (nearest.images == "a").all()
    check(coreset, query, ["a"])


def test_where_no_row_is_left_there_is_none() -> None:
    stored = gallery(0)
    query = stored.pyramid(["a"])
    assert nearest_without(stored.coreset(0.5), query, [IDS]) == [None]
    one = stored.coreset(1)
    (owner,) = {one.image_ids[place] for place in one.image_index}
    assert nearest_without(one, query, [[owner]]) == [None]


@pytest.mark.parametrize("backend", ["rust", "sklearn"])
def test_each_image_of_several_leaves_out_its_own(backend: str) -> None:
    stored = gallery(1)
    coreset, query = stored.coreset(0.5), stored.pyramid(["a", "b", "c", "d"])
    ids = [["a"], IDS, [], ["d", "b"]]
    each = nearest_without(coreset, query, ids, backend=backend)
    assert each[1] is None
    for place in (0, 2, 3):
        (alone,) = nearest_without(coreset, query[place], [ids[place]])
        found = each[place]
        assert found is not None
        assert alone is not None
        np.testing.assert_array_equal(found.sq_distances, alone.sq_distances)
        np.testing.assert_array_equal(found.images, alone.images)
        np.testing.assert_array_equal(found.cells, alone.cells)


def test_hidden_rows_are_never_compared() -> None:
    rng = np.random.default_rng(0)
    bank = Gallery()
    bank.add(FeaturePyramid([rng.normal(size=(1, 1, 6000, 64)).astype("f4")]), ids=["rows"])
    query = FeaturePyramid([rng.normal(size=(1, 20, 20, 64)).astype("f4")])
    all_rows = bank.prepare(query).by_core(matcher="exhaustive")
    few = bank.prepare(query).by_core(matcher="exhaustive", hidden=[[(0, 2500), (3000, 6000)]])
    assert all_rows.stats is not None
    assert few.stats is not None
    assert (all_rows.stats.pairs, few.stats.pairs) == (400 * 6000, 400 * 500)
    at = few.cells[..., 1]
    assert ((at >= 2500) & (at < 3000)).all()


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        ([], "hidden: expected one list for each of 1 query images, got 0"),
        ([[(0, 17)]], "hidden: expected runs of cells below 16, in order and apart, got 0..17"),
        ([[(4, 6), (5, 8)]], "hidden: expected runs of cells below 16"),
        ([[(0, 16)]], "k must be between 1 and the number of gallery cells searched, 0"),
    ],
)
def test_cells_that_cannot_be_hidden_are_an_error(
    hidden: list[list[tuple[int, int]]], message: str
) -> None:
    bank = Gallery()
    rows = FeaturePyramid([np.eye(16, dtype="f4").reshape(1, 1, 16, 16)])
    bank.add(rows, ids=["rows"])
    with pytest.raises(ParameterError, match=message):
        bank.prepare(rows).by_core(hidden=hidden)
