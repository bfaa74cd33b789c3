"""Nearest neighbours the slow way: what every backend must agree with.

Levels are upsampled to the finest one and concatenated in float64, distances are sums of squared
differences, and all of them are kept. Nothing here shares code, formulas or an order of summation
with the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.search import Neighbors
from knnspect.testing.expectations import expect, expect_equal

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
    if mode != "bilinear":
        raise ValueError(f"mode: expected 'bilinear' or 'block', got {mode!r}")
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


def within(
    window: int | Sequence[int | None] | None, sizes: Sequence[tuple[int, int]]
) -> NDArray[np.bool_]:
    """Return which gallery cells of an image each query cell is compared with, (cells, cells).

    `sizes` has height and width of each level, finest first.
    """
    (height, width), (rows, columns) = sizes[0], np.indices(sizes[0]).reshape(2, -1)
    near = np.ones((height * width, height * width), bool)
    radii = [window] if window is None or isinstance(window, int) else window
    for radius, (level_height, level_width) in zip(radii, sizes, strict=False):
        if radius is not None:
            for place in (rows * level_height // height, columns * level_width // width):
                near &= np.abs(place[:, None] - place) <= radius
    return near


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
        window: int | Sequence[int | None] | None = None,
    ) -> Oracle:
        """Compare all cells, or those within a window (see `Search`).

        `images` names the gallery images searched for each query image.
        """
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
        near = within(window, [level.shape[1:3] for level in gallery])
        sq_distances[:, ~np.tile(near, len(ids))] = np.inf
        searched = (
            names if images is None else sorted({name for chosen in images for name in chosen})
        )
        numbers = contents(gallery, mode).ravel()
        return cls(names, tuple(searched), height, width, sq_distances, uncertainty, numbers)

    @cached_property
    def order(self) -> Integers:
        """All gallery cells of each query cell, nearest first, ties in order."""
        return np.argsort(self.sq_distances, axis=-1, kind="stable")

    def nearest(self, k: int) -> Integers:
        """Return the k nearest gallery cells, ties in order, of shape (n_images, cells, k)."""
        return self.order[..., :k]

    @cached_property
    def duplicates_before(self) -> Integers:
        """How many cells before each gallery cell have equal contents, of those searched.

        Of shape (n_images, cells, gallery cells), or where all query cells of an image are compared
        with the same gallery cells (n_images, 1, gallery cells).
        """
        is_searched = np.isfinite(self.sq_distances)
        if (is_searched == is_searched[:, :1]).all():
            is_searched = is_searched[:, :1]
        counts = np.zeros(is_searched.shape, np.int64)
        for at in np.ndindex(*is_searched.shape[:2]):
            searched = np.flatnonzero(is_searched[at])
            counts[at][searched] = count_before(self.contents[searched])
        return counts


def count_before(numbers: Integers) -> Integers:
    """Return for each number how many equal ones stand before it, along the last axis."""
    order = np.argsort(numbers, axis=-1, kind="stable")
    ordered = np.take_along_axis(numbers, order, axis=-1)
    places = np.arange(numbers.shape[-1])
    is_same = ordered[..., 1:] == ordered[..., :-1]
    first = np.zeros_like(order)
    first[..., 1:] = np.where(is_same, 0, places[1:])
    counts = np.empty_like(order)
    np.put_along_axis(counts, order, places - np.maximum.accumulate(first, axis=-1), axis=-1)
    return counts


def assert_same_neighbors(
    neighbors: Neighbors, oracle: Oracle, *, rtol: float = 1e-6, exact: bool = False
) -> None:
    """Fail unless a search found what the oracle knows.

    Parameters
    ----------
    neighbors : Neighbors
        What a backend found.
    oracle : Oracle
        All distances of that search.
    rtol : float, default 1e-6
        Distances must agree within this and the rounding of float32. Places must be the oracle's,
        but for those whose distances float64 arithmetic may order either way. Cells of equal
        contents are never such: the earlier one always wins.
    exact : bool, default False
        All places must be the oracle's: for values with which arithmetic is without rounding.

    Raises
    ------
    AssertionError
        With the first query cell for which they differ, what was found and what was expected.

    Examples
    --------
    >>> import numpy as np, knnspect as ks
    >>> rng = np.random.default_rng(0)
    >>> query, normal = (ks.FeaturePyramid([rng.random((2, 4, 4, 3), "f4")]) for _ in range(2))
    >>> gallery = ks.Gallery()
    >>> _ = gallery.add(normal, ["a", "b"])
    >>> oracle = Oracle.of(query.levels, normal.levels, ["a", "b"], "bilinear")
    >>> assert_same_neighbors(gallery.search(query, k=3), oracle)
    """
    places = _places(neighbors, oracle)
    comparison = _Comparison(neighbors, oracle, places)
    comparison.check_distances(rtol)
    comparison.check_places(exact)
    comparison.check_ties()


def _places(neighbors: Neighbors, oracle: Oracle) -> Integers:
    """Return which gallery cells were found, of shape (n_images, cells, k)."""
    n_images, cells = oracle.sq_distances.shape[:2]
    k = neighbors.sq_distances.shape[-1]
    shape = (n_images, oracle.height, oracle.width, k)
    expect_equal("shape of sq_distances", neighbors.sq_distances.shape, shape)
    expect_equal("dtype of sq_distances", neighbors.sq_distances.dtype, np.dtype(np.float32))
    expect_equal("shape of image_index", neighbors.image_index.shape, shape)
    expect_equal("shape of cells", neighbors.cells.shape, (*shape, 2))
    expect_equal("image_ids", tuple(neighbors.image_ids), oracle.searched)
    rows = neighbors.cells[..., 0].astype(np.int64)
    columns = neighbors.cells[..., 1].astype(np.int64)
    expect(((rows >= 0) & (rows < oracle.height)).all(), "a row outside the image")
    expect(((columns >= 0) & (columns < oracle.width)).all(), "a column outside the image")
    numbers = neighbors.image_index.astype(np.int64)
    expect(
        ((numbers >= 0) & (numbers < len(neighbors.image_ids))).all(), "an image that is not there"
    )
    ranks = np.array([oracle.ids.index(name) for name in neighbors.image_ids], np.int64)
    images = ranks[numbers]
    found = ((images * oracle.height + rows) * oracle.width + columns).reshape(n_images, cells, k)
    expect((np.diff(np.sort(found, axis=-1)) > 0).all(), "a place is given twice")
    return found


@dataclass(frozen=True)
class _Comparison:
    """What was found beside what the oracle knows; places are numbers of gallery cells."""

    neighbors: Neighbors
    oracle: Oracle
    found: Integers

    @property
    def expected(self) -> Integers:
        return self.oracle.nearest(self.found.shape[-1])

    @property
    def given(self) -> NDArray[np.float32]:
        return self.neighbors.sq_distances.reshape(self.found.shape)

    def check_distances(self, rtol: float) -> None:
        of_found = self._of(self.oracle.sq_distances, self.found)
        self._refuse(~np.isfinite(of_found), "a neighbour that was not searched")
        allowed = rtol * of_found + self._of(self.oracle.uncertainty, self.found) + SUBNORMAL
        given = self.given.astype(np.float64)
        with np.errstate(over="ignore"):
            infinite = np.isinf(of_found.astype(np.float32))
        error = np.abs(np.where(infinite, 0, given) - np.where(infinite, 0, of_found))
        self._refuse(np.where(infinite, given != np.inf, ~(error <= allowed)), "distances")
        expect((given[..., 1:] >= given[..., :-1]).all(), "distances are not sorted")

    def check_places(self, exact: bool) -> None:
        bad = self.found != self.expected
        if not exact:
            uncertainty, sq_distances = self.oracle.uncertainty, self.oracle.sq_distances
            allowed = self._of(uncertainty, self.found) + self._of(uncertainty, self.expected)
            apart = self._of(sq_distances, self.found) - self._of(sq_distances, self.expected)
            bad &= ~(np.abs(apart) < allowed)
        self._refuse(bad, "places")

    def check_ties(self) -> None:
        seen = count_before(self.oracle.contents[self.found])
        counts = np.broadcast_to(self.oracle.duplicates_before, self.oracle.sq_distances.shape)
        self._refuse(seen != np.take_along_axis(counts, self.found, axis=-1), "ties")

    @staticmethod
    def _of(values: Floats, places: Integers) -> Floats:
        return np.take_along_axis(values, places, axis=-1)

    def _refuse(self, bad: NDArray[np.bool_], what: str) -> None:
        """Fail if any is bad, with the first of them."""
        if not bad.any():
            return
        image, cell, rank = (int(i) for i in np.argwhere(bad)[0])
        row, column = divmod(cell, self.oracle.width)
        got, want = int(self.found[image, cell, rank]), int(self.expected[image, cell, rank])
        distances = self.oracle.sq_distances[image, cell]
        raise AssertionError(
            f"{what}: {int(bad.sum())} of {bad.size} wrong; query image {image}, "
            f"cell ({row}, {column}), neighbour {rank}: got {self._place(got)} at "
            f"{float(self.given[image, cell, rank])!r} (the oracle: {float(distances[got])!r}), "
            f"expected {self._place(want)} at {float(distances[want])!r}"
        )

    def _place(self, number: int) -> str:
        image, cell = divmod(number, self.oracle.height * self.oracle.width)
        row, column = divmod(cell, self.oracle.width)
        return f"image {self.oracle.ids[image]!r}, cell ({row}, {column})"
