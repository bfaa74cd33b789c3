"""From what a user has, images or a dataset or a model, to the case that is measured."""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from knnspect.bench.cases import DetectorCase
from knnspect.data import ImageSource, open_to_learn
from knnspect.detectors import Detector, load
from knnspect.errors import ImageError
from knnspect.validation import check_count

__all__ = ["fitted_case", "is_dataset"]


def is_dataset(folder: Path) -> bool:
    """Return whether a folder looks like a dataset in MVTec layout.

    Examples
    --------
    >>> is_dataset(Path("no-such-folder"))
    False
    """
    if not folder.is_dir():
        return False
    there = {entry.name.casefold() for entry in folder.iterdir() if entry.is_dir()}
    return {"train", "test"} <= there


def fitted_case(
    detector: Detector,
    images: object,
    train: object = None,
    n_queries: int = 10,
    *,
    batch_size: int = 16,
    n_workers: int = 2,
    progress: bool = False,
) -> DetectorCase:
    """Fit a detector, and return the case of judging images with it.

    Parameters
    ----------
    detector : Detector
        Spade or PatchCore. It is fitted, and what is measured is a copy that was saved and loaded:
        nothing has been searched in it, so that first searches are those of a new process.
    images : folder, file, list of paths, arrays or PIL images, array, or loader
        The query images. Without `train` they are normal ones: up to `n_queries` of them, evenly
        spaced, and at most half, are the queries, the others are learnt from.
    train : folder, file, list of paths, arrays or PIL images, array, or loader, optional
        The normal images to learn from.
    n_queries : int, default 10
        Query images, at most.
    batch_size, n_workers, progress
        As in `Detector.fit`.

    Returns
    -------
    DetectorCase
        What `run_bench` measures.

    Raises
    ------
    ImageError
        If an image cannot be used, or there are too few.
    ParameterError, DTypeError, StoreError, MemoryError
        As `Detector.fit`.

    Examples
    --------
    >>> from knnspect import Backbone, Spade
    >>> images = np.random.default_rng(0).integers(0, 255, (5, 64, 64, 3)).astype("u1")
    >>> case = fitted_case(Spade(Backbone(image_size=64), image_neighbors=3), images, n_queries=2)
    >>> case.ids, case.about["gallery_images"]
    (['000000', '000004'], 3)
    """
    check_count("n_queries", n_queries)
    if train is None:
        items = list(open_to_learn(images))
        if len(items) < 2:
            raise ImageError("images: expected at least two, one to learn from and one to look up")
        n_held_out = min(n_queries, len(items) // 2)
        held_out = {int(place) for place in np.linspace(0, len(items) - 1, n_held_out)}
        learnt = [item for place, item in enumerate(items) if place not in held_out]
        queries = [items[place] for place in sorted(held_out)]
        train = ImageSource(learnt, len(learnt))
        images = ImageSource(queries, len(queries))
    detector.fit(train, batch_size=batch_size, n_workers=n_workers, progress=progress)
    return DetectorCase(_reopened(detector), images, n_queries, n_workers)


def _reopened(detector: Detector) -> Detector:
    # It stays mapped, so the file goes when the detector does.
    folder = tempfile.TemporaryDirectory(prefix="knnspect-")
    path = Path(folder.name) / "model.ks"
    detector.save(path)
    loaded: Any = load(path, detector.backbone.device)
    weakref.finalize(loaded, folder.cleanup)
    again: Detector = loaded
    return again
