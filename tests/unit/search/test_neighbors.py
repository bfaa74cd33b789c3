"""What a search returns."""

from __future__ import annotations

import numpy as np
import pytest

from knnspect import FeaturePyramid, Gallery, Neighbors, ParameterError, SearchStats
from knnspect.backends import RustBackend


@pytest.fixture
def neighbors() -> Neighbors:
    shape = (3, 2, 4, 2)
    count = np.arange(np.prod(shape)).reshape(shape)
    return Neighbors(
        count.astype("f4"),
        (count % 3).astype("u4"),
        np.stack([count % 2, count % 4], axis=-1).astype("u4"),
        ("a", "bb", "ä"),
    )


def test_images_are_the_ids_themselves(neighbors: Neighbors) -> None:
    assert neighbors.images.shape == (3, 2, 4, 2)
    assert neighbors.images[0, 0].tolist() == [["a", "bb"], ["ä", "a"], ["bb", "ä"], ["a", "bb"]]
    assert type(neighbors.images[0, 0, 0, 0]) is str


def test_it_knows_its_sizes(neighbors: Neighbors) -> None:
    assert neighbors.k == 2
    assert len(neighbors) == 3
    assert repr(neighbors) == "Neighbors(n_images=3, cells=2x4, k=2)"


def test_a_slice_selects_query_images(neighbors: Neighbors) -> None:
    part = neighbors[1:]
    assert len(part) == 2
    assert part.image_ids == neighbors.image_ids
    np.testing.assert_array_equal(part.sq_distances, neighbors.sq_distances[1:])
    np.testing.assert_array_equal(part.image_index, neighbors.image_index[1:])
    np.testing.assert_array_equal(part.cells, neighbors.cells[1:])


def test_an_integer_keeps_the_axis(neighbors: Neighbors) -> None:
    for index, same in ((0, 0), (2, 2), (-1, 2)):
        part = neighbors[index]
        assert repr(part) == "Neighbors(n_images=1, cells=2x4, k=2)"
        np.testing.assert_array_equal(part.sq_distances[0], neighbors.sq_distances[same])
    with pytest.raises(IndexError, match="image 3 of the neighbours of 3 images"):
        _ = neighbors[3]


def test_it_cannot_be_changed(neighbors: Neighbors) -> None:
    with pytest.raises(AttributeError):
        neighbors.image_ids = ()  # type: ignore[misc]


def test_the_work_of_a_search_is_counted() -> None:
    rng = np.random.default_rng(0)
    levels = [rng.random((3, 8, 8, 4), "f4"), rng.random((3, 2, 2, 6), "f4")]
    gallery = Gallery()
    gallery.add(FeaturePyramid(levels))
    query = FeaturePyramid([level[:2] for level in levels])
    everything = gallery.search(query, backend=RustBackend(matcher="exhaustive")).stats
    assert everything == SearchStats(2 * 64 * 3 * 64, {"exhaustive": 2 * 64 * 3 * 64})
    assert everything.shares == {"exhaustive": 1.0}
    pruned = gallery.search(query, backend=RustBackend(matcher="pruned")).stats
    assert pruned is not None
    assert pruned.pairs == everything.pairs
    assert list(pruned.stages) == ["level 1", "level 0"]
    # The queries are in the gallery: next to nothing comes as near as they do to themselves.
    assert 0 < pruned.stages["level 0"] < pruned.stages["level 1"] <= pruned.pairs


def test_a_part_of_a_search_has_no_work_of_its_own(neighbors: Neighbors) -> None:
    assert Neighbors(*vars(neighbors).values())[0].stats is None


def test_an_unknown_matcher_is_named() -> None:
    gallery = Gallery()
    gallery.add(FeaturePyramid([np.zeros((1, 2, 2, 1), "f4")]))
    query = FeaturePyramid([np.zeros((1, 2, 2, 1), "f4")])
    with pytest.raises(ParameterError, match='"auto", "exhaustive" or "pruned", got "fast"'):
        gallery.search(query, backend=RustBackend(matcher="fast"))
