"""One level of a gallery as a gallery of its own."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from knnspect import DTypeError, FeaturePyramid, Gallery, ParameterError
from knnspect.errors import StoreError
from knnspect.search import Neighbors
from knnspect.testing.oracle import Oracle, assert_same_neighbors

IDS = ["d", "a", "c", "b"]
SHAPES = ((8, 12, 3), (4, 6, 5), (4, 3, 4))


def pyramid(n: int = 4, seed: int = 0) -> FeaturePyramid:
    rng = np.random.default_rng(seed)
    return FeaturePyramid([rng.normal(size=(n, *shape)).astype("f4") for shape in SHAPES])


def filled(dtype: str = "float32") -> Gallery:
    gallery = Gallery(dtype=dtype)
    gallery.add(pyramid(), IDS)
    return gallery


def level_of(pyramid: FeaturePyramid, index: int) -> FeaturePyramid:
    return FeaturePyramid([pyramid.levels[index]])


def same(one: Neighbors, other: Neighbors) -> bool:
    return one.image_ids == other.image_ids and all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("sq_distances", "image_index", "cells")
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_level_is_searched_as_a_gallery_of_that_level(dtype: str, index: int) -> None:
    gallery, query = filled(dtype=dtype), level_of(pyramid(2, 1), index)
    level, kept = gallery.level(index), level_of(gallery.pyramid(), index)
    assert (level.ids, level.shapes) == (gallery.ids, kept.shapes)
    assert (level.dtype, level.upsample) == (dtype, "bilinear")
    for images in (None, [["a", "d"]], [["b"], ["c", "a"]]):
        for window in (None, 1):
            oracle = Oracle.of(query.levels, kept.levels, level.ids, "bilinear", images, window)
            listed = images[0] if images is not None and len(images) == 1 else images
            found = level.search(query, 2, listed, window=window)
            assert_same_neighbors(found, oracle)


def test_levels_take_the_bytes_of_the_gallery_together() -> None:
    for dtype in ("float32", "float16", "int8"):
        gallery = filled(dtype=dtype)
        levels = [gallery.level(index) for index in range(3)]
        assert sum(level.nbytes for level in levels) == gallery.nbytes


def test_a_level_keeps_the_images_whatever_becomes_of_the_gallery(tmp_path: Path) -> None:
    query = level_of(pyramid(1, 1), 1)
    expected = filled().level(1).search(query)
    with Gallery.create(tmp_path / "normal.gallery") as gallery:
        gallery.add(pyramid(), IDS)
        level = gallery.level(1)
        gallery.remove(["a", "b"])
        gallery.compact()
        assert gallery.level(1).ids == ["c", "d"]
    assert level.path is None
    assert same(level.search(query), expected)
    level.save(tmp_path / "level.gallery")
    for again in (
        Gallery.open(tmp_path / "level.gallery"),
        pickle.loads(pickle.dumps(level)),
        filled().level(1).without([]),
    ):
        assert same(again.search(query), expected)


def test_a_level_of_a_damaged_image_is_not_searched(tmp_path: Path) -> None:
    folder = tmp_path / "normal.gallery"
    with Gallery.create(folder) as gallery:
        gallery.add(pyramid(), IDS)
    (segment,) = folder.glob("features-*")
    contents = bytearray(segment.read_bytes())
    contents[8] ^= 1  # of the finest level of the first image, "d"
    segment.write_bytes(contents)
    for index in range(3):
        level, query = Gallery.open(folder).level(index), level_of(pyramid(1, 1), index)
        with pytest.raises(StoreError, match='image "d" is damaged') as raised:
            level.search(query)
        assert raised.value.image == "d"
        assert level.search(query, images=["a"]).image_ids == ("a",)


def test_levels_that_are_not_there_are_refused() -> None:
    with pytest.raises(ParameterError, match="index: expected one of 3 levels, from 0, got 3"):
        filled().level(3)
    with pytest.raises(ParameterError, match="index"):
        filled().level(10**30)
    with pytest.raises(ParameterError, match="index: expected at least 0, got -1"):
        filled().level(-1)
    with pytest.raises(DTypeError, match="index"):
        filled().level("fine")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="the gallery is empty"):
        Gallery().level(0)
