"""Which rows of an image a coreset takes, and which a defect has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.corrections import Added, Rows
from knnspect.detectors.nearest.compared import Counts
from knnspect.detectors.prediction import Prediction
from knnspect.gallery import Coreset
from knnspect.gallery.growing import grown, rows_to_take
from knnspect.normal_features import NormalFeatures

__all__ = ["added_images", "defect_rows", "rows_taken"]

#: Images whose rows are compared with each other when a coreset takes some of them.
_N_TOGETHER = 8
#: Cells of a defect that are remembered at most: those with the largest values.
_MOST_CELLS = 256


def rows_taken(
    coreset: Coreset,
    normal: NormalFeatures,
    counts_of: Callable[[str], Counts],
    reach: float | None,
    **how: Any,
) -> dict[str, Rows]:
    """Return the rows of images that a coreset takes, by their ids in the gallery.

    Parameters
    ----------
    coreset : Coreset
        What is there.
    normal : NormalFeatures
        The images.
    counts_of : callable
        Returns which cells of an image count.
    reach : float or None
        The squared distance from which on rows are taken; None: all that count are.
    **how
        As `Coreset.search` takes them.
    """
    ids = normal.gallery.ids
    taken: dict[str, Rows] = {}
    for start in range(0, len(ids), _N_TOGETHER):
        part = ids[start : start + _N_TOGETHER]
        cells, rows, of = _rows_that_count(normal, part, counts_of)
        places = np.arange(len(rows))
        if reach is not None:
            places = rows_to_take(coreset, rows, reach, **how)
        new = {
            id_: Rows(cells[mine], rows[mine])
            for number, id_ in enumerate(part)
            for mine in [places[of[places] == number]]
        }
        taken |= new
        if reach is not None:
            coreset = grown(coreset, {k: (v.cells, v.features) for k, v in new.items()})
    return taken


def _rows_that_count(
    normal: NormalFeatures, ids: list[str], counts_of: Callable[[str], Counts]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Return cells and rows of images, and the number of the image of each."""
    cells, rows, of = [], [], []
    for number, id_ in enumerate(ids):
        features: NDArray[np.float32] = normal.gallery.pyramid([id_]).concatenated(
            normal.gallery.upsample  # type: ignore[arg-type]
        )[0]
        counts = counts_of(id_)
        there = np.ones(features.shape[:2], bool) if counts is None else counts
        cells.append(np.argwhere(there))
        rows.append(features[there])
        of.append(np.full(len(rows[-1]), number))
    return np.concatenate(cells), np.concatenate(rows), np.concatenate(of)


def added_images(
    normal: NormalFeatures, files: Mapping[str, str], rows: Mapping[str, Rows]
) -> dict[str, Added]:
    """Return what a history keeps of images."""
    return {
        image: Added(
            normal.sizes[image],
            normal.digests[image],
            files[image],
            normal.thumbnails.get(image, b""),
            {id_: rows[id_] for id_ in normal.stored.ids_of([image]) if id_ in rows},
        )
        for image in normal.stored.images
    }


def defect_rows(prediction: Prediction, normal: NormalFeatures) -> Rows:
    """Return the rows of the only image of `normal` where it is anomalous.

    These are the cells whose middle lies in the mask; where there is none, or no calibration, the
    cell with the largest value.
    """
    (image,) = normal.stored.images
    placement = normal.placement(image)
    features: NDArray[np.float32] = normal.gallery.pyramid([image]).concatenated(
        normal.gallery.upsample  # type: ignore[arg-type]
    )[0]
    height, width = features.shape[:2]
    rows, columns = placement.middles((height, width))
    inside = np.argwhere(np.isfinite(rows)[:, None] & np.isfinite(columns)[None])
    last = np.array(prediction.map.shape) - 1
    at = np.stack([rows[inside[:, 0]], columns[inside[:, 1]]], axis=-1)
    pixels = np.clip(np.floor(at).astype(int), 0, last)
    values = prediction.map[pixels[:, 0], pixels[:, 1]]
    is_anomalous = np.zeros(len(values), bool)
    if prediction.calibration is not None:
        is_anomalous = values > prediction.pixel_threshold
    if not is_anomalous.any():
        is_anomalous[values.argmax()] = True
    strongest = np.flatnonzero(is_anomalous)[np.argsort(-values[is_anomalous], kind="stable")]
    cells = inside[np.sort(strongest[:_MOST_CELLS])]
    return Rows(cells, features[cells[:, 0], cells[:, 1]])
