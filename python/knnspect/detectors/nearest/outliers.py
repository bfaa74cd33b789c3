"""Cells of normal images that are unlike those of all other images: maybe defects."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.leave_one_out import LeaveOneOut
from knnspect.errors import ParameterError
from knnspect.gallery.leaving_out import nearest_without
from knnspect.gallery.picking import all_rows
from knnspect.normal_features import NormalFeatures
from knnspect.progress import Progress

__all__ = ["Outliers", "cells_kept", "find_outliers", "largest_first"]

#: Images that a warning names.
_N_NAMED = 3


class Outliers(NamedTuple):
    """Which cells of normal images stay.

    Parameters
    ----------
    kept : ndarray of bool, shape (n_stored, height, width)
        The cells of the gallery's images that are compared with.
    dropped : dict of str to float
        The share of its cells that each image loses, largest first; of those that lose some.
    n_dropped, n_cells : int
        How many cells are dropped, and of how many.
    """

    kept: NDArray[np.bool_]
    dropped: dict[str, float]
    n_dropped: int
    n_cells: int

    def warn(self, calibrates: bool) -> None:
        """Say once what was dropped, and what it means for decisions."""
        shares = [*self.dropped.items()][:_N_NAMED]
        named = ", ".join(f"{id_} ({share:.0%} of its cells)" for id_, share in shares) or "none"
        of_decisions = (
            ": if these have defects, their scores raise the thresholds, and defects may be "
            "missed; give calibration_images, or fit again without them"
        )
        warnings.warn(
            f"outliers: dropped {self.n_dropped} of {self.n_cells} cells, most of {named}; see "
            f"dropped_{of_decisions if calibrates and shares else ''}",
            stacklevel=5,
        )


def find_outliers(
    normal: NormalFeatures,
    others: LeaveOneOut,
    share: float,
    counts: NDArray[np.bool_] | None,
    how: Mapping[str, Any],
    progress: bool,
) -> Outliers:
    """Return which cells of normal images are not among those farthest from all other images.

    Parameters
    ----------
    normal : NormalFeatures
        The normal images.
    others : LeaveOneOut
        Says what each is compared with.
    share : float
        How many cells are dropped, as a share of all that count.
    counts : ndarray of bool, shape (n_stored, height, width), optional
        Which cells count, by a mask; None: all.
    how : mapping
        As `Gallery.search` takes it.
    progress : bool
        Report progress on standard error.

    Raises
    ------
    ParameterError
        If no image can be compared with another one.
    """
    sq_distances = _sq_distances_to_others(normal, others, counts, how, progress)
    if np.isnan(sq_distances).all():
        raise ParameterError(
            "outliers: expected at least two normal images that can be compared with each other, "
            f"none of the {len(others.ids)} can: near-duplicates, images of one block, and those "
            "without a cell that counts are not compared",
            parameter="outliers",
        )
    kept = cells_kept(sq_distances, share)
    counts = np.ones_like(kept) if counts is None else counts
    n_lost, n_cells = (~kept).sum(axis=(1, 2)), counts.sum(axis=(1, 2))
    dropped = _shares(normal, n_lost, n_cells)
    return Outliers(kept & counts, dropped, int(n_lost.sum()), int(n_cells.sum()))


def cells_kept(sq_distances: NDArray[np.floating[Any]], share: float) -> NDArray[np.bool_]:
    """Return which cells are not farther than the ``1 - share`` quantile of all.

    Parameters
    ----------
    sq_distances : ndarray of float
        Distances of cells; NaN where there is none, which are kept.
    share : float
        How many are dropped: fewer where distances are equal.

    Examples
    --------
    >>> cells_kept(np.array([3, 1, 2, np.nan, 9], "f4"), 0.25)
    array([ True,  True,  True,  True, False])
    """
    known = sq_distances[~np.isnan(sq_distances)]
    limit = np.quantile(known, 1 - share, method="inverted_cdf")
    return np.asarray(~(sq_distances > limit))


def _sq_distances_to_others(
    normal: NormalFeatures,
    others: LeaveOneOut,
    counts: NDArray[np.bool_] | None,
    how: Mapping[str, Any],
    progress: bool,
) -> NDArray[np.float32]:
    """Return the squared distance of each cell to the nearest of other images.

    Parameters
    ----------
    normal, others, counts, how, progress
        As `find_outliers` takes them.

    Returns
    -------
    ndarray of float32, shape (n_stored, height, width)
        Exact; image by image in the order of the ids. NaN where a cell does not count, and of
        images that are compared with none.
    """
    gallery = normal.gallery
    height, width, _ = gallery.shapes[0]
    found = np.full((len(gallery), height, width), np.nan, np.float32)
    places = {id_: place for place, id_ in enumerate(gallery.ids)}
    with Progress("outliers", len(others.ids), progress) as bar:
        for ids, sq_distances in _compared(normal, others, counts, how):
            if sq_distances is not None:
                found[[places[id_] for id_ in ids]] = sq_distances
            bar.advance(1)
    if counts is not None:
        found[~counts] = np.nan
    return found


def _compared(
    normal: NormalFeatures,
    others: LeaveOneOut,
    counts: NDArray[np.bool_] | None,
    how: Mapping[str, Any],
) -> Iterator[tuple[list[str], NDArray[np.float32] | None]]:
    """Yield, for each image, the ids of its variants and their squared distances."""
    gallery = normal.gallery
    rows = None if counts is None else all_rows(gallery, counts)
    for index, image in enumerate(others.ids):
        ids, left_out = normal.stored.ids_of([image]), others.left_out(index)
        query = gallery.pyramid(ids)
        if rows is not None:
            each = nearest_without(rows, query, [left_out] * len(ids), **how)
            near = [one.sq_distances[..., 0] for one in each if one is not None]
            yield ids, np.concatenate(near) if near else None
            continue
        left = gallery.without(left_out)
        yield ids, left.search(query, **how).sq_distances[..., 0] if len(left) else None


def _shares(
    normal: NormalFeatures, n_lost: NDArray[np.intp], n_cells: NDArray[np.intp]
) -> dict[str, float]:
    """Return the share of its cells that each image loses, of all of its variants."""
    places = {id_: place for place, id_ in enumerate(normal.gallery.ids)}
    shares = {}
    for image in normal.stored.images:
        of_image = [places[id_] for id_ in normal.stored.ids_of([image])]
        if lost := int(n_lost[of_image].sum()):
            shares[image] = lost / int(n_cells[of_image].sum())
    return largest_first(shares)


def largest_first(shares: Mapping[str, float]) -> dict[str, float]:
    """Return the shares of images, largest first; ties by id.

    >>> largest_first({"b": 0.1, "a": 0.1, "c": 0.2})
    {'c': 0.2, 'a': 0.1, 'b': 0.1}
    """
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))
