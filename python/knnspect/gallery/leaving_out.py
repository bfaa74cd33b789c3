"""The nearest row of a coreset that did not come from some images."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.gallery.coreset import Coreset
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Neighbors

__all__ = ["nearest_without"]

#: So many nearest rows of a cell are looked at first, then so many where all of them are hidden.
_STEPS = (1, 8, 64)


def nearest_without(
    coreset: Coreset, query: FeaturePyramid, ids: Collection[str], **how: Any
) -> Neighbors | None:
    """Return the nearest row of each cell, but for rows that came from some images.

    Return None if no other row is there.

    The same as ``coreset.without(ids).search(query)``, but for `image_ids`, which are all. Most
    cells have one among a few nearest rows of all; that takes less time than a coreset without
    some rows, for which an index is to be made.

    Parameters
    ----------
    coreset : Coreset
        What is searched.
    query : FeaturePyramid
        One image.
    ids : collection of str
        Some of ``coreset.image_ids``.
    **how
        As `Coreset.search` takes them.

    Examples
    --------
    >>> from knnspect import Gallery
    >>> gallery = Gallery()
    >>> rows = np.arange(8, dtype="f4").reshape(2, 2, 2, 1)
    >>> _ = gallery.add(FeaturePyramid([rows]), ids=["a", "b"])
    >>> found = nearest_without(gallery.coreset(8), gallery.pyramid(["a"]), ["a"])
    >>> found.sq_distances[0, ..., 0].tolist()
    [[16.0, 9.0], [4.0, 1.0]]
    """
    hidden_ids = set(ids)
    hidden = np.array([id_ in hidden_ids for id_ in coreset.image_ids], bool)
    if hidden[coreset.image_index].all():
        return None
    how.pop("window", None)  # rows have no place
    rows = query.concatenated(coreset.upsample)[0]  # type: ignore[arg-type]
    shape = rows.shape[:2]
    rows = rows.reshape(-1, rows.shape[-1])
    sq_distances = np.empty(len(rows), np.float32)
    image_index = np.empty(len(rows), np.uint32)
    cells = np.empty((len(rows), 2), np.uint32)
    open_ = np.arange(len(rows))  # cells of which all rows found so far are hidden
    for k in _STEPS:
        found = _of_rows(coreset, rows[open_], min(k, len(coreset)), how)
        is_hidden = hidden[found.image_index[0, :, 0]]
        settled = ~is_hidden.all(axis=-1)
        at, first = np.flatnonzero(settled), is_hidden.argmin(axis=-1)[settled]
        sq_distances[open_[settled]] = found.sq_distances[0, at, 0, first]
        image_index[open_[settled]] = found.image_index[0, at, 0, first]
        cells[open_[settled]] = found.cells[0, at, 0, first]
        open_ = open_[~settled]
        if not len(open_):
            break
    else:
        left = coreset.without([id_ for id_ in coreset.image_ids if id_ in hidden_ids])
        found = _of_rows(left, rows[open_], 1, how)
        places = np.flatnonzero(~hidden).astype(np.uint32)
        sq_distances[open_] = found.sq_distances[0, :, 0, 0]
        image_index[open_] = places[found.image_index[0, :, 0, 0]]
        cells[open_] = found.cells[0, :, 0, 0]
    return Neighbors(
        sq_distances.reshape(1, *shape, 1),
        image_index.reshape(1, *shape, 1),
        cells.reshape(1, *shape, 1, 2),
        coreset.image_ids,
    )


def _of_rows(coreset: Coreset, rows: NDArray[Any], k: int, how: dict[str, Any]) -> Neighbors:
    """Return the nearest rows of rows of upsampled, concatenated features: (n, channels)."""
    return coreset.evidence(coreset.bank.search(FeaturePyramid([rows[None, :, None]]), k, **how))
