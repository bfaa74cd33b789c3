"""Coresets that take rows of more images, so that their covering radius never grows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.gallery.coreset import Coreset
from knnspect.pyramid import FeaturePyramid

__all__ = ["grown", "rows_to_take", "sq_reach"]

#: Rows whose nearest other row says how far rows lie apart, where the radius is not known.
_N_SPACED = 256


def sq_reach(coreset: Coreset, **how: Any) -> float:
    """Return the squared distance from which on a new row is taken.

    It is the covering radius. Where that is not known, as after a projection, it is the smallest
    distance between two rows (of 256 to all): a greedy selection takes no row that lies nearer.
    """
    if coreset.sq_radius is not None:
        return coreset.sq_radius
    if len(coreset) < 2:
        return 0.0
    spaced = np.unique(np.linspace(0, len(coreset) - 1, _N_SPACED).astype(int))
    rows = FeaturePyramid([coreset.rows[spaced][None, None]])
    how.pop("window", None)  # rows have no place
    found = coreset.bank.search(rows, 2, **how)
    return float(found.sq_distances[0, 0, :, 1].min())


def rows_to_take(
    coreset: Coreset,
    rows: NDArray[np.float32],
    sq_reach: float,
    **how: Any,
) -> NDArray[np.intp]:
    """Return which rows of an image a coreset takes, so that all of them lie near one of its rows.

    The row that lies farthest is taken first, then the one that lies farthest from what is there by
    then, until none lies farther than the reach. So the coreset's covering radius does not grow.

    Parameters
    ----------
    coreset : Coreset
        What is there.
    rows : ndarray of float32, shape (n, n_features)
        The rows of the image.
    sq_reach : float
        Squared L2 distance; see `sq_reach`.
    **how
        As `Coreset.search` takes them.

    Returns
    -------
    ndarray of intp, shape (n_taken,)
        Places in `rows`, ascending.

    Examples
    --------
    >>> from knnspect import Gallery
    >>> gallery = Gallery()
    >>> _ = gallery.add(FeaturePyramid([np.array([[[[0.0], [1.0], [4.0]]]], "f4")]))
    >>> coreset = gallery.coreset(2)
    >>> coreset.sq_radius
    1.0
    >>> rows_to_take(coreset, np.array([[3.5], [6.0], [7.0], [5.0]], "f4"), 1.0)
    array([2])
    """
    how.pop("window", None)  # rows have no place
    query = FeaturePyramid([np.ascontiguousarray(rows)[None, None]])
    sq_distances = coreset.bank.search(query, 1, **how).sq_distances[0, 0, :, 0].astype(np.float64)
    (left,) = np.nonzero(sq_distances > sq_reach)
    far, sq_distances = rows[left].astype(np.float64), sq_distances[left]
    taken = []
    while len(left):
        farthest = int(sq_distances.argmax())
        taken.append(int(left[farthest]))
        sq_distances = np.minimum(sq_distances, np.square(far - far[farthest]).sum(axis=1))
        stays = sq_distances > sq_reach
        left, far, sq_distances = left[stays], far[stays], sq_distances[stays]
    return np.array(sorted(taken), np.intp)


def grown(
    coreset: Coreset, taken: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float32]]]
) -> Coreset:
    """Return a coreset with rows of more images.

    Parameters
    ----------
    coreset : Coreset
        What is there; it stays as it is.
    taken : mapping of str to (ndarray of int64, ndarray of float32)
        By the ids of the images, none of which is in the coreset: cells, shape (n, 2), and rows,
        shape (n, n_features). They may be none.

    Examples
    --------
    >>> from knnspect import Gallery
    >>> gallery = Gallery()
    >>> _ = gallery.add(FeaturePyramid([np.zeros((1, 2, 2, 3), "f4")]), ids=["b"])
    >>> more = grown(gallery.coreset(1), {"a": (np.array([[0, 1]]), np.ones((1, 3), "f4"))})
    >>> more.image_ids, more.rows[:, 0], more.order, more.sq_radius
    (('a', 'b'), array([1., 0.], dtype=float32), array([1, 0]), 0.0)
    """
    height, width, _ = coreset.shapes[0]
    for id_, (cells_of, rows_of) in taken.items():
        if len(rows_of) and rows_of.shape[1] != coreset.rows.shape[1]:
            n = coreset.rows.shape[1]
            raise ValueError(f"image {id_}: expected rows of {n} features, got {rows_of.shape[1]}")
        if (cells_of >= (height, width)).any():
            raise ValueError(f"image {id_}: expected cells of {height} x {width}")
    ids = tuple(sorted({*coreset.image_ids, *taken}))
    places = {id_: place for place, id_ in enumerate(ids)}
    of_image = [np.array([places[id_] for id_ in coreset.image_ids], np.int64)[coreset.image_index]]
    cells, rows = [coreset.cells], [coreset.rows]
    for id_ in sorted(taken):
        if len(taken[id_][0]):
            of_image.append(np.full(len(taken[id_][0]), places[id_], np.int64))
            cells.append(np.asarray(taken[id_][0], np.int64))
            rows.append(np.asarray(taken[id_][1], np.float32))
    image_index, all_cells = np.concatenate(of_image), np.concatenate(cells)
    by_place = np.lexsort((all_cells[:, 1], all_cells[:, 0], image_index))
    ranks = np.empty(len(by_place), np.int64)
    ranks[by_place] = np.arange(len(by_place))
    newer = np.arange(len(coreset), len(by_place))
    return Coreset.from_rows(
        np.ascontiguousarray(np.concatenate(rows)[by_place]),
        ids,
        image_index[by_place],
        all_cells[by_place],
        ranks[np.concatenate([coreset.order, newer])],
        coreset.upsample,
        coreset.shapes,
        coreset.sq_radius,
    )
