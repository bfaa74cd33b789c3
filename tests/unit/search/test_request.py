"""A search as a value: what a backend is asked, and how it answers."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from knnspect import DTypeError, FeaturePyramid, Gallery, ImageError, Neighbors, ParameterError
from knnspect.backends import Capabilities, get_backend
from knnspect.search import Search

IDS = ["c", "a", "b"]


def pyramid(n: int, seed: int = 0) -> FeaturePyramid:
    rng = np.random.default_rng(seed)
    shapes = ((4, 6, 3), (2, 3, 5))
    return FeaturePyramid([rng.integers(-99, 99, (n, *shape)).astype("f4") for shape in shapes])


@pytest.fixture
def gallery() -> Gallery:
    gallery = Gallery()
    gallery.add(pyramid(3), IDS)
    return gallery


def same(one: Neighbors, other: Neighbors) -> bool:
    return (
        one.image_ids == other.image_ids
        and np.array_equal(one.sq_distances, other.sq_distances)
        and np.array_equal(one.images, other.images)
        and np.array_equal(one.cells, other.cells)
    )


class Plain:
    """All that a backend needs: the rows of all images, and the nearest of them."""

    name = "plain"
    capabilities = Capabilities("rows", ("cpu",), ("float64",))

    def search(self, search: Search) -> Neighbors:
        found = []
        for image in range(search.query.n_images):
            rows = search.rows(image)
            queries = search.query[image].concatenated(search.upsample)[0]  # type: ignore[arg-type]
            differences = queries.reshape(-1, 1, 8) - rows.reshape(-1, 8).astype("f8")
            sq_distances = np.square(differences).sum(axis=2)
            nearest = np.argsort(sq_distances, axis=1, kind="stable")[:, : search.k]
            places, cells = np.divmod(nearest, rows.shape[1])
            ranks = search.ranks(image)[places]
            found.append((np.take_along_axis(sq_distances, nearest, axis=1), ranks, cells))
        sq_distances, ranks, cells = (np.stack(part) for part in zip(*found, strict=True))
        return search.found(sq_distances, ranks, cells)


def test_a_backend_of_a_few_lines_answers_a_search(gallery: Gallery) -> None:
    query = pyramid(2, seed=1)
    for images in (None, ["a", "c"], [["b"], ["c", "a"]]):
        found = gallery.search(query, 3, images, backend=Plain())
        assert same(found, gallery.search(query, 3, images))
        assert found.sq_distances.dtype == np.float32


def test_a_search_is_of_the_images_as_they_were(gallery: Gallery) -> None:
    query = pyramid(1, seed=1)
    expected = gallery.search(query, 2)
    search = gallery.prepare(query, 2, threads=2)
    gallery.remove(["a"])
    gallery.replace(pyramid(1, seed=7), ["b"])
    for name in ("rust", "torch:cpu", "sklearn"):
        assert same(get_backend(name).search(search), expected)
    assert search.image_ids == ("a", "b", "c")
    assert repr(search) == (
        "Search(query=FeaturePyramid(n_images=1, levels=4x6x3 + 2x3x5), k=2, n_images=3)"
    )
    with pytest.raises(AttributeError):
        search.k = 3  # type: ignore[misc]


def test_searches_of_one_gallery_and_of_its_parts_have_one_source(gallery: Gallery) -> None:
    query = pyramid(1, seed=1)
    first, second = gallery.prepare(query), gallery.prepare(query, images=["a"])
    part = gallery.without(["b"]).without(["a"]).prepare(query)
    assert first.source is second.source is part.source
    assert (first.n_stored, second.n_stored, part.n_stored) == (3, 3, 3)
    assert (part.image_ids, len(part.ranks(0))) == (("c",), 1)
    assert part.serials(0).tolist() == first.serials(0)[2:].tolist()
    assert copy.copy(gallery).prepare(query).source is not first.source


def test_arguments_are_checked_before_a_backend_sees_them(gallery: Gallery) -> None:
    query = pyramid(1, seed=1)
    with pytest.raises(DTypeError, match="query: expected a FeaturePyramid, got ndarray"):
        gallery.prepare(query.levels[0])  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=r"k must be between 1 and .* 24 .*, got 25"):
        gallery.prepare(query, 25, ["a"])
    with pytest.raises(ParameterError, match="threads: expected at least 1, got 0"):
        gallery.prepare(query, threads=0)
    query.levels[1][0, 1, 2, 4] = np.inf
    with pytest.raises(ImageError, match="query image 0, level 1"):
        gallery.prepare(query)


def test_candidates_are_rescored_in_the_order_of_the_contract(gallery: Gallery) -> None:
    query = pyramid(2, seed=1)
    search = gallery.prepare(query, 2)
    everywhere = np.arange(24, dtype="u4")
    found = search.rescore(
        1,
        np.array([5, 23], "u4"),
        np.array([0, 72, 73], "u8"),
        np.append(np.repeat(np.arange(3, dtype="u4"), 24), np.uint32(1)),
        np.append(np.tile(everywhere, 3), np.uint32(9)),
    )
    expected = get_backend("rust").search(search)
    sq_distances, ranks, cells = found
    assert sq_distances[0].astype("f4").tolist() == expected.sq_distances[1, 0, 5].tolist()
    assert ranks[0].tolist() == expected.image_index[1, 0, 5].tolist()
    assert [divmod(cell, 6) for cell in cells[0].tolist()] == [
        tuple(cell) for cell in expected.cells[1, 0, 5].tolist()
    ]
    assert (ranks[1, 0], cells[1, 0]) == (1, 9)
    assert np.isinf(sq_distances[1, 1]), "one candidate, two neighbours"


def test_distances_beyond_float32_are_infinite(gallery: Gallery) -> None:
    search = gallery.prepare(pyramid(1, seed=1))
    places = np.zeros(24, int)
    found = search.found(np.full(24, 1e300), places, places)
    assert np.isinf(found.sq_distances).all()
    assert found.sq_distances.dtype == np.float32
