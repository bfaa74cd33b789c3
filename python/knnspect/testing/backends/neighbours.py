"""The true neighbours are found: at every scale, with ties in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from knnspect.gallery import Gallery
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Backend
from knnspect.testing.cases import NESTED, Levels, Shapes, random_pyramid, shared_oracle
from knnspect.testing.checks import Checks
from knnspect.testing.expectations import expect, expect_equal
from knnspect.testing.oracle import Oracle, assert_same_neighbors

if TYPE_CHECKING:
    from hypothesis import strategies as st

__all__ = ["CHECKS"]

CHECKS: Checks[Backend] = Checks()


@CHECKS.add_drawn(share=1)
def finds_the_true_neighbors(backend: Backend, data: st.DataObject) -> None:
    from knnspect.testing.drawing import cases, ks

    case = data.draw(cases())
    k = data.draw(ks(case), label="k")
    found = case.gallery().search(case.query, k, backend=backend)
    assert_same_neighbors(found, case.oracle(), exact=case.is_without_rounding)


@CHECKS.add_drawn(share=1 / 4)
def searches_only_the_images_asked_for(backend: Backend, data: st.DataObject) -> None:
    from hypothesis import strategies as st

    from knnspect.testing.drawing import cases

    case = data.draw(cases())
    lists = st.lists(st.sampled_from(case.ids), min_size=1, max_size=6)  # ids may come twice
    gallery = case.gallery()
    for_all = data.draw(lists, label="images for all")
    found = gallery.search(case.query, images=for_all, backend=backend)
    assert_same_neighbors(found, case.oracle([for_all]), exact=case.is_without_rounding)

    n = case.query.n_images
    for_each = data.draw(st.lists(lists, min_size=n, max_size=n), label="images for each")
    k = min(len(set(images)) for images in for_each) * case.n_cells
    found = gallery.search(case.query, k, images=for_each, backend=backend)
    assert_same_neighbors(found, case.oracle(for_each), exact=case.is_without_rounding)


@CHECKS.add(ratio=[2, 3, 4, 5, 7], dtype=["float32", "float16", "int8"])
def a_constant_region_is_one_tie(backend: Backend, ratio: int, dtype: str) -> None:
    # Also where the weights of bilinear interpolation are not exact in float64.
    shapes = [(2 * ratio, 2 * ratio, 3), (2, 2, 4)]
    given = "float32" if dtype == "int8" else dtype
    levels = [np.full((1, *shape), 0.1, given) for shape in shapes]
    gallery = Gallery(dtype=dtype)
    gallery.add(FeaturePyramid([np.repeat(level, 3, axis=0) for level in levels]), ["b", "a", "c"])
    found = gallery.search(FeaturePyramid(levels), 4, backend=backend)
    np.testing.assert_array_equal(found.sq_distances, 0, "distances of equal cells")
    np.testing.assert_array_equal(found.images, "a", "the lowest of images that are the same")
    cells = np.broadcast_to([[0, 0], [0, 1], [0, 2], [0, 3]], found.cells.shape)
    np.testing.assert_array_equal(found.cells, cells, "the first of cells that are the same")


@CHECKS.add(ratio=[2, 3, 5, 6])
def repeated_content_is_a_tie(backend: Backend, ratio: int) -> None:
    # Coarse columns 0 1 0 1 0 1 0 1: far from the edges each place comes again two columns later.
    coarse = np.tile(np.random.default_rng(0).normal(size=(1, 1, 2, 3)), (1, 1, 4, 1)).astype("f4")
    fine = np.zeros((1, 1, 8 * ratio, 1), "f4")
    gallery = Gallery()
    gallery.add(FeaturePyramid([fine, coarse]), ["a"])
    found = gallery.search(FeaturePyramid([fine, coarse]), backend=backend)
    first, last = 2 * ratio + (ratio - 1) // 2 + 1, 6 * ratio
    for column in range(first, last):
        # The first of its kind, which lies between the centres of coarse columns 0 and 2.
        got = int(found.cells[0, 0, column, 0, 1])
        expect(got < first, f"column {column}: expected one before {first}, got column {got}")
        expect_equal(f"distance of column {column}", found.sq_distances[0, 0, column, 0], 0)
    assert_same_neighbors(found, Oracle.of([fine, coarse], [fine, coarse], ["a"], "bilinear"))


@CHECKS.add()
def ties_go_to_the_lowest_image_row_and_column(backend: Backend) -> None:
    gallery = Gallery()
    gallery.add(FeaturePyramid([np.zeros((3, 3, 2, 1), "f4")]), ["c", "B", "a"])
    found = gallery.search(FeaturePyramid([np.ones((1, 3, 2, 1), "f4")]), 8, backend=backend)
    images = np.broadcast_to(["B"] * 6 + ["a"] * 2, found.images.shape)
    np.testing.assert_array_equal(found.images, images)
    order = [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1], [0, 0], [0, 1]]
    np.testing.assert_array_equal(found.cells, np.broadcast_to(order, found.cells.shape))
    np.testing.assert_array_equal(found.sq_distances, 1)


@CHECKS.add()
def negative_zeros_are_zeros(backend: Backend) -> None:
    gallery = Gallery()
    values = np.array([0.0, -0.0, 0.0], "f4").reshape(3, 1, 1, 1)
    gallery.add(FeaturePyramid([values]), ["a", "b", "c"])
    for zero in (0.0, -0.0):
        query = FeaturePyramid([np.full((1, 1, 1, 1), zero, "f4")])
        found = gallery.search(query, 3, backend=backend)
        expect_equal("images", found.images.ravel().tolist(), ["a", "b", "c"])
        expect(not np.signbit(found.sq_distances).any(), "a distance is a negative zero")


@CHECKS.add()
def what_float64_cannot_tell_apart_goes_to_the_first_place(backend: Backend) -> None:
    # To float64 all distances are the same; float32 partial distances would tell them apart.
    query = np.array([1, -1], "f4").reshape(1, 1, 2, 1)
    gallery = Gallery()
    normal = [np.array([1, -1, 3, -3, 2, -2], "f4").reshape(3, 1, 2, 1) * np.float32(1e-18)]
    gallery.add(FeaturePyramid(normal), ["a", "b", "c"])
    found = gallery.search(FeaturePyramid([query]), 6, backend=backend)
    oracle = Oracle.of([query], normal, ["a", "b", "c"], "bilinear")
    assert_same_neighbors(found, oracle, exact=True)
    first = gallery.search(FeaturePyramid([query]), 1, backend=backend)
    assert_same_neighbors(first, oracle, exact=True)


@CHECKS.add(upsample=["bilinear", "block"], scale=[1e-6, 1e-10, 1e-14, 1e-16, 1e-25])
def fewer_neighbors_are_the_first_of_more(backend: Backend, upsample: str, scale: float) -> None:
    # A query around zero and a gallery still closer to it: many distances are nearly the same.
    query = random_pyramid(0, 1, NESTED)
    query = FeaturePyramid(
        [np.concatenate([level, -level], axis=1)[:, : level.shape[1]] for level in query.levels]
    )
    query = FeaturePyramid([np.sign(level) for level in query.levels])
    gallery = Gallery(upsample)
    normal = random_pyramid(1, 3, NESTED)
    normal = FeaturePyramid([level * np.float32(scale) for level in normal.levels])
    gallery.add(normal, ["a", "b", "c"])
    most = gallery.search(query, 144, backend=backend)
    assert_same_neighbors(
        most, shared_oracle(query.levels, normal.levels, ["a", "b", "c"], upsample)
    )
    for k in (1, 2, 7, 40):
        fewer = gallery.search(query, k, backend=backend)
        np.testing.assert_array_equal(fewer.image_index, most.image_index[..., :k], f"k={k}")
        np.testing.assert_array_equal(fewer.cells, most.cells[..., :k, :], f"k={k}")
        np.testing.assert_array_equal(fewer.sq_distances, most.sq_distances[..., :k], f"k={k}")


@CHECKS.add(
    query_scale=[1e-38, 1e-30, 1.0, 1e30, 3e38],
    gallery_scale=[1e-30, 1e-19, 1.0, 1e19, 1e30, 3e38],
    dtype=["float32", "int8"],
)
def no_scale_is_too_small_or_too_large(
    backend: Backend, query_scale: float, gallery_scale: float, dtype: str
) -> None:
    shapes: Shapes = ((4, 6, 3), (2, 2, 5))
    rng = np.random.default_rng(2)

    def levels(n: int, scale: float) -> Levels:
        return [(rng.uniform(-1, 1, (n, *shape)) * scale).astype("f4") for shape in shapes]

    query, normal = levels(1, query_scale), levels(2, gallery_scale)
    gallery = Gallery(dtype=dtype)
    gallery.add(FeaturePyramid(normal), ["a", "b"])
    kept = list(gallery.pyramid().levels)
    found = gallery.search(FeaturePyramid(query), 3, backend=backend)
    assert_same_neighbors(found, shared_oracle(query, kept, ["a", "b"], "bilinear"))


@CHECKS.add(upsample=["bilinear", "block"])
def images_of_very_different_scales_are_told_apart(backend: Backend, upsample: str) -> None:
    scales = np.array([1e-20, 1e-3, 1.0, 1e20], "f4")
    normal = [level * scales[:, None, None, None] for level in random_pyramid(3, 4, NESTED).levels]
    gallery = Gallery(upsample)
    gallery.add(FeaturePyramid(normal), ["a", "b", "c", "d"])
    for scale in scales:
        query = [level * scale for level in random_pyramid(4, 1, NESTED).levels]
        found = gallery.search(FeaturePyramid(query), 60, backend=backend)
        oracle = shared_oracle(query, normal, ["a", "b", "c", "d"], upsample)
        assert_same_neighbors(found, oracle)


@CHECKS.add()
def each_query_image_has_images_of_its_own(backend: Backend) -> None:
    # The second stage of SPADE, at a small size: overlapping subsets, one of them twice, and k of
    # all cells.
    ids = ["a", "b", "c", "d"]
    normal, query = random_pyramid(0, 4, NESTED), random_pyramid(1, 4, NESTED)
    gallery = Gallery()
    gallery.add(normal, ids)
    subsets = [["a", "c"], ["d", "b"], ["b", "d"], ["c", "d"]]
    oracle = shared_oracle(query.levels, normal.levels, ids, "bilinear", subsets)
    for k in (1, 5, 96):
        found = gallery.search(query, k, subsets, backend=backend)
        assert_same_neighbors(found, oracle)
        for image, images in enumerate(subsets):
            got = set(found[image].images.ravel())
            expect(got <= set(images), f"expected images among {images}, got {got}")
            alone = gallery.search(query[image], k, images, backend=backend)
            np.testing.assert_array_equal(alone.images[0], found.images[image])
            np.testing.assert_array_equal(alone.cells[0], found.cells[image])
            np.testing.assert_array_equal(alone.sq_distances[0], found.sq_distances[image])
