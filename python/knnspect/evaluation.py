"""How good a detector is on a labelled dataset."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from knnspect import _core, metrics
from knnspect.data import Labels, MVTecDataset
from knnspect.detectors import Detector, Prediction

__all__ = ["Evaluation", "evaluate", "peak_memory_mb"]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measures; areas are between 0 and 1.

    Parameters
    ----------
    method : str
        The detector.
    backbone : str
        Its backbone.
    train_images, test_images : int
        Number of images learnt from, and judged.
    image_auroc : float or None
        Area under the ROC curve of the detector's image scores. None, as the three that follow,
        where it is not defined.
    map_max_auroc : float or None
        The same when the maximum of the map is the score.
    pixel_auroc : float or None
        The same over all pixels; of defective images those count whose mask marks some of them.
    aupro : float or None
        Per-region overlap up to a false-positive rate of 0.3, over the same pixels.
    seconds : dict of str to float
        "features" (reading images included), "gallery" (a coreset included), "training" (of a
        network) and "retrieval" (of normal images) where the detector has such a stage, "matching"
        (maps included), "total".
    peak_memory_mb : float
        Largest resident memory of the process so far, in MB (10^6 bytes).
    version : str
        Of knnspect.
    undefined : dict of str to str
        Why figures are None, by their names.
    notes : list of str
        What is to be known about the labels, such as images without a mask.
    """

    method: str
    backbone: str
    train_images: int
    test_images: int
    image_auroc: float | None
    map_max_auroc: float | None
    pixel_auroc: float | None
    aupro: float | None
    seconds: dict[str, float]
    peak_memory_mb: float
    version: str
    undefined: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures under their names, JSON-compatible.

        "undefined" and "notes" are there only if there is something to say.
        """
        figures = asdict(self)
        return {k: v for k, v in figures.items() if v or k not in ("undefined", "notes")}


def evaluate(
    detector: Detector,
    dataset: MVTecDataset,
    *,
    batch_size: int = 16,
    n_workers: int = 2,
    progress: bool = False,
) -> tuple[Evaluation, list[Prediction]]:
    """Fit a detector on a dataset's normal images and judge its test images.

    Nothing is learnt from the test images. All masks are read before the work; figures that are
    not defined, as there are no masks or no test images of one kind, are None.

    Parameters
    ----------
    detector : Detector
        It is fitted anew.
    dataset : MVTecDataset
        Images and masks.
    batch_size, n_workers, progress
        As in `Detector.fit`.

    Returns
    -------
    evaluation : Evaluation
        The figures.
    predictions : list of Prediction
        One per test image, in the order of ``dataset.test``, without their neighbours.

    Raises
    ------
    ImageError
        If an image or a mask cannot be used.

    Warns
    -----
    DatasetWarning
        Before the work: figures are not defined, or `Labels` has something to say of masks.
    """
    start = time.perf_counter()
    labels = Labels(dataset, detector.backbone.max_pixels)
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "n_workers": n_workers,
        "progress": progress,
    }
    detector.fit(dataset.train, **options)
    seconds = dict(detector.seconds_)
    # Without their neighbours, which take more memory than all the rest.
    predictions = [
        replace(prediction, neighbors=None)
        for prediction in detector.iter_predict([image.path for image in dataset.test], **options)
    ]
    for stage, value in detector.seconds_.items():
        seconds[stage] = seconds.get(stage, 0.0) + value
    total = time.perf_counter() - start

    areas = _areas(labels, predictions)
    evaluation = Evaluation(
        method=detector.method,
        backbone=detector.backbone.name,
        train_images=len(dataset.train),
        test_images=len(dataset.test),
        **areas,
        seconds={
            "features": seconds["decode"] + seconds["features"],
            "gallery": seconds["gallery"] + seconds.get("coreset", 0.0),
            **(
                {"training": seconds["training"] + seconds["calibration"]}
                if "training" in seconds
                else {}
            ),
            **({"retrieval": seconds["retrieval"]} if "retrieval" in seconds else {}),
            "matching": seconds["matching"] + seconds["maps"],
            "total": total,
        },
        peak_memory_mb=peak_memory_mb(),
        version=_core.__version__,
        undefined=labels.undefined,
        notes=labels.notes,
    )
    return evaluation, predictions


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far, in MB (10^6 bytes).

    Examples
    --------
    >>> peak_memory_mb() > 1
    True
    """
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest * (1 if sys.platform == "darwin" else 1024) / 1e6


def _areas(labels: Labels, predictions: list[Prediction]) -> dict[str, float | None]:
    """Return the figures of accuracy; None where they are not defined."""
    maps = [prediction.map for prediction in predictions]
    areas: dict[str, float | None] = dict.fromkeys(labels.undefined)
    if "image_auroc" not in areas:
        truth = labels.is_defective
        areas["image_auroc"] = metrics.auroc(truth, [p.score for p in predictions])
        areas["map_max_auroc"] = metrics.auroc(truth, [float(map_.max()) for map_ in maps])
    if "pixel_auroc" not in areas:
        masks, theirs = labels.pixels(maps)
        areas["pixel_auroc"] = metrics.pixel_auroc(masks, theirs)
        areas["aupro"] = metrics.aupro(masks, theirs)
    return areas
