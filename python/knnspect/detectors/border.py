"""How much farther normal cells are from their nearest at an image's border than inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["BorderFactors"]

#: Of normal cells' scores, what is compared between border and inside: large ones, as the image
#: score is the largest of all, but not the largest, which is one cell's.
_QUANTILE = 0.98


class BorderFactors:
    """What scores of cells near the border are divided by, so that normal ones are as inside.

    A network pads its input, so features near the border are of another kind than those inside, and
    a gallery has fewer of them: the nearest normal one is farther away, although nothing is wrong.
    How much farther is seen when normal images are compared with the others. Cells fall into
    classes: how far they are from the nearer border, and from the other one where that is near,
    too, as in corners, up to the width of a cell of the coarsest level. For each class the .98
    quantile of its scores is divided by that of the cells next to these classes, farther inside. A
    factor is never below 1: where the border is emptier than the middle, its scores stay as they
    are. Backbones and patch sizes without this effect get factors of 1.

    Parameters
    ----------
    factors : array_like of float, shape (margin, margin + 1), default ()
        By the distance in cells from the nearer border and from the other one (`margin`: or more);
        each at least 1. Without any nothing is divided.

    Raises
    ------
    ValueError
        If the factors have another shape or values.

    Examples
    --------
    >>> normal = np.ones((3, 12, 12))
    >>> normal[:, 0] = normal[:, -1] = normal[:, :, 0] = normal[:, :, -1] = 3
    >>> factors = BorderFactors.of(normal, [(12, 12, 24), (6, 6, 40)])
    >>> float(factors.divide(normal[0]).max())
    1.0
    """

    def __init__(self, factors: ArrayLike = ()) -> None:
        array = np.asarray(factors, np.float64)
        if array.size == 0:
            array = np.ones((0, 1))
        is_square = array.ndim == 2 and array.shape[1] == len(array) + 1
        if not (is_square and np.isfinite(array).all() and (array >= 1).all()):
            raise ValueError(f"border factors: expected (n, n + 1) of at least 1, got {factors!r}")
        self.factors: NDArray[np.float64] = array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BorderFactors) and np.array_equal(self.factors, other.factors)

    __hash__ = None  # type: ignore[assignment]  # it is compared by its values

    def __repr__(self) -> str:
        largest = self.factors.max(initial=1.0)
        return f"BorderFactors(margin={len(self.factors)}, largest={largest:.3g})"

    @classmethod
    def of(
        cls, normal: Sequence[NDArray[Any]] | NDArray[Any], shapes: Sequence[tuple[int, int, int]]
    ) -> BorderFactors:
        """Return the factors of normal images.

        Parameters
        ----------
        normal : sequence of ndarray of float, shape (height, width)
            The scores of the cells of normal images, each compared with the others only; NaN where
            cells do not count.
        shapes : sequence of (int, int, int)
            Height, width and channels of each level, finest first.

        Returns
        -------
        BorderFactors
            Such that nothing is divided where there are no images, or the grid is too small to
            have an inside.
        """
        (height, width), coarsest = shapes[0][:2], shapes[-1]
        margin = max(-(-height // coarsest[0]), -(-width // coarsest[1]))
        if len(normal) == 0 or min(height, width) < 4 * margin:
            return cls()
        scores = np.stack([np.asarray(cells, np.float64) for cells in normal])
        near, far = _distances(height, width, 2 * margin)
        inside = _large(scores[:, (near >= margin) & (near < 2 * margin)])
        factors = np.ones((margin, margin + 1))
        far = np.minimum(far, margin)
        for i in range(margin):
            for j in range(i, margin + 1):
                here = _large(scores[:, (near == i) & (far == j)])
                if here > inside > 0:
                    factors[i, j] = here / inside
        return cls(factors)

    def divide(self, cells: NDArray[Any]) -> NDArray[Any]:
        """Return the scores of the cells of one image, shape (height, width), divided."""
        margin = len(self.factors)
        if margin == 0:
            return cells
        near, far = _distances(cells.shape[0], cells.shape[1], margin)
        # Those that are `margin` or more from both borders come last, and are left as they are.
        factors = np.vstack([self.factors, np.ones(margin + 1)])
        return cells / factors[near, far]


def _large(scores: NDArray[np.float64]) -> float:
    scores = scores[~np.isnan(scores)]
    if not scores.size:
        return 0.0
    # One of the scores and no mean of two, so that factors of squares are squares of factors.
    return float(np.quantile(scores, _QUANTILE, method="inverted_cdf"))


def _distances(height: int, width: int, at_most: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return for each cell its distances from the nearer border and the other, cut at a value."""
    rows, columns = (
        np.minimum(np.minimum(np.arange(n), np.arange(n)[::-1]), at_most) for n in (height, width)
    )
    return np.minimum(rows[:, None], columns), np.maximum(rows[:, None], columns)
