"""Fitting a detector on a dataset, and measuring how good it is."""

from __future__ import annotations

import sys
import time
from copy import copy
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from knnspect import _core, metrics
from knnspect.constraints import Images
from knnspect.data import Labels, MVTecDataset, Need, open_to_judge, open_to_learn
from knnspect.detectors import Prediction
from knnspect.detectors.composed import AnyDetector, Lights
from knnspect.errors import ParameterError
from knnspect.evaluation.figures import DecisionEvaluation, Evaluation, KindEvaluation
from knnspect.extras import require
from knnspect.metrics import PixelScores

__all__ = ["evaluate", "peak_memory_mb"]

_NEEDS: dict[str, Need] = {
    "image_auroc": "images",
    "image_average_precision": "images",
    "image_f1_max": "images",
    "map_max_auroc": "images",
    "pixel_auroc": "pixels",
    "pixel_average_precision": "pixels",
    "pixel_f1_max": "pixels",
    "aupro": "pixels",
    "aupro_05": "pixels",
    "aupimo": "normal images' pixels",
}

_NEEDS_OF_IMAGES: dict[str, Need] = {k: need for k, need in _NEEDS.items() if need == "images"}
_SEVERAL = "a part has several pictures"

#: Figures that are defined where others are.
_DEFINED_WITH = {
    "image_f1_max_threshold": "image_f1_max",
    "pixel_f1_max_threshold": "pixel_f1_max",
    "aupimo_median": "aupimo",
}


#: Those that do not depend on how many images, or pixels, are defective.
_OF_KINDS = ("image_auroc", "pixel_auroc", "aupro", "aupro_05", "aupimo")


