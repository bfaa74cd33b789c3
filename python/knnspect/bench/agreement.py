"""Whether two searches found the same: exact backends must, others are measured by recall."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from knnspect.bench.cases import Case
from knnspect.errors import DisagreementError
from knnspect.search import Neighbors

__all__ = ["check_agreement", "recall", "tolerance"]

#: Of features that were rounded to float32 after they were interpolated.
_ROUNDING = 2.0**-23


def tolerance(dtype: str) -> float:
    """Return how far distances of exact backends may be apart, relative to them.

    Parameters
    ----------
    dtype : str
        How the gallery keeps features.

    Returns
    -------
    float
        That of the contract of exactness.

    Examples
    --------
    >>> tolerance("float32"), tolerance("int8")
    (1e-05, 0.0001)
    """
    return 1e-5 if dtype == "float32" else 1e-4


def check_agreement(case: Case, index: int, name: str, found: Neighbors, exact: Neighbors) -> None:
    """Raise unless a backend found what the Rust core found, within the contract of exactness.

    Distances have to agree, neighbour by neighbour. Where places differ, the distance to what the
    backend found is computed anew, in float64: it has to be that to what the Rust core found.

    Parameters
    ----------
    case : Case
        Where the features come from.
    index : int
        Which query image.
    name : str
        The backend's name.
    found, exact : Neighbors
        What it found, and what the Rust core found.

    Raises
    ------
    DisagreementError
        At the first cell where they differ; the message names backend, image and cell.

    Examples
    --------
    >>> from knnspect.bench import synthetic_case
    >>> case = synthetic_case([(4, 4, 3)], n_images=2, n_queries=1)
    >>> exact = case.search(0, "rust", None)
    >>> check_agreement(case, 0, "rust", exact, exact)
    >>> wrong = Neighbors(
    ...     exact.sq_distances, 1 - exact.image_index.astype(int), exact.cells, exact.image_ids
    ... )
    >>> check_agreement(case, 0, "wrong", wrong, exact)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    knnspect.errors.DisagreementError: backend 'wrong' disagrees with the Rust core on image 000...
    """
    where = f"backend {name!r} disagrees with the Rust core on image {case.ids[index]}"
    if found.sq_distances.shape != exact.sq_distances.shape:
        raise DisagreementError(
            f"{where}: expected neighbours of shape {exact.sq_distances.shape}, "
            f"got {found.sq_distances.shape}"
        )
    bound = tolerance(case.dtype)
    theirs, ours = (
        side.sq_distances[0].astype(np.float64).reshape(-1, case.k) for side in (found, exact)
    )
    # Written so that a NaN is a difference.
    far = ~(np.abs(theirs - ours) <= bound * ours)
    if far.any():
        cell, rank = np.argwhere(far)[0]
        raise DisagreementError(
            f"{where}, cell {_place(cell, exact)}, neighbour {rank + 1}: expected sq_l2 "
            f"{ours[cell, rank]:.8g} within {bound:g}, got {theirs[cell, rank]:.8g}"
        )
    ids, places, exact_places = _places_of_both(found, exact)
    different = np.flatnonzero((places != exact_places).any(axis=(1, 2)))
    if not len(different):
        return
    _check_distinct(places, different, where, exact)
    rows = case.query_rows(index)
    rows = rows.reshape(-1, rows.shape[-1])[different]
    there = _sq_distances(case, rows, places[different], ids)
    expected = _sq_distances(case, rows, exact_places[different], ids)
    # Interpolated features have been rounded to float32, which matters where they nearly coincide.
    rounding = _ROUNDING * np.linalg.norm(rows.astype(np.float64), axis=1)[:, None]
    allowed = bound * expected + 4 * rounding * np.sqrt(expected) + 2 * rounding**2
    far = ~(np.abs(there - expected) <= allowed)
    if far.any():
        at, rank = np.argwhere(far)[0]
        image, row, column = places[different[at], rank]
        raise DisagreementError(
            f"{where}, cell {_place(different[at], exact)}, neighbour {rank + 1}: expected one at "
            f"sq_l2 {expected[at, rank]:.8g}, got cell ({row}, {column}) of "
            f"{'no image' if image < 0 else ids[image]} at {there[at, rank]:.8g}"
        )


def recall(found: Neighbors, exact: Neighbors) -> float:
    """Return the share of neighbours that are among the exact ones.

    Of several that are equally far the exact search has chosen one; the others are not among them.

    Parameters
    ----------
    found, exact : Neighbors
        Of the same queries, with the same k.

    Returns
    -------
    float
        Between 0 and 1.

    Examples
    --------
    >>> from knnspect.bench import synthetic_case
    >>> exact = synthetic_case([(4, 4, 3)], n_images=2, n_queries=1, k=5).search(0, "rust", None)
    >>> recall(exact, exact)
    1.0
    """
    _, places, exact_places = _places_of_both(found, exact)
    same = (places[:, :, None] == exact_places[:, None]).all(axis=-1)
    return float(same.any(axis=1).mean())


def _places_of_both(
    found: Neighbors, exact: Neighbors
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Ids of images, and image, row and column of each neighbour, shape (n_cells, k, 3).

    Images have the same numbers in both; one that does not exist has -1.
    """
    ids = list(dict.fromkeys((*exact.image_ids, *found.image_ids)))
    number = {id_: n for n, id_ in enumerate(ids)}

    def places(side: Neighbors) -> NDArray[np.int64]:
        numbers = np.array([*(number[id_] for id_ in side.image_ids), -1], np.int64)
        index = side.image_index.astype(np.int64)
        images = numbers[np.where((index >= 0) & (index < len(numbers)), index, -1)]
        both = np.concatenate([images[..., None], side.cells.astype(np.int64)], axis=-1)
        return both.reshape(-1, side.k, 3)

    return ids, places(found), places(exact)


def _place(cell: int, neighbors: Neighbors) -> str:
    row, column = divmod(int(cell), neighbors.sq_distances.shape[2])
    return f"({row}, {column})"


def _check_distinct(
    places: NDArray[np.int64], cells: NDArray[np.intp], where: str, exact: Neighbors
) -> None:
    for cell in cells:
        if len(np.unique(places[cell], axis=0)) < places.shape[1]:
            raise DisagreementError(
                f"{where}, cell {_place(cell, exact)}: expected different neighbours, got one twice"
            )


def _sq_distances(
    case: Case,
    rows: NDArray[np.float32],
    places: NDArray[np.int64],
    ids: list[str],
) -> NDArray[np.float64]:
    """Squared distances of rows to places, in float64, shape (n_cells, k)."""
    sq_distances = np.full(places.shape[:2], np.nan)
    for image in np.unique(places[..., 0]):
        if image < 0:
            continue
        cells, ranks = np.nonzero(places[..., 0] == image)
        normal = case.normal_rows(ids[image], places[cells, ranks, 1:])
        differences = rows[cells].astype(np.float64) - normal
        sq_distances[cells, ranks] = np.square(differences).sum(axis=1)
    return sq_distances
