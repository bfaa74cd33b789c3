"""Nearest neighbours the slow way: what every backend must agree with.

Levels are upsampled to the finest one and concatenated in float64, distances are sums of squared
differences, and all of them are kept. Nothing here shares code, formulas or an order of summation
with the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.search import Neighbors

__all__ = ["Oracle", "assert_same_neighbors", "upsample"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Relative differences below this are beyond float64 sums of some hundred terms.
SUMMATION = 1e-12
#: Bilinear interpolation in float64 is right within this, relative to the values it blends.
INTERPOLATION = 2.0**-49
#: Half the distance between the smallest float32 numbers.
SUBNORMAL = 2.0**-150


def taps(fine: int, coarse: int, mode: str) -> tuple[Integers, Integers, Floats]:
    """Return the two coarse positions around each fine one, and the weight of the second.

    Weights come from integers, so that the same place between two coarse centres has the same
    weight wherever it is.
    """
    ratio = fine // coarse
    position = np.arange(fine)
    if mode == "block":
        return position // ratio, position // ratio, np.zeros(fine)
    assert mode == "bilinear", mode
    # The centre of a fine cell, in halves of fine cells after the first coarse centre.
    halves = np.clip(2 * position + 1 - ratio, 0, 2 * ratio * (coarse - 1))
    first = halves // (2 * ratio)
    weight = (halves % (2 * ratio)) / (2 * ratio)
    return first, np.where(weight == 0, first, first + 1), weight


def upsample(level: NDArray[Any], height: int, width: int, mode: str) -> Floats:
    """Return a level (n_images, height_l, width_l, channels) at the size of the finest one."""
    values = level.astype(np.float64)
    first, second, weight = taps(height, level.shape[1], mode)
    above, below = values[:, first], values[:, second]
    values = above + weight[:, None, None] * (below - above)
    first, second, weight = taps(width, level.shape[2], mode)
    left, right = values[:, :, first], values[:, :, second]
    return left + weight[:, None] * (right - left)


def features(levels: Sequence[NDArray[Any]], mode: str) -> Floats:
    """Upsampled, concatenated features of shape (n_images, height * width, channels)."""
    n_images, height, width, _ = levels[0].shape
    parts = [upsample(level, height, width, mode) for level in levels]
    return np.concatenate(parts, axis=-1).reshape(n_images, height * width, -1)


def contents(levels: Sequence[NDArray[Any]], mode: str) -> Integers:
    """Return a number for each cell, (n_images, cells): equal where the features surely are.

    Cells with equal numbers blend the same values with the same weights, or values that are all
    the same, so that no rounding can tell them apart.
    """
    n_images, height, width, _ = levels[0].shape
    keys: list[NDArray[Any]] = []
    for level in levels:
        rows = level.reshape(-1, level.shape[-1]) + np.zeros((), level.dtype)  # no negative zeros
        native = np.unique(rows, axis=0, return_inverse=True)[1].reshape(level.shape[:3])
        top, bottom, down = taps(height, level.shape[1], mode)
        left, right, across = taps(width, level.shape[2], mode)
        a, b = native[:, top][:, :, left], native[:, top][:, :, right]
        c, d = native[:, bottom][:, :, left], native[:, bottom][:, :, right]
        keys += [a, b, c, d]
        keys.append(np.where((a == c) & (b == d), 0.0, down[None, :, None]))
        keys.append(np.where((a == b) & (c == d), 0.0, across[None, None, :]))
    columns = np.stack([key.ravel() for key in keys], axis=1).astype(np.float64)
    numbers = np.unique(columns, axis=0, return_inverse=True)[1]
    return numbers.reshape(n_images, height * width).astype(np.int64)


@dataclass(frozen=True)
class Oracle:
    """All distances between the cells of a query and those of a gallery.

    ``sq_distances`` and ``uncertainty`` have shape (n_images, cells, gallery cells); gallery cells
    are in the order of (image id, row, column), and those that are not searched are infinitely far.
    ``contents`` has one number for each gallery cell.
    """

    ids: tuple[str, ...]
    searched: tuple[str, ...]
    height: int
    width: int
    sq_distances: Floats
    uncertainty: Floats
    contents: Integers

    @classmethod
    def of(
        cls,
        query: Sequence[NDArray[Any]],
        gallery: Sequence[NDArray[Any]],
        ids: Sequence[str],
        mode: str,
        images: Sequence[Sequence[str]] | None = None,
    ) -> Oracle:
        """Compare all cells; `images` names the gallery images searched for each query image."""
        order = sorted(range(len(ids)), key=lambda i: ids[i])
        gallery = [level[order] for level in gallery]
        names = tuple(ids[i] for i in order)
        n_images, height, width, _ = query[0].shape
        cells = height * width

        queries, cells_of_gallery = features(query, mode), features(gallery, mode)
        places = cells_of_gallery.reshape(len(ids) * cells, -1)
        sq_distances = np.empty((n_images, cells, len(places)))
        for image in range(n_images):
            for cell in range(cells):
                difference = places - queries[image, cell]
                np.einsum("gc,gc->g", difference, difference, out=sq_distances[image, cell])

        uncertainty = SUMMATION * sq_distances
        if mode == "bilinear" and any(level.shape[1:3] != (height, width) for level in gallery):
            sizes = [
                np.linalg.norm(features([np.abs(level) for level in levels], mode), axis=-1)
                for levels in (query, gallery)
            ]
            blur = INTERPOLATION * (sizes[0][:, :, None] + sizes[1].reshape(1, 1, -1))
            uncertainty += 2 * np.sqrt(sq_distances) * blur + blur * blur
        if images is not None:
            per_image = [images[0]] * n_images if len(images) == 1 else images
            hidden = [[name not in chosen for name in names] for chosen in per_image]
            sq_distances[np.repeat(hidden, cells, axis=1)[:, None].repeat(cells, axis=1)] = np.inf
        searched = (
            names if images is None else sorted({name for chosen in images for name in chosen})
        )
        numbers = contents(gallery, mode).ravel()
        return cls(names, tuple(searched), height, width, sq_distances, uncertainty, numbers)

    def nearest(self, k: int) -> Integers:
        """Return the k nearest gallery cells, ties in order, of shape (n_images, cells, k)."""
        return np.argsort(self.sq_distances, axis=-1, kind="stable")[..., :k]

    def twins_before(self) -> Integers:
        """For each query image and gallery cell, how many cells before it have equal contents."""
        n_images, _, n_places = self.sq_distances.shape
        counts = np.zeros((n_images, n_places), np.int64)
        for image in range(n_images):
            searched = np.flatnonzero(np.isfinite(self.sq_distances[image, 0]))
            numbers = self.contents[searched]
            order = np.argsort(numbers, kind="stable")
            starts = np.searchsorted(numbers[order], numbers[order], side="left")
            counts[image, searched[order]] = np.arange(len(order)) - starts
        return counts


def assert_same_neighbors(
    neighbors: Neighbors, oracle: Oracle, *, rtol: float = 1e-6, exact: bool = False
) -> None:
    """Fail unless a search found what the oracle knows.

    Distances must agree within `rtol` and the rounding of float32; places must be the oracle's, but
    for those whose distances float64 arithmetic may order either way. Cells of equal contents
    are never such: the earlier one always wins. With `exact` (arithmetic without rounding) all
    places must be the oracle's.
    """
    n_images, cells = oracle.sq_distances.shape[:2]
    k = neighbors.sq_distances.shape[-1]
    shape = (n_images, oracle.height, oracle.width, k)
    assert neighbors.sq_distances.shape == shape, (neighbors.sq_distances.shape, shape)
    assert neighbors.sq_distances.dtype == np.float32
    assert neighbors.image_index.shape == shape
    assert neighbors.cells.shape == (*shape, 2)
    assert neighbors.image_ids == oracle.searched, (neighbors.image_ids, oracle.searched)
    rows = neighbors.cells[..., 0].astype(np.int64)
    columns = neighbors.cells[..., 1].astype(np.int64)
    assert ((rows >= 0) & (rows < oracle.height)).all(), "a row outside the image"
    assert ((columns >= 0) & (columns < oracle.width)).all(), "a column outside the image"

    ranks = np.array([oracle.ids.index(name) for name in neighbors.image_ids])
    images = ranks[neighbors.image_index.astype(np.int64)]
    found = ((images * oracle.height + rows) * oracle.width + columns).reshape(n_images, cells, k)
    assert (np.diff(np.sort(found, axis=-1)) > 0).all(), "a place is given twice"

    def where(bad: NDArray[np.bool_]) -> str:
        image, cell, rank = (int(i) for i in np.argwhere(bad)[0])
        row, column = divmod(cell, oracle.width)
        got, want = int(found[image, cell, rank]), int(expected[image, cell, rank])
        distances = oracle.sq_distances[image, cell]
        given = neighbors.sq_distances.reshape(found.shape)[image, cell, rank]
        return (
            f"{int(bad.sum())} of {bad.size} wrong; query image {image}, cell ({row}, {column}), "
            f"neighbour {rank}: got place {got} at {given!r} (the oracle: {distances[got]!r}), "
            f"expected place {want} at {distances[want]!r}"
        )

    expected = oracle.nearest(k)
    of_found = np.take_along_axis(oracle.sq_distances, found, axis=-1)
    of_expected = np.take_along_axis(oracle.sq_distances, expected, axis=-1)
    assert np.isfinite(of_found).all(), "a neighbour that was not searched: " + where(
        ~np.isfinite(of_found)
    )
    allowed = np.take_along_axis(oracle.uncertainty, found, axis=-1)

    given = neighbors.sq_distances.reshape(found.shape).astype(np.float64)
    with np.errstate(over="ignore"):
        infinite = np.isinf(of_found.astype(np.float32))
    error = np.abs(np.where(infinite, 0, given) - np.where(infinite, 0, of_found))
    bad = np.where(infinite, given != np.inf, ~(error <= rtol * of_found + allowed + SUBNORMAL))
    assert not bad.any(), "distances: " + where(bad)
    assert (neighbors.sq_distances[..., 1:] >= neighbors.sq_distances[..., :-1]).all(), "not sorted"

    allowed = allowed + np.take_along_axis(oracle.uncertainty, expected, axis=-1)
    bad = found != expected
    if not exact:
        bad &= ~(np.abs(of_found - of_expected) < allowed)
    assert not bad.any(), "places: " + where(bad)

    numbers = oracle.contents[found]
    before = np.tril(np.ones((k, k), bool), -1)
    seen = ((numbers[..., :, None] == numbers[..., None, :]) & before).sum(axis=-1)
    twins = np.stack([counts[found[i]] for i, counts in enumerate(oracle.twins_before())])
    bad = seen != twins
    assert not bad.any(), "ties: " + where(bad)
