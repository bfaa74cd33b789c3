"""Position windows: what lies within, what is refused, and who searches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from knnspect import DTypeError, FeaturePyramid, Gallery, Neighbors, ParameterError, ShapeError
from knnspect.backends import Capabilities, FaissBackend, RustBackend, get_backend
from knnspect.errors import KnnspectError
from knnspect.search import Search
from knnspect.search.window import fewest_cells, radii_of
from knnspect.testing import Oracle, assert_same_neighbors
from knnspect.testing.expectations import expect_identical

SHAPES = ((6, 8, 3), (3, 4, 5))
IDS = ["b", "a", "c"]


def pyramid(n: int, seed: int, shapes: tuple[tuple[int, int, int], ...] = SHAPES) -> FeaturePyramid:
    rng = np.random.default_rng(seed)
    return FeaturePyramid([rng.normal(size=(n, *shape)).astype("f4") for shape in shapes])


@pytest.fixture
def gallery() -> Gallery:
    gallery = Gallery()
    gallery.add(pyramid(3, 0), IDS)
    return gallery


def farthest(found: Neighbors) -> int:
    """How many rows or columns the farthest neighbour is away."""
    _, height, width, _ = found.sq_distances.shape
    places = np.moveaxis(np.indices((height, width)), 0, -1)[None, :, :, None]
    return int(np.abs(found.cells.astype(int) - places).max())


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 6])
def test_neighbours_lie_at_most_so_many_rows_and_columns_away(
    gallery: Gallery, radius: int
) -> None:
    query = pyramid(2, 1)
    k = min(3, 3 * (radius + 1))
    found = gallery.search(query, k, window=radius)
    assert farthest(found) == radius
    oracle = Oracle.of(query.levels, pyramid(3, 0).levels, IDS, "bilinear", window=radius)
    assert_same_neighbors(found, oracle)


@pytest.mark.parametrize("threads", [1, 2])
def test_images_of_more_cells_than_a_band_has_are_searched_alike(threads: int) -> None:
    shapes = ((264, 300, 3), (132, 150, 4))
    gallery = Gallery()
    gallery.add(pyramid(2, 2, shapes), ["a", "b"])
    query = pyramid(1, 3, shapes)
    found = gallery.search(query, 2, window=1, threads=threads)
    assert found.stats is not None
    assert "level 1" in found.stats.stages  # the matcher of windows, which takes bands
    exhaustive = RustBackend(matcher="exhaustive")
    expected = gallery.search(query, 2, window=1, threads=threads, backend=exhaustive)
    expect_identical("bands", found, expected)


def test_radii_of_levels_are_in_their_cells_and_all_must_hold(gallery: Gallery) -> None:
    search = gallery.prepare(pyramid(1, 1), window=(None, 0))
    assert search.window == (None, 0)
    assert search.window_bounds is not None
    rows, columns = search.window_bounds
    assert rows.tolist() == [[0, 2], [0, 2], [2, 4], [2, 4], [4, 6], [4, 6]]
    assert columns[3].tolist() == [2, 4]
    assert search.n_pairs(0) == 3 * 12 * 16
    both = gallery.prepare(pyramid(1, 1), window=[1, 0])
    assert both.window_bounds is not None
    assert both.window_bounds[0].tolist() == [[0, 2], [0, 2], [2, 4], [2, 4], [4, 6], [4, 6]]
    assert both.window_bounds[1][1].tolist() == [0, 2]


def test_a_window_that_reaches_from_end_to_end_is_none(gallery: Gallery) -> None:
    query = pyramid(1, 1)
    for window in (None, 7, 10**30, (None, 3), [None, None], (9, 9)):
        search = gallery.prepare(query, window=window)
        assert search.window is None, window
        assert search.window_bounds is None
        assert "window" not in repr(search)
    assert gallery.prepare(query, window=6).window == (6, None)
    assert repr(gallery.prepare(query, window=6)).endswith("window=(6, None))")


def test_only_what_lies_within_is_counted(gallery: Gallery) -> None:
    query = pyramid(2, 1)
    stats = gallery.search(query, window=1).stats
    assert stats is not None
    assert stats.pairs == 2 * 3 * (3 * 6 - 2) * (3 * 8 - 2)


@pytest.mark.parametrize(
    ("window", "error", "message"),
    [
        (-1, ParameterError, "window: expected at least 0, got -1"),
        (True, DTypeError, "window: expected an integer, got bool"),
        (1.0, DTypeError, "window: expected None, a whole number, or one for each level"),
        (math.nan, DTypeError, "got float"),
        ("1", DTypeError, "got str"),
        ([1, -2], ParameterError, r"window\[1\]: expected at least 0, got -2"),
        ([1, 1.5], DTypeError, r"window\[1\]: expected an integer, got float"),
        ([1], ParameterError, "one for each of 2 levels, got 1"),
        ([1, 1, 1], ParameterError, "one for each of 2 levels, got 3"),
        ([], ParameterError, "expected one number for each level, got none"),
    ],
)
def test_other_windows_are_refused(
    gallery: Gallery, window: Any, error: type[KnnspectError], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        gallery.search(pyramid(1, 1), window=window)
    assert str(raised.value.parameter).startswith("window")


def test_more_neighbours_than_lie_within_at_a_corner_are_refused(gallery: Gallery) -> None:
    query = pyramid(1, 1)
    assert gallery.search(query, 12, window=1).k == 12
    with pytest.raises(ParameterError, match=r"within the window, 12 \(3 images of 4, at a corn"):
        gallery.search(query, 13, window=1)
    with pytest.raises(ParameterError, match=r"within the window, 4 \(1 images of 4"):
        gallery.search(query, 5, images=["a"], window=1)


def test_places_on_other_grids_are_not_compared() -> None:
    gallery = Gallery()
    gallery.add(pyramid(1, 0, ((4, 4, 3),)))
    query = pyramid(1, 1, ((4, 5, 3),))
    assert gallery.search(query).k == 1
    with pytest.raises(ShapeError, match="the query has 4 x 5 cells, the gallery 4 x 4"):
        gallery.search(query, window=1)


def test_the_fewest_cells_lie_within_at_a_corner() -> None:
    shapes = [(6, 8, 3), (3, 4, 5)]
    assert [fewest_cells(shapes, window) for window in (None, 0, 2, (None, 1))] == [48, 1, 9, 16]
    assert radii_of(np.int64(2), 2) == (2, None)


class Blind:
    """A backend that was written before there were windows, and knows nothing of them."""

    name = "blind"
    capabilities = Capabilities("rows", ("cpu",), ("float32",))

    def search(self, search: Search) -> Neighbors:
        raise AssertionError("it would have compared everything")


def test_the_core_searches_for_backends_that_know_no_windows(gallery: Gallery) -> None:
    query = pyramid(1, 1)
    expected = gallery.search(query, 2, window=2)
    for backend in (Blind(), get_backend("sklearn")):
        found = gallery.search(query, 2, window=2, backend=backend)
        np.testing.assert_array_equal(found.sq_distances, expected.sq_distances)
        np.testing.assert_array_equal(found.cells, expected.cells)
        assert found.stats is not None
        assert expected.stats is not None
        assert found.stats.stages == {"core": expected.stats.pairs}


def test_a_search_with_a_window_may_be_given_to_a_backend_itself(gallery: Gallery) -> None:
    pytest.importorskip("torch")
    from knnspect.backends.torch import TorchBackend

    search = gallery.prepare(pyramid(1, 1), 2, window=2)
    expected = gallery.search(pyramid(1, 1), 2, window=2)
    for backend in (get_backend("sklearn"), TorchBackend("cpu")):
        found = backend.search(search)
        np.testing.assert_array_equal(found.cells, expected.cells)
    tensors = TorchBackend("cpu").search_tensors(search)
    np.testing.assert_array_equal(tensors.cells.numpy(), expected.cells)
    assert tensors.stats.stages["core"] == tensors.stats.pairs == search.n_pairs(0)


def test_an_approximate_index_is_not_asked_where_there_is_a_window(gallery: Gallery) -> None:
    pytest.importorskip("faiss")
    query = pyramid(1, 1)
    approximate = FaissBackend("cpu", index="IVF4,Flat", nprobe=1)
    found = gallery.search(query, window=1, backend=approximate)
    np.testing.assert_array_equal(found.cells, gallery.search(query, window=1).cells)


def test_a_coreset_has_no_windows(gallery: Gallery) -> None:
    coreset = gallery.coreset(0.5)
    with pytest.raises(ParameterError, match="window: a coreset may have no row near a place"):
        coreset.search(pyramid(1, 1), window=1)
    assert coreset.search(pyramid(1, 1), window=(None, None)).k == 1
    image, cell = coreset.image_ids[coreset.image_index[0]], coreset.cells[0]
    with pytest.raises(ParameterError, match="window: a coreset"):
        coreset.around(image, (int(cell[0]), int(cell[1])), 1, window=1)


def test_what_is_around_a_cell_lies_within_the_window_around_it(gallery: Gallery) -> None:
    row, nearest = gallery.around("a", (2, 3), 3, window=0)
    rows = {id_: gallery.pyramid([id_]).concatenated("bilinear")[0, 2, 3] for id_ in IDS}
    np.testing.assert_array_equal(row, rows["a"])
    others = sorted(IDS, key=lambda id_: float(np.square(rows[id_] - row).sum()))
    np.testing.assert_array_equal(nearest, np.stack([rows[id_] for id_ in others]))
