"""The figures of an evaluation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from knnspect.metrics import Rate

__all__ = ["DecisionEvaluation", "Evaluation", "KindEvaluation"]


@dataclass(frozen=True)
class KindEvaluation:
    """How well one kind of defect is told from normal: a folder of ``test``, by its name.

    All normal test images count, and the images of this kind. Only figures are given that do not
    depend on how many images, or pixels, a kind has, so that kinds can be compared.

    Parameters
    ----------
    images : int
        Number of test images of this kind.
    image_auroc, pixel_auroc, aupro, aupro_05, aupimo : float or None
        As in `Evaluation`.
    undefined : dict of str to str
        Why figures are None, by their names.
    """

    images: int
    image_auroc: float | None
    pixel_auroc: float | None
    aupro: float | None
    aupro_05: float | None
    aupimo: float | None
    undefined: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DecisionEvaluation:
    """How often decisions at a false-alarm rate are right.

    Thresholds come from normal images that were learnt from or held out, not from test images.

    Parameters
    ----------
    false_alarm_rate : float or None
        The share of normal images that may be called anomalous, as asked for; None, as all that
        follows, if the detector has no calibration.
    threshold, pixel_threshold : float or None
        Images that score above the one, and pixels above the other, are called anomalous.
    guarantee : str or None
        What is promised, in words.
    false_alarms : Rate or None
        The normal test images that were called anomalous, with the interval of 95 %.
    detections : Rate or None
        The defective ones.
    kinds : dict of str to Rate
        The same for each kind of defect.
    image_f1, pixel_f1 : float or None
        F1 of images, and of pixels, at these thresholds.
    undefined : dict of str to str
        Why figures are None, by their names.
    """

    false_alarm_rate: float | None = None
    threshold: float | None = None
    pixel_threshold: float | None = None
    guarantee: str | None = None
    false_alarms: Rate | None = None
    detections: Rate | None = None
    kinds: dict[str, Rate] = field(default_factory=dict)
    image_f1: float | None = None
    pixel_f1: float | None = None
    undefined: dict[str, str] = field(default_factory=dict)


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
        Area under the ROC curve of the detector's image scores. None, as all figures down to
        `aupimo_median`, where it is not defined.
    image_average_precision : float or None
        Average precision of the image scores.
    image_f1_max, image_f1_max_threshold : float or None
        The best F1 of the image scores that any threshold reaches, and that threshold. It is
        chosen with the labels in hand: no threshold that was fixed beforehand reaches more.
    map_max_auroc : float or None
        Area under the ROC curve when the maximum of the map is the score.
    pixel_auroc : float or None
        The same over all pixels; of defective images those count whose mask marks some of them.
    pixel_average_precision, pixel_f1_max, pixel_f1_max_threshold : float or None
        As of images, over the same pixels.
    aupro, aupro_05 : float or None
        Per-region overlap up to a false-positive rate of 0.3, and of 0.05, over the same pixels.
    aupimo, aupimo_median : float or None
        Mean and median of the per-image overlap at false-positive rates from 1e-5 to 1e-4 on
        normal images, of the defective images; see `metrics.aupimo`.
    aupimo_by_image : dict of str to float
        The overlap of each defective image, by its path in the dataset.
    kinds : dict of str to KindEvaluation
        How well each kind of defect is found.
    decisions : DecisionEvaluation
        How often normal and defective images are called anomalous.
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
    image_average_precision: float | None
    image_f1_max: float | None
    image_f1_max_threshold: float | None
    map_max_auroc: float | None
    pixel_auroc: float | None
    pixel_average_precision: float | None
    pixel_f1_max: float | None
    pixel_f1_max_threshold: float | None
    aupro: float | None
    aupro_05: float | None
    aupimo: float | None
    aupimo_median: float | None
    aupimo_by_image: dict[str, float]
    kinds: dict[str, KindEvaluation]
    decisions: DecisionEvaluation
    seconds: dict[str, float]
    peak_memory_mb: float
    version: str
    undefined: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures under their names, JSON-compatible.

        "undefined" and "notes" are there only if there is something to say.
        """
        figures = _without_empty(asdict(self))
        figures["decisions"] = _without_empty(figures["decisions"])
        figures["kinds"] = {kind: _without_empty(own) for kind, own in figures["kinds"].items()}
        return figures


def _without_empty(figures: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in figures.items() if v or k not in ("undefined", "notes")}
