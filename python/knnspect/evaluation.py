"""How good a detector is on a labelled dataset."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect import _core, metrics
from knnspect.data import MVTecDataset, read_image, read_mask
from knnspect.detectors import Detector, Prediction
from knnspect.errors import ImageError

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
    image_auroc : float
        Area under the ROC curve of the detector's image scores.
    map_max_auroc : float
        The same when the maximum of the map is the score.
    pixel_auroc : float
        The same over all pixels.
    aupro : float
        Per-region overlap up to a false-positive rate of 0.3.
    seconds : dict of str to float
        "features" (reading images included), "gallery" (a coreset included), "training" (of a
        network) and "retrieval" (of normal images) where the detector has such a stage, "matching"
        (maps included), "total".
    peak_memory_mb : float
        Largest resident memory of the process so far, in MB (10^6 bytes).
    version : str
        Of knnspect.
    """

    method: str
    backbone: str
    train_images: int
    test_images: int
    image_auroc: float
    map_max_auroc: float
    pixel_auroc: float
    aupro: float
    seconds: dict[str, float]
    peak_memory_mb: float
    version: str

    def to_dict(self) -> dict[str, Any]:
        """Return the figures under their names, JSON-compatible."""
        return asdict(self)


def evaluate(
    detector: Detector,
    dataset: MVTecDataset,
    *,
    batch_size: int = 16,
    n_workers: int = 2,
    progress: bool = False,
) -> tuple[Evaluation, list[Prediction]]:
    """Fit a detector on a dataset's normal images and judge its test images.

    Nothing is learnt from the test images.

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
        If an image or a mask cannot be used, or the test images are all normal or all defective.
    """
    start = time.perf_counter()
    masks = _Masks(dataset)
    is_defective = [image.is_defective for image in dataset.test]
    for kind, there in (("normal", not all(is_defective)), ("defective", any(is_defective))):
        if not there:
            raise ImageError(f"{dataset.root}: expected test images of both kinds, none is {kind}")
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

    maps = [prediction.map for prediction in predictions]
    truth = [masks.read(index, map_.shape) for index, map_ in enumerate(maps)]
    evaluation = Evaluation(
        method=detector.method,
        backbone=detector.backbone.name,
        train_images=len(dataset.train),
        test_images=len(dataset.test),
        image_auroc=metrics.auroc(is_defective, [p.score for p in predictions]),
        map_max_auroc=metrics.auroc(is_defective, [float(map_.max()) for map_ in maps]),
        pixel_auroc=metrics.pixel_auroc(truth, maps),
        aupro=metrics.aupro(truth, maps),
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


class _Masks:
    """The masks of a dataset, checked before hours of work rather than after."""

    def __init__(self, dataset: MVTecDataset) -> None:
        self._masks = [image.mask for image in dataset.test]
        for image in dataset.test:
            if image.mask is not None:
                height, width, _ = read_image(image.path).shape
                read_mask(image.mask, (height, width))

    def read(self, index: int, size: tuple[int, ...]) -> NDArray[np.bool_]:
        mask = self._masks[index]
        return np.zeros(size, bool) if mask is None else read_mask(mask)
