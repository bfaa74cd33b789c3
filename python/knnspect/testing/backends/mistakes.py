"""What cannot be searched is refused, with an error that names it."""

from __future__ import annotations

import numpy as np

from knnspect.errors import ImageError, ParameterError, ShapeError
from knnspect.gallery import Gallery
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Backend
from knnspect.testing.cases import NESTED, Shapes, random_pyramid
from knnspect.testing.checks import Checks
from knnspect.testing.expectations import expect_equal, raises

__all__ = ["CHECKS"]

CHECKS: Checks[Backend] = Checks()


def _of_two() -> Gallery:
    gallery = Gallery()
    gallery.add(random_pyramid(0, 2, NESTED), ["a", "b"])
    return gallery


@CHECKS.add()
def an_empty_gallery_is_an_error(backend: Backend) -> None:
    with raises(ParameterError, "gallery is empty"):
        Gallery().search(random_pyramid(0, 1, NESTED), backend=backend)


@CHECKS.add()
def a_gallery_is_empty_when_all_images_are_removed(backend: Backend) -> None:
    gallery = _of_two()
    gallery.remove(["a", "b"])
    with raises(ParameterError, "gallery is empty"):
        gallery.search(random_pyramid(0, 1, NESTED), backend=backend)


@CHECKS.add()
def more_neighbors_than_cells_searched_are_an_error(backend: Backend) -> None:
    gallery, query = _of_two(), random_pyramid(1, 2, NESTED)
    expect_equal("k", gallery.search(query, 96, backend=backend).k, 96)
    for images in (None, ["a", "b"], ["a", "b", "a"]):
        with raises(ParameterError, r"k must be between 1 and .* 96 .*got 97"):
            gallery.search(query, 97, images, backend=backend)
    with raises(ParameterError, r"\b48\b.*got 49"):
        gallery.search(query, 49, [["a", "b"], ["b", "b"]], backend=backend)
    with raises(ParameterError, "got 1"):
        gallery.search(query, 1, [], backend=backend)


@CHECKS.add()
def an_unknown_image_is_an_error(backend: Backend) -> None:
    gallery = _of_two()
    for images in (["a", "nobody"], [["a"], ["nobody"]]):
        with raises(ParameterError, "nobody"):
            gallery.search(random_pyramid(1, 2, NESTED), images=images, backend=backend)


@CHECKS.add()
def lists_of_images_must_match_the_query(backend: Backend) -> None:
    with raises(ParameterError, "each of 3 query images, got 2"):
        query = random_pyramid(1, 3, NESTED)
        _of_two().search(query, images=[["a"], ["b"]], backend=backend)


@CHECKS.add(
    shapes=[
        NESTED[:2],
        NESTED[1:],
        ((6, 8, 5), (3, 4, 7), (1, 2, 4)),
        ((6, 8, 5), (3, 4, 7), (1, 1, 3)),
    ]
)
def another_pyramid_is_an_error(backend: Backend, shapes: Shapes) -> None:
    gallery, query = _of_two(), random_pyramid(1, 1, shapes)
    for part in (r"6x8x5 \+ 3x4x7 \+ 1x2x3", r" \+ ".join(f"{h}x{w}x{c}" for h, w, c in shapes)):
        with raises(ShapeError, part):
            gallery.search(query, backend=backend)


@CHECKS.add(value=[np.nan, np.inf, -np.inf], dtype=["float32", "float16"], level=[0, 2])
def features_that_are_not_finite_are_named(
    backend: Backend, value: float, dtype: str, level: int
) -> None:
    gallery = Gallery()
    gallery.add(random_pyramid(0, 1, NESTED), ["good"])
    levels = [part.astype(dtype) for part in random_pyramid(1, 3, NESTED).levels]
    levels[level][1].flat[-1] = value
    bad = FeaturePyramid(levels)
    with raises(ImageError, rf"query image 1, level {level}: .*finite"):
        gallery.search(bad, backend=backend)
    with raises(ImageError, rf'image "y", level {level}: .*finite'):
        gallery.add(bad, ["x", "y", "z"])
    expect_equal("ids", gallery.ids, ["good"])


@CHECKS.add()
def no_queries_have_no_neighbors(backend: Backend) -> None:
    found = _of_two().search(random_pyramid(1, 2, NESTED)[0:0], 3, backend=backend)
    expect_equal("shape of sq_distances", found.sq_distances.shape, (0, 6, 8, 3))
    expect_equal("shape of image_index", found.image_index.shape, (0, 6, 8, 3))
    expect_equal("shape of cells", found.cells.shape, (0, 6, 8, 3, 2))
