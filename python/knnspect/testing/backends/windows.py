"""Position windows: the true neighbours of those that lie within."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from knnspect.gallery import Gallery
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Backend
from knnspect.search.window import fewest_cells
from knnspect.testing.cases import NESTED, random_pyramid
from knnspect.testing.checks import Checks
from knnspect.testing.expectations import expect_identical
from knnspect.testing.oracle import Oracle, assert_same_neighbors

if TYPE_CHECKING:
    from hypothesis import strategies as st

__all__ = ["CHECKS"]

CHECKS: Checks[Backend] = Checks()


@CHECKS.add_drawn(share=1 / 4)
def finds_the_true_neighbors_within_a_window(backend: Backend, data: st.DataObject) -> None:
    from hypothesis import strategies as st

    from knnspect.testing.drawing import cases

    case = data.draw(cases())
    radius = st.one_of(st.none(), st.integers(0, 4))
    n_levels = len(case.shapes)
    radii = st.lists(radius, min_size=n_levels, max_size=n_levels)
    window = data.draw(st.one_of(st.integers(0, 5), radii), label="window")
    most = fewest_cells(list(case.shapes), window) * case.n_normal
    k = data.draw(st.sampled_from(sorted({1, min(3, most), most})), label="k")
    found = case.gallery().search(case.query, k, backend=backend, window=window)
    oracle = case.oracle(window=window)
    assert_same_neighbors(found, oracle, exact=case.is_without_rounding)


@CHECKS.add(upsample=["bilinear", "block"], window=[0, 1, (None, 1, None), (3, None, 0)])
def searches_some_images_within_a_window(backend: Backend, upsample: str, window: Any) -> None:
    query, normal = random_pyramid(1, 2, NESTED), random_pyramid(2, 4, NESTED)
    ids, images = ["d", "a", "c", "b"], [["a", "c"], ["d", "b", "c"]]
    gallery = Gallery(upsample)
    gallery.add(normal, ids)
    found = gallery.search(query, 2, images=images, backend=backend, window=window)
    oracle = Oracle.of(query.levels, normal.levels, ids, upsample, images, window)
    assert_same_neighbors(found, oracle)


@CHECKS.add()
def a_window_larger_than_the_grid_is_none(backend: Backend) -> None:
    query, normal = random_pyramid(1, 2, NESTED), random_pyramid(2, 3, NESTED)
    gallery = Gallery()
    gallery.add(normal, ["b", "a", "c"])
    expected = gallery.search(query, 3, backend=backend)
    for window in (7, 10**12, (None, 3, None)):
        found = gallery.search(query, 3, backend=backend, window=window)
        expect_identical(f"window {window}", found, expected)


@CHECKS.add()
def ties_within_a_window_go_to_the_lowest_place(backend: Backend) -> None:
    normal = random_pyramid(0, 1, ((1, 1, 3),)).levels[0]
    same = np.ascontiguousarray(np.broadcast_to(normal, (3, 5, 6, 3)))
    gallery = Gallery()
    gallery.add(FeaturePyramid([same]), ["b", "a", "c"])
    query = FeaturePyramid([same[:1]])
    found = gallery.search(query, 2, backend=backend, window=1)
    rows, columns = np.indices((5, 6))
    first = np.stack([np.maximum(rows - 1, 0), np.maximum(columns - 1, 0)], axis=-1)
    np.testing.assert_array_equal(found.images, "a", "the lowest of images that are the same")
    np.testing.assert_array_equal(found.cells[0, ..., 0, :], first, "the first cell within")
