"""Which rows of a gallery a coreset keeps."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.errors import ParameterError
from knnspect.gallery.coreset import Coreset
from knnspect.gallery.picking_in_two_rounds import pick_in_two_rounds
from knnspect.gallery.picking_over_shards import (
    Picked,
    PickingTask,
    SpreadRows,
    over_cluster,
    pick_over_shards,
)
from knnspect.gallery.reading import ReadOnlyGallery
from knnspect.progress import Progress
from knnspect.validation import check_count, check_positive

__all__ = ["all_rows", "pick_coreset"]


def pick_coreset(
    gallery: ReadOnlyGallery,
    size: int | float,
    seed: int,
    projection: int | None,
    threads: int | None,
    progress: bool,
    kept: NDArray[np.bool_] | None = None,
    cluster: str | None = None,
    two_rounds: bool = False,
) -> Coreset:
    """Pick the rows of a coreset; see `Gallery.coreset`, and `ShardedGallery.coreset`.

    `kept`, of shape (n_images, height, width), says which cells of the finest level there are to
    pick from, image by image in the order of the ids; the others are as if they were not there, and
    a share is one of these.
    """
    if not len(gallery):
        raise ParameterError("the gallery is empty: add images first")
    gallery = gallery.without([])  # as it is now, whatever other threads do to it
    shards = gallery._shards
    task = _task(gallery, size, seed, projection, threads, kept)
    with Progress("coreset", task.count, progress, unit="rows") as bar:
        report = bar.reach if progress else None
        if shards is None or (cluster is None and not two_rounds):
            picked = _pick_here(gallery, task, report)
        else:
            height, width, _ = gallery.shapes[0]
            spread = SpreadRows(shards, gallery.ids, height * width)
            with over_cluster(cluster, spread, task) as crew:
                if two_rounds:
                    picked = pick_in_two_rounds(crew, spread, task, seed)
                else:
                    picked = pick_over_shards(crew, spread, task, report or _silent)
        bar.reach(len(picked.rows))
    return _coreset(gallery, picked, task.projection is None)


def _task(
    gallery: ReadOnlyGallery,
    size: int | float,
    seed: int,
    projection: int | None,
    threads: int | None,
    kept: NDArray[np.bool_] | None,
) -> PickingTask:
    height, width, _ = gallery.shapes[0]
    n_rows = len(gallery) * height * width
    places = None
    if kept is not None:
        places = np.flatnonzero(_checked_kept(kept, (len(gallery), height, width)))
        n_rows = len(places)
    count = _count(size, n_rows)
    rng = np.random.default_rng(check_count("seed", seed, 0))
    first = int(rng.integers(n_rows))
    matrix = None
    if projection is not None:
        n_columns = check_count("projection", projection)
        n_features = sum(channels for _, _, channels in gallery.shapes)
        matrix = rng.standard_normal((n_features, n_columns)) / np.sqrt(n_columns)
        matrix = matrix.astype(np.float32)
    if threads is not None:
        threads = min(check_count("threads", threads), sys.maxsize)
    return PickingTask(
        count, first if places is None else int(places[first]), kept, matrix, threads
    )


def _pick_here(
    gallery: ReadOnlyGallery, task: PickingTask, report: Callable[[int], object] | None
) -> Picked:
    height, width, _ = gallery.shapes[0]
    kept = task.kept
    picks = _core.pick_rows(
        gallery.core,
        task.count,
        divmod(task.first, height * width),
        None if kept is None else np.ascontiguousarray(kept).reshape(-1),
        task.projection,
        task.threads,
        None,
        report,
    )
    return Picked(picks.ranks, picks.cells, picks.rows, picks.sq_radius)


def _coreset(gallery: ReadOnlyGallery, picked: Picked, is_exact: bool) -> Coreset:
    """Return picked rows as a coreset; without a projection their radius is one."""
    width = gallery.shapes[0][1]
    by_place = np.lexsort((picked.cells, picked.ranks))
    order = np.empty(len(by_place), np.int64)
    order[by_place] = np.arange(len(by_place))
    cells = np.stack(np.divmod(picked.cells[by_place].astype(np.int64), width), axis=-1)
    return Coreset.from_rows(
        np.ascontiguousarray(picked.rows[by_place]),
        gallery.image_ids,
        picked.ranks[by_place].astype(np.int64),
        cells,
        order,
        gallery.upsample,
        gallery.shapes,
        picked.sq_radius if is_exact else None,
    )


def _silent(n_picked: int) -> None:
    pass


def all_rows(gallery: ReadOnlyGallery, kept: NDArray[np.bool_]) -> Coreset:
    """Return a coreset of all rows that are `kept`, in the order of images and cells."""
    height, width, _ = gallery.shapes[0]
    kept = _checked_kept(kept, (len(gallery), height, width))
    rows = [
        gallery.pyramid([id_]).concatenated(gallery.upsample)[0][of_image]  # type: ignore[arg-type]
        for id_, of_image in zip(gallery.ids, kept, strict=True)
    ]
    places = np.argwhere(kept)
    return Coreset.from_rows(
        np.concatenate(rows),
        tuple(gallery.ids),
        places[:, 0],
        places[:, 1:],
        np.arange(len(places)),
        gallery.upsample,
        gallery.shapes,
        0.0,
    )


def _checked_kept(kept: NDArray[np.bool_], shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    if kept.shape != shape or kept.dtype != bool:
        raise ParameterError(
            f"kept: expected bool of shape {shape}, got {kept.dtype} of shape {kept.shape}",
            parameter="kept",
        )
    if not kept.any():
        raise ParameterError(
            "kept: expected at least one cell that is kept, got none: the mask hides everything",
            parameter="kept",
        )
    return kept


def _count(size: object, n_rows: int) -> int:
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
