"""What galleries and coresets have in common: detectors search both alike."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect import FeaturePyramid, Gallery, Neighbors, ParameterError
from knnspect.backends import available_backends
from knnspect.search import Searchable

IDS = ["d", "a", "c", "b"]
Make = Callable[[Gallery], Searchable]


def pyramid(n: int = 4, seed: int = 0) -> FeaturePyramid:
    """Of integers, so that interpolated features are not rounded: rows have the same distances."""
    rng = np.random.default_rng(seed)
    shapes = ((4, 6, 3), (2, 3, 5))
    return FeaturePyramid([rng.integers(-99, 99, (n, *shape)).astype("f4") for shape in shapes])


def filled(ids: list[str] | None = None) -> Gallery:
    gallery = Gallery()
    for id_ in ids or IDS:
        gallery.add(pyramid()[IDS.index(id_)], [id_])
    return gallery


def itself(gallery: Gallery) -> Searchable:
    return gallery


def with_all_rows(gallery: Gallery) -> Searchable:
    return gallery.coreset(1.0)


every_kind = pytest.mark.parametrize("make", [itself, with_all_rows])


def same(one: Neighbors, other: Neighbors) -> bool:
    return (
        one.image_ids == other.image_ids
        and np.array_equal(one.sq_distances, other.sq_distances)
        and np.array_equal(one.image_index, other.image_index)
        and np.array_equal(one.cells, other.cells)
    )


@every_kind
def test_it_knows_its_sizes(make: Make) -> None:
    searchable = make(filled())
    assert searchable.image_ids == ("a", "b", "c", "d")
    assert searchable.shapes == [(4, 6, 3), (2, 3, 5)]
    assert (searchable.n_images, searchable.n_rows, searchable.upsample) == (4, 96, "bilinear")
    assert searchable.nbytes > 0


@every_kind
def test_what_is_left_without_some_images_finds_what_a_gallery_of_the_others_finds(
    make: Make,
) -> None:
    searchable, query = make(filled()), pyramid(2, seed=1)
    left = searchable.without(["d", "b"])
    assert (left.image_ids, left.n_images, left.n_rows) == (("a", "c"), 2, 48)
    assert same(left.search(query, 3, threads=2), filled(["a", "c"]).search(query, 3))
    assert searchable.n_rows == 96
    assert same(searchable.search(query), filled().search(query))
    assert left.without([]).image_ids == left.image_ids


@every_kind
def test_nothing_is_left_without_all_images(make: Make) -> None:
    searchable = make(filled(["a", "b"]))
    nothing = searchable.without(["a", "b", "a"])
    assert (nothing.image_ids, nothing.n_images, nothing.n_rows) == ((), 0, 0)
    with pytest.raises(ParameterError):
        nothing.search(pyramid(1))


@every_kind
def test_images_that_are_not_there_cannot_be_left_out(make: Make) -> None:
    with pytest.raises(ParameterError, match="nobody"):
        make(filled()).without(["a", "nobody"])


def test_a_gallery_without_images_keeps_the_others_whatever_becomes_of_it(tmp_path: Path) -> None:
    query = pyramid(1, seed=1)
    with Gallery.create(tmp_path / "normal.gallery") as gallery:
        gallery.add(pyramid(), IDS)
        left = gallery.without(["a"])
        gallery.remove(["b", "c"])
        gallery.add(pyramid(1, seed=5), ["e"])
        gallery.compact()
    assert left.ids == ["b", "c", "d"]
    assert left.path is None
    expected = filled(["b", "c", "d"])
    assert same(left.search(query), expected.search(query))
    again = pickle.loads(pickle.dumps(left))
    assert same(again.search(query), expected.search(query))
    assert repr(again) == repr(left) == repr(expected).replace("Gallery", "ReadOnlyGallery")


def nearest_of(rows: NDArray[np.float32], row: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    sq_distances = np.square(rows.astype("f8") - row.astype("f8")).sum(axis=1)
    nearest: NDArray[np.float32] = rows[np.argsort(sq_distances, kind="stable")[:n]]
    return nearest


@every_kind
def test_a_row_is_found_by_its_place_with_the_rows_around_it(make: Make) -> None:
    gallery = filled()
    rows = gallery.pyramid().concatenated()
    for image, cell in ((0, (0, 0)), (2, (3, 1)), (3, (0, 5))):
        row, nearest = make(gallery).around(gallery.ids[image], cell, 7, 2, "rust")
        np.testing.assert_array_equal(row, rows[image][cell])
        np.testing.assert_array_equal(nearest, nearest_of(rows.reshape(96, 8), row, 7))
        np.testing.assert_array_equal(nearest[0], row)


@every_kind
def test_a_place_without_a_row_is_named(make: Make) -> None:
    searchable = make(filled())
    with pytest.raises(ParameterError, match="nobody"):
        searchable.around("nobody", (0, 0), 1)
    for cell in ((4, 0), (0, 6), (-1, 0)):
        with pytest.raises(ParameterError, match=rf"cell.*\({cell[0]}, {cell[1]}\)"):
            searchable.around("a", cell, 1)
    with pytest.raises(ParameterError, match="got 97"):
        searchable.around("a", (0, 0), 97)


@every_kind
@pytest.mark.parametrize("backend", available_backends())
def test_places_are_of_one_type(make: Make, backend: str) -> None:
    found = make(filled()).search(pyramid(1, seed=1), 2, backend=backend)
    assert found.image_index.dtype == np.uint32
    assert found.cells.dtype == np.uint32


def test_the_place_of_a_neighbour_is_an_id_and_a_cell() -> None:
    found = filled().search(pyramid(2, seed=1), 3)
    id_, cell = found.place(1, 3, 2, 2)
    assert (id_, cell) == (found.images[1, 3, 2, 2], tuple(found.cells[1, 3, 2, 2]))
    assert [type(part) for part in (id_, *cell)] == [str, int, int]
    assert found.place(0, 0, 0) == found.place(0, 0, 0, 0)
