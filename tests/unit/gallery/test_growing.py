"""Coresets that take rows of more images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from knnspect import FeaturePyramid, Gallery
from knnspect.gallery import Coreset
from knnspect.gallery.growing import grown, rows_to_take, sq_reach


def images(rng: np.random.Generator, n: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (rng.random((n, 6, 7, 3)) * scale).astype(np.float32)


def coreset_of(
    levels: NDArray[np.float32], size: int | float, projection: int | None = None
) -> Coreset:
    gallery = Gallery()
    gallery.add(FeaturePyramid([levels]))
    return gallery.coreset(size, projection=projection)


def sq_distances_to(rows: NDArray[np.float32], bank: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the squared distance of each row to the nearest of a bank, in float64."""
    apart = rows[:, None].astype(np.float64) - bank[None]
    nearest: NDArray[np.float64] = np.square(apart).sum(-1).min(1)
    return nearest


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0.5, 3))
def test_the_covering_radius_never_grows(seed: int, size: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    normal, more = images(rng, 2), images(rng, 3, scale)
    coreset = coreset_of(normal, size)
    radius = coreset.sq_radius
    assert radius is not None
    for number, image in enumerate(more):
        rows = image.reshape(-1, 3)
        taken = rows_to_take(coreset, rows, sq_reach(coreset))
        cells = np.stack(np.divmod(taken, 7), axis=-1)
        coreset = grown(coreset, {f"new {number}": (cells, rows[taken])})
    everything = np.concatenate([normal.reshape(-1, 3), more.reshape(-1, 3)])
    # What is searched is rounded to float32, which decides of rows right at the radius.
    assert sq_distances_to(everything, coreset.rows).max() <= radius * (1 + 1e-6) + 1e-12
    assert coreset.sq_radius == radius


def test_rows_within_the_radius_are_not_taken() -> None:
    rng = np.random.default_rng(0)
    normal = images(rng, 3)
    coreset = coreset_of(normal, 0.2)
    assert not len(rows_to_take(coreset, normal[1].reshape(-1, 3), sq_reach(coreset)))


def test_no_taken_row_lies_within_the_radius_of_another() -> None:
    rng = np.random.default_rng(1)
    coreset = coreset_of(images(rng, 2), 0.1)
    rows = images(rng, 1, 5).reshape(-1, 3)
    taken = rows_to_take(coreset, rows, sq_reach(coreset))
    assert 1 < len(taken) < len(rows)
    for place in taken:
        others = rows[[other for other in taken if other != place]]
        bank = np.concatenate([coreset.rows, others])
        assert sq_distances_to(rows[[place]], bank)[0] > sq_reach(coreset)


def test_a_grown_coreset_is_one_of_rows_in_order() -> None:
    rng = np.random.default_rng(2)
    normal = images(rng, 3)
    coreset = coreset_of(normal, 30)
    new = rng.random((4, 3)).astype(np.float32)
    cells = np.array([[0, 2], [1, 1], [1, 5], [5, 0]])
    more = grown(coreset, {"000001 b": (cells, new), "empty": (cells[:0], new[:0])})
    assert more.image_ids == ("000000", "000001", "000001 b", "000002", "empty")
    places = list(zip(more.image_index.tolist(), *more.cells.T.tolist(), strict=True))
    assert places == sorted(places)
    np.testing.assert_array_equal(more.rows[more.order], [*coreset.rows[coreset.order], *new])
    found = more.search(FeaturePyramid([new[None, None]]))
    assert found.images[0, 0, :, 0].tolist() == ["000001 b"] * 4
    np.testing.assert_array_equal(found.cells[0, 0, :, 0], cells)
    assert coreset.image_ids == ("000000", "000001", "000002"), "it stays as it was"
    more.remove(["000001 b", "empty"])
    np.testing.assert_array_equal(more.rows, coreset.rows)


@pytest.mark.parametrize("how", ["projection", "removed"])
def test_without_a_radius_rows_are_taken_that_lie_as_far_apart_as_those_there(how: str) -> None:
    rng = np.random.default_rng(3)
    normal = images(rng, 3)
    coreset = coreset_of(normal, 20, 2 if how == "projection" else None)
    if how == "removed":
        coreset.remove(["000001"])
    assert coreset.sq_radius is None
    apart = min(
        sq_distances_to(coreset.rows[[i]], np.delete(coreset.rows, i, axis=0))[0]
        for i in range(len(coreset))
    )
    assert sq_reach(coreset) == pytest.approx(apart, rel=1e-6)
