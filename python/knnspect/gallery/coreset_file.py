"""Reading coresets from files, and checking them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.files import parse_json
from knnspect.validation import check_choice, check_count, check_ids, check_positive

__all__ = ["Parts", "read_parts"]

#: The arguments of `Coreset.from_rows`.
Parts = tuple[
    NDArray[np.float32],
    tuple[str, ...],
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int64],
    str,
    list[tuple[int, int, int]],
    "float | None",
]


def read_parts(store: _core.Store) -> Parts:
    """Return the parts of a coreset in an open file.

    Raises
    ------
    Exception
        Of many kinds, if there is none or its parts do not fit each other: the caller says that the
        file is damaged.
    """
    settings = parse_json(store.metadata["coreset"], store.path, "its coreset")
    bank = _core.Gallery.from_store(store)
    if (len(bank), bank.dtype, [height for height, _, _ in bank.shapes]) != (1, "float32", [1]):
        raise ValueError("its rows are no float32 image of one level and one row")
    rows: NDArray[np.float32] = bank.image(bank.ids[0])[0][0]
    image_index, cells, order = arrays = [
        store.tensor(f"coreset.{name}") for name in ("image_index", "cells", "order")
    ]
    ids = check_ids(settings["image_ids"], "image_ids")
    shapes = [
        (check_count("height", h), check_count("width", w), check_count("channels", c))
        for h, w, c in settings["shapes"]
    ]
    sq_radius = settings["sq_radius"]
    if sq_radius is not None:
        sq_radius = check_positive("sq_radius", sq_radius, or_zero=True)
    n, n_features = rows.shape
    if (
        any(array.dtype != np.int64 for array in arrays)
        or [array.shape for array in arrays] != [(n,), (n, 2), (n,)]
        or not np.array_equal(np.sort(order), np.arange(n))
        or sorted(set(ids)) != ids
        or image_index.min() < 0
        or image_index.max() >= len(ids)
        or (cells < 0).any()
        or (cells >= shapes[0][:2]).any()
        or sum(channels for _, _, channels in shapes) != n_features
    ):
        raise ValueError("its parts do not fit each other")
    upsample = check_choice("upsample", settings["upsample"], ["bilinear", "block"])
    return rows, tuple(ids), image_index, cells, order, upsample, shapes, sq_radius
