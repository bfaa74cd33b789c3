"""All levels of a gallery searched each on its own, and the mean of the distances."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect import FeaturePyramid, Gallery, ImageError, ParameterError, ShapeError
from knnspect.backends import available_backends
from knnspect.gallery import LateFusion
from knnspect.search import Neighbors
from knnspect.testing.oracle import Oracle, upsample

IDS = ["d", "a", "c", "b"]
SHAPES = ((8, 12, 3), (4, 6, 5), (4, 3, 4))
#: The radius that each level of `SHAPES` has for a window.
WINDOWS: dict[Any, list[int | None]] = {
    None: [None, None, None],
    0: [0, 0, 0],
    3: [3, 2, 2],
    (None, 1, 0): [None, 1, 0],
}


def pyramid(n: int = 4, seed: int = 0, shapes: Any = SHAPES) -> FeaturePyramid:
    rng = np.random.default_rng(seed)
    return FeaturePyramid([rng.normal(size=(n, *shape)).astype("f4") for shape in shapes])


def filled(**given: str) -> Gallery:
    gallery = Gallery(**given)
    gallery.add(pyramid(), IDS)
    return gallery


def oracles(
    gallery: Gallery, query: FeaturePyramid, window: Any = None, images: Any = None
) -> list[Oracle]:
    """The oracle of each level alone, over the features as the gallery keeps them."""
    normal = gallery.pyramid()
    return [
        Oracle.of([q], [n], gallery.ids, "bilinear", images, radius)
        for q, n, radius in zip(query.levels, normal.levels, WINDOWS[window], strict=True)
    ]


def mean_of_levels(found: list[Oracle], k: int, mode: str) -> NDArray[np.float64]:
    """What late fusion is, in float64: (n_images, height, width, k)."""
    parts = []
    for oracle in found:
        nearest = np.sort(oracle.sq_distances, axis=-1)[..., :k]
        shaped = nearest.reshape(len(nearest), oracle.height, oracle.width, k)
        parts.append(upsample(shaped, 8, 12, mode))
    mean: NDArray[np.float64] = np.mean(parts, axis=0)
    return mean


def same(one: Neighbors, other: Neighbors) -> bool:
    return one.image_ids == other.image_ids and all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("sq_distances", "image_index", "cells")
    )


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("window", list(WINDOWS))
def test_distances_are_the_means_of_those_of_each_level(backend: str, window: Any) -> None:
    gallery, query = filled(), pyramid(2, 1)
    found = LateFusion(gallery).search(query, 3, backend=backend, window=window)
    expected = mean_of_levels(oracles(gallery, query, window), 3, "bilinear")
    np.testing.assert_allclose(found.sq_distances, expected, rtol=1e-6)
    assert found.sq_distances.dtype == np.float32


def test_they_are_another_thing_than_concatenated_levels() -> None:
    gallery, query = filled(), pyramid(2, 1)
    fused, whole = LateFusion(gallery).search(query), gallery.search(query)
    assert (3 * fused.sq_distances < 0.9 * whole.sq_distances).any()


@pytest.mark.parametrize("given", [{"upsample": "block"}, {"dtype": "int8"}, {"dtype": "float16"}])
def test_every_kind_of_gallery_is_searched(given: dict[str, str]) -> None:
    gallery, query = filled(**given), pyramid(1, 1)
    expected = mean_of_levels(oracles(gallery, query), 2, gallery.upsample)
    found = LateFusion(gallery).search(query, 2)
    np.testing.assert_allclose(found.sq_distances, expected, rtol=1e-6)


@pytest.mark.parametrize("images", [["a", "d"], [["b"], ["c", "a"]]])
def test_only_the_images_asked_for_are_searched(images: Any) -> None:
    gallery, query = filled(), pyramid(2, 1)
    found = LateFusion(gallery).search(query, 1, images)
    lists = images if isinstance(images[0], list) else [images] * 2
    expected = mean_of_levels(oracles(gallery, query, None, lists), 1, "bilinear")
    np.testing.assert_allclose(found.sq_distances, expected, rtol=1e-6)
    for index, chosen in enumerate(lists):
        assert set(found.images[index].ravel()) <= set(chosen)


@pytest.mark.parametrize("mode", ["bilinear", "block"])
def test_a_cell_shows_the_neighbours_of_the_level_that_adds_most(mode: str) -> None:
    normal, query = (
        FeaturePyramid(
            [factor * level for factor, level in zip((3, 1, 1), one.levels, strict=True)]
        )
        for one in (pyramid(), pyramid(2, 1))
    )
    gallery, k = Gallery(mode), 2
    names = sorted(gallery.add(normal, IDS))
    found = LateFusion(gallery).search(query, k)
    levels = oracles(gallery, query)
    parts = [mean_of_levels([oracle], k, mode).sum(axis=-1) for oracle in levels]
    shown = np.argmax(parts, axis=0)
    assert len(np.unique(shown)) == 3, "each level adds most somewhere"
    for image, row, column in np.ndindex(2, 8, 12):
        level = levels[shown[image, row, column]]
        ratio = (8 // level.height, 12 // level.width)
        own = (row // ratio[0]) * level.width + column // ratio[1]
        places = level.nearest(k)[image, own]
        for rank, place in enumerate(places):
            there, cell = divmod(int(place), level.height * level.width)
            down, across = divmod(cell, level.width)
            offset = (row % ratio[0], column % ratio[1])
            expected = (down * ratio[0] + offset[0], across * ratio[1] + offset[1])
            assert found.place(image, row, column, rank) == (names[there], expected)


def test_without_some_images_the_others_are_searched() -> None:
    query = pyramid(1, 1)
    left = LateFusion(filled()).without(["a", "c"])
    assert left.n_rows == 2 * 96
    assert same(left.search(query), LateFusion(filled()).search(query, images=["b", "d"]))
    assert LateFusion(filled()).without(IDS).n_rows == 0


def test_one_level_is_searched_as_the_gallery_is() -> None:
    gallery, query = Gallery(), pyramid(1, 1, SHAPES[:1])
    gallery.add(pyramid(2, 0, SHAPES[:1]))
    for window in (None, 2):
        found = LateFusion(gallery).search(query, 2, window=window)
        assert same(found, gallery.search(query, 2, window=window))


def test_the_pairs_of_all_levels_are_counted() -> None:
    stats = LateFusion(filled()).search(pyramid(1, 1)).stats
    assert stats is not None
    assert stats.pairs == sum(4 * (height * width) ** 2 for height, width, _ in SHAPES)


def test_it_is_pickled_with_its_gallery_once() -> None:
    gallery = filled()
    both = pickle.dumps((gallery, LateFusion(gallery)))
    assert len(both) < 1.2 * len(pickle.dumps(gallery))
    query = pyramid(1, 1)
    again = pickle.loads(both)[1]
    assert same(again.search(query), LateFusion(gallery).search(query))


def test_distances_beyond_float32_stay_numbers() -> None:
    gallery = Gallery()
    gallery.add(FeaturePyramid([np.zeros((1, 4, 4, 1), "f4"), np.zeros((1, 2, 2, 1), "f4")]))
    far = FeaturePyramid([np.zeros((1, 4, 4, 1), "f4"), np.full((1, 2, 2, 1), 3e38, "f4")])
    found = LateFusion(gallery).search(far)
    assert (found.sq_distances > 1e38).all()
    assert np.isfinite(found.sq_distances).all()


def test_what_cannot_be_searched_is_refused_by_name() -> None:
    fusion, query = LateFusion(filled()), pyramid(1, 1)
    with pytest.raises(ParameterError, match="level 2, searched on its own: k must be") as raised:
        fusion.search(query, 49)
    assert (raised.value.level, raised.value.parameter) == (2, "k")
    with pytest.raises(ParameterError, match="k must be"):
        fusion.search(query, 385)
    with pytest.raises(ParameterError, match="nobody"):
        fusion.search(query, images=["nobody"])
    with pytest.raises(ParameterError, match="one for each of 3 levels, got 2"):
        fusion.search(query, window=(1, 1))
    with pytest.raises(ParameterError, match="window"):
        fusion.search(query, window=-1)
    with pytest.raises(ShapeError):
        fusion.search(pyramid(1, 1, SHAPES[:2]))
    with pytest.raises(ShapeError):
        fusion.search(pyramid(1, 1, ((4, 6, 3), (2, 3, 5), (2, 3, 4))))
    nan = pyramid(1, 1)
    nan.levels[1][0, 1, 2, 0] = np.nan
    with pytest.raises(ImageError, match="level 1"):
        fusion.search(nan)
    with pytest.raises(ParameterError, match="the gallery is empty"):
        LateFusion(Gallery()).search(query)
