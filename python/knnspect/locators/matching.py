"""Which cells of two images that lie nearly alike show the same: mutual nearest neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["mutual_matches"]


def mutual_matches(
    template: NDArray[np.float32],
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    reach: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return cells of a template, and the places in an image that look most like them.

    A cell and the place of its nearest neighbour are a pair if the nearest neighbour of that is the
    cell again. Places lie between cells: at the top of a parabola through the cosines around.

    Parameters
    ----------
    template, image : ndarray of float32, shape (height, width, n_features)
        Unit features.
    mask : ndarray of bool, shape (height, width)
        The cells of the template that count.
    reach : int
        By how many rows and columns a pair may differ.

    Returns
    -------
    ndarray of float64, shape (n_pairs, 2), twice
        Rows and columns of the cells of the template, and of the places in the image.
    """
    height, width, _ = template.shape
    span = 2 * reach + 1
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)))
    # [down, right, row, column]: the cosine of a cell of the template and one shifted by that.
    cosines = np.full((span, span, height, width), -np.inf, np.float32)
    inside = np.pad(np.ones((height, width), bool), reach)
    for down in range(span):
        for right in range(span):
            at = np.s_[down : down + height, right : right + width]
            cosines[down, right] = np.where(
                inside[at], np.einsum("ijc,ijc->ij", template, padded[at]), -np.inf
            )
    flat = cosines.reshape(span * span, height, width)
    best = flat.argmax(axis=0)
    rows, columns = np.nonzero(mask)
    downs, rights = (part[rows, columns] for part in np.divmod(best, span))
    # Of the cell that was found, the best in the template: the same products, seen from there.
    to_rows, to_columns = rows + downs - reach, columns + rights - reach
    back = np.full((len(rows), span, span), -np.inf, np.float32)
    for down in range(span):
        for right in range(span):
            from_rows, from_columns = to_rows - down + reach, to_columns - right + reach
            is_in = (
                (from_rows >= 0)
                & (from_rows < height)
                & (from_columns >= 0)
                & (from_columns < width)
            )
            back[is_in, down, right] = cosines[down, right, from_rows[is_in], from_columns[is_in]]
    own = flat[best[rows, columns], rows, columns]
    mutual = own >= back.reshape(len(rows), -1).max(axis=1)
    # A place at the edge of what was searched may go on beyond it.
    within = (downs > 0) & (downs < span - 1) & (rights > 0) & (rights < span - 1)
    kept = np.flatnonzero(mutual & within)
    r, c, d, e = rows[kept], columns[kept], downs[kept], rights[kept]
    here = cosines[d, e, r, c]
    off_rows = _top(cosines[d - 1, e, r, c], here, cosines[d + 1, e, r, c])
    off_columns = _top(cosines[d, e - 1, r, c], here, cosines[d, e + 1, r, c])
    places = np.stack([r + d - reach + off_rows, c + e - reach + off_columns], axis=1)
    return np.stack([r, c], axis=1).astype(np.float64), places


def _top(
    before: NDArray[np.float32], here: NDArray[np.float32], after: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return where the tops of parabolas lie, at most half a cell from the middle."""
    known = np.isfinite(before) & np.isfinite(after)
    low, high = np.where(known, before, 0).astype(np.float64), np.where(known, after, 0)
    bend = 2 * here - low - high
    off = np.where(known & (bend > 0), (high - low) / np.where(bend > 0, 2 * bend, 1), 0)
    found: NDArray[np.float64] = off.clip(-0.5, 0.5)
    return found
