"""The nearest row of a coreset that did not come from some images."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.backends import RustBackend, get_backend
from knnspect.gallery.coreset import Coreset
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Neighbors

__all__ = ["nearest_without"]

#: So many nearest rows of a cell are looked at first, then so many where all of them are hidden.
_STEPS = (1, 8, 64)


def nearest_without(
    coreset: Coreset, query: FeaturePyramid, ids: Sequence[Collection[str]], **how: Any
) -> list[Neighbors | None]:
    """Return the nearest row of each cell, but for rows that came from some images.

    For each query image, None if no other row is there, or the same as
    ``coreset.without(ids).search(query)``, but for `image_ids`, which are all. It takes less time,
    as no index is made of the rows that are left: the Rust core passes over the others. For other
    backends most cells have one among a few nearest rows of all.

    Parameters
    ----------
    coreset : Coreset
        What is searched.
    query : FeaturePyramid
        Some images.
    ids : sequence of collections of str
        For each of them, some of ``coreset.image_ids``.
    **how
        As `Coreset.search` takes them.

    Examples
    --------
    >>> from knnspect import Gallery
    >>> gallery = Gallery()
    >>> rows = np.arange(8, dtype="f4").reshape(2, 2, 2, 1)
    >>> _ = gallery.add(FeaturePyramid([rows]), ids=["a", "b"])
    >>> (found,) = nearest_without(gallery.coreset(8), gallery.pyramid(["a"]), [["a"]])
    >>> found.sq_distances[0, ..., 0].tolist()
    [[16.0, 9.0], [4.0, 1.0]]
    """
    places = {id_: place for place, id_ in enumerate(coreset.image_ids)}
    hidden = np.zeros((query.n_images, len(places)), bool)
    for of_image, left_out in zip(hidden, ids, strict=True):
        of_image[[places[id_] for id_ in left_out if id_ in places]] = True
    has_rows = ~hidden[:, coreset.image_index].all(axis=1)
    how.pop("window", None)  # rows have no place
    backend = get_backend(how.get("backend", "auto"))
    each: list[Neighbors | None] = [None] * query.n_images
    searched = np.flatnonzero(has_rows).tolist()
    if not isinstance(backend, RustBackend):
        for image in searched:
            each[image] = _by_steps(coreset, query[image], hidden[image], how)
    elif searched:
        runs = [_runs(hidden[image][coreset.image_index]) for image in searched]
        strips = []
        for rows in query[searched].concatenated_in_strips(coreset.upsample):  # type: ignore[arg-type]
            search = coreset.bank.prepare(FeaturePyramid([rows]), threads=how.get("threads"))
            strips.append(search.by_core(backend.instruction_set, backend.matcher, runs))
        found = coreset.evidence(Neighbors.below_each_other(strips))
        for at, image in enumerate(searched):
            each[image] = found[at]
    return each


def _runs(is_hidden: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the runs of rows that are hidden: the first, and one after the last."""
    ends = np.flatnonzero(np.diff(is_hidden, prepend=False, append=False))
    return [(int(start), int(end)) for start, end in ends.reshape(-1, 2)]


def _by_steps(
    coreset: Coreset, query: FeaturePyramid, hidden: NDArray[np.bool_], how: dict[str, Any]
) -> Neighbors:
    """Find the nearest row that is not hidden for each cell of an image, by any backend."""
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
        left = coreset.without([coreset.image_ids[place] for place in np.flatnonzero(hidden)])
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
