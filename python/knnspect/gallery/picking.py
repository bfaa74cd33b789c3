"""Which rows of a gallery a coreset keeps."""

from __future__ import annotations

import sys

import numpy as np

from knnspect import _core
from knnspect.errors import ParameterError
from knnspect.gallery.coreset import Coreset
from knnspect.gallery.reading import ReadOnlyGallery
from knnspect.progress import Progress
from knnspect.validation import check_count, check_positive

__all__ = ["pick_coreset"]


def pick_coreset(
    gallery: ReadOnlyGallery,
    size: int | float,
    seed: int,
    projection: int | None,
    threads: int | None,
    progress: bool,
) -> Coreset:
    """Pick the rows of a coreset; see `Gallery.coreset`."""
    count = _count(size, gallery)
    rng = np.random.default_rng(check_count("seed", seed, 0))
    height, width, _ = gallery.shapes[0]
    image, cell = divmod(int(rng.integers(len(gallery) * height * width)), height * width)
    matrix = None
    if projection is not None:
        n_columns = check_count("projection", projection)
        n_features = sum(channels for _, _, channels in gallery.shapes)
        matrix = rng.standard_normal((n_features, n_columns)) / np.sqrt(n_columns)
        matrix = matrix.astype(np.float32)
    if threads is not None:
        threads = min(check_count("threads", threads), sys.maxsize)
    with Progress("coreset", count, progress, unit="rows") as bar:
        picks = _core.pick_rows(
            gallery.core,
            count,
            (image, cell),
            matrix,
            threads,
            None,
            bar.reach if progress else None,
        )
        bar.reach(len(picks.rows))
    by_place = np.lexsort((picks.cells, picks.ranks))
    order = np.empty(len(by_place), np.int64)
    order[by_place] = np.arange(len(by_place))
    cells = np.stack(np.divmod(picks.cells[by_place].astype(np.int64), width), axis=-1)
    return Coreset.from_rows(
        np.ascontiguousarray(picks.rows[by_place]),
        tuple(picks.ids),
        picks.ranks[by_place].astype(np.int64),
        cells,
        order,
        gallery.upsample,
        gallery.shapes,
        None if matrix is not None else picks.sq_radius,
    )


def _count(size: object, gallery: ReadOnlyGallery) -> int:
    if not len(gallery):
        raise ParameterError("the gallery is empty: add images first")
    height, width, _ = gallery.shapes[0]
    n_rows = len(gallery) * height * width
    if isinstance(size, (float, np.floating)):
        share = check_positive("size", size)
        if share > 1:
            raise ParameterError(
                f"size: expected a share of at most 1.0, got {size}", parameter="size"
            )
        return max(1, round(share * n_rows))
    count = check_count("size", size)
    if count > n_rows:
        raise ParameterError(
            f"size: expected at most the number of rows, {n_rows}, got {count}", parameter="size"
        )
    return count