def evaluate(
    detector: AnyDetector,
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
    detector : Detector or Composed
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
    ParameterError
        If the detector's `defects` are among the test images.
    MissingPackageError
        If scikit-learn is not installed.

    Warns
    -----
    DatasetWarning
        Before the work: figures are not defined, or `Labels` has something to say of masks.
    """
    require("sklearn", for_="an evaluation")  # before the work, not after it
    start = time.perf_counter()
    _refuse_tested(detector, dataset)
    judged, needs = [image.path for image in dataset.test], _NEEDS
    if isinstance(detector, Lights):
        dataset, needs = _of_parts(dataset, detector), _NEEDS_OF_IMAGES
    labels = Labels(
        dataset, detector.backbone.max_pixels, needs, detector.backbone.reader_of_sizes()
    )
    labels.undefined |= dict.fromkeys(_NEEDS.keys() - needs.keys(), _SEVERAL)
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
        for prediction in detector.iter_predict(judged, **options)
    ]
    for stage, value in detector.seconds_.items():
        seconds[stage] = seconds.get(stage, 0.0) + value
    total = time.perf_counter() - start

    of_pixels = _figures_of_pixels(labels, predictions, detector)
    figures = _figures_of_images(labels, predictions) | of_pixels.figures
    undefined = labels.undefined | {
        name: labels.undefined[other]
        for name, other in _DEFINED_WITH.items()
        if other in labels.undefined
    }
    kinds = dict.fromkeys(image.defect for image in dataset.test if image.is_defective)
    paths = [image.path.relative_to(dataset.root).as_posix() for image in dataset.test]
    evaluation = Evaluation(
        method=detector.method,
        backbone=str(detector.backbone.name),
        train_images=detector.n_images_ if needs is not _NEEDS else len(dataset.train),
        test_images=len(dataset.test),
        **{name: figures.get(name) for name in (*_NEEDS, *_DEFINED_WITH)},
        aupimo_by_image={paths[i]: overlap for i, overlap in of_pixels.overlaps.items()},
        kinds={kind: _kind(kind, labels, predictions, of_pixels) for kind in kinds},
        decisions=_decisions(labels, predictions, detector, of_pixels),
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
        undefined=undefined,
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


def _figures_of_images(labels: Labels, predictions: list[Prediction]) -> dict[str, float]:
    """Return the figures of images, if they are defined."""
    if "image_auroc" in labels.undefined:
        return {}
    truth, scores = labels.is_defective, [_finite(prediction) for prediction in predictions]
    best = metrics.f1_max(truth, scores)
    return {
        "image_auroc": metrics.auroc(truth, scores),
        "image_average_precision": metrics.average_precision(truth, scores),
        "image_f1_max": best.f1,
        "image_f1_max_threshold": best.threshold,
        "map_max_auroc": metrics.auroc(truth, [float(p.map.max()) for p in predictions]),
    }


def _of_parts(dataset: MVTecDataset, detector: Lights) -> MVTecDataset:
    """Return a dataset of parts: of each the first of its pictures."""
    parts = copy(dataset)
    pictures = open_to_judge([image.path for image in dataset.test])
    by_id = {item.id: image for item, image in zip(pictures, dataset.test, strict=True)}
    parts.test = [by_id[id_] for id_ in detector.first_pictures(pictures)]
    return parts


def _finite(prediction: Prediction) -> float:
    """Return the score; of a part that was not found the largest number that there is."""
    return min(prediction.score, sys.float_info.max)


@dataclass
class _OfPixels:
    """The figures of pixels, those that are defined."""

    figures: dict[str, float] = field(default_factory=dict)  # of all images
    overlaps: dict[int, float] = field(default_factory=dict)  # by the number of the image
    kinds: dict[str, dict[str, float]] = field(default_factory=dict)
    f1: float | None = None  # at the threshold of pixels, if there is one


def _refuse_tested(detector: AnyDetector, dataset: MVTecDataset) -> None:
    """Raise a ParameterError if a detector would learn from defects that it is tested on."""
    given = getattr(detector, "defects", None)
    if given is None:
        return
    tested = {item.digest(): item.id for item in open_to_judge([i.path for i in dataset.test])}
    for item in open_to_learn(Images.given(given)):
        if item.digest() in tested:
            raise ParameterError(
                f"defects: {item.id} is the test image {tested[item.digest()]}, too: expected "
                "images that are not tested",
                parameter="defects",
            )


def _figures_of_pixels(
    labels: Labels, predictions: list[Prediction], detector: AnyDetector
) -> _OfPixels:
    found = _OfPixels()
    if "pixel_auroc" in labels.undefined:
        return found
    masks, maps = labels.pixels([prediction.map for prediction in predictions])

    def scores(places: list[int]) -> PixelScores:
        return PixelScores([masks[i] for i in places], [maps[i] for i in places])

    good: list[int] = []
    places: dict[str, list[int]] = {}  # of defective images, by their kind
    for place, image in enumerate(labels.in_pixels):
        is_defective = labels.is_defective[image]
        (places.setdefault(labels.kinds[image], []) if is_defective else good).append(place)
    normal = scores(good)  # sorted once for the whole and for all kinds
    defective = [place for of_kind in places.values() for place in of_kind]
    whole = normal + scores(defective)
    best = whole.f1_max()
    found.figures = _ranking(whole) | {
        "pixel_average_precision": whole.average_precision(),
        "pixel_f1_max": best.f1,
        "pixel_f1_max_threshold": best.threshold,
    }
    if not detector.uncalibrated and whole.n_defective:
        found.f1 = whole.f1(predictions[0].pixel_threshold)
    if "aupimo" not in labels.undefined:
        overlaps = whole.aupimo()[len(good) :]
        found.figures["aupimo"] = float(overlaps.mean())
        found.figures["aupimo_median"] = float(np.median(overlaps))
        found.overlaps = {
            labels.in_pixels[place]: float(overlap)
            for place, overlap in zip(defective, overlaps, strict=True)
        }
    for kind, of_kind in places.items():
        pixels = whole if len(places) == 1 else normal + scores(of_kind)
        found.kinds[kind] = _ranking(pixels) if pixels.n_normal else {}
        if found.overlaps:
            own = [found.overlaps[labels.in_pixels[place]] for place in of_kind]
            found.kinds[kind]["aupimo"] = float(np.mean(own))
    return found


def _decisions(
    labels: Labels, predictions: list[Prediction], detector: AnyDetector, of_pixels: _OfPixels
) -> DecisionEvaluation:
    calibration = detector.calibration_
    if calibration is None or detector.uncalibrated:
        names = [each.name for each in fields(DecisionEvaluation)]
        why = f"the detector has no calibration: {detector.uncalibrated}"
        return DecisionEvaluation(undefined=dict.fromkeys(names[:-1], why))
    rates = metrics.decision_rates(
        labels.is_defective, [p.is_anomalous for p in predictions], labels.kinds
    )
    undefined = dict(rates.undefined)
    image_f1 = None
    threshold = predictions[0].threshold
    if "image_f1_max" in labels.undefined:
        undefined["image_f1"] = labels.undefined["image_f1_max"]
    else:
        scores = [_finite(prediction) for prediction in predictions]
        image_f1 = metrics.f1(labels.is_defective, scores, threshold)
    if of_pixels.f1 is None:
        undefined["pixel_f1"] = labels.undefined.get("pixel_f1_max", "no pixel is defective")
    return DecisionEvaluation(
        false_alarm_rate=calibration.rate(detector.false_alarm_rate),
        threshold=threshold,
        pixel_threshold=predictions[0].pixel_threshold,
        guarantee=calibration.guarantee,
        false_alarms=rates.false_alarms,
        detections=rates.detections,
        kinds=rates.kinds,
        image_f1=image_f1,
        pixel_f1=of_pixels.f1,
        undefined=undefined,
    )


def _ranking(pixels: PixelScores) -> dict[str, float]:
    return {
        "pixel_auroc": pixels.auroc(),
        "aupro": pixels.aupro(),
        "aupro_05": pixels.aupro(0.05),
    }


def _kind(
    kind: str, labels: Labels, predictions: list[Prediction], of_pixels: _OfPixels
) -> KindEvaluation:
    """Return the figures of one kind, and why some are not defined."""
    both = zip(labels.kinds, labels.is_defective, strict=True)
    chosen = [i for i, (own, flag) in enumerate(both) if own == kind or not flag]
    truth = [labels.is_defective[i] for i in chosen]
    figures: dict[str, float | None] = dict.fromkeys(_OF_KINDS)
    if "image_auroc" not in labels.undefined:
        figures["image_auroc"] = metrics.auroc(truth, [_finite(predictions[i]) for i in chosen])
    figures |= of_pixels.kinds.get(kind, {})
    reason = (
        "the masks mark every pixel, and no test image is normal"
        if kind in of_pixels.kinds
        else "no image has a mask that marks a pixel"
    )
    missing = [name for name, value in figures.items() if value is None]
    return KindEvaluation(
        images=sum(truth),
        **figures,
        undefined={name: labels.undefined.get(name, reason) for name in missing},
    )
