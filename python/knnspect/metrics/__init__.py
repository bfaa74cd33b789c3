"""How well a detector tells defective from normal, image by image and pixel by pixel.

Everything here works on NumPy arrays. Labels come first and scores second, a higher score means
more defective, and what is defective is the positive class.

Over images, from one label and one score per image:

- :func:`auroc`, the area under the ROC curve;
- :func:`average_precision`, the area under the precision-recall curve, as a step function;
- :func:`f1`, the F1 at a threshold;
- :func:`f1_max`, the best F1 that any threshold reaches, and that threshold.

Over pixels, from one mask and one map per image:

- :func:`pixel_auroc`, the area under the ROC curve of all pixels;
- :func:`pixel_average_precision`, :func:`pixel_f1` and :func:`pixel_f1_max`, as over images;
- :func:`aupro`, which counts every defect the same, however small;
- :func:`aupimo`, which counts false positives on normal images alone, and hardly allows any;
- :class:`PixelScores` gives all of them, and sorts the pixels once.

Over decisions, from a verdict or a p-value per image:

- :func:`decision_rates`, how often normal and defective images are called anomalous;
- :func:`calibration_curve`, false-alarm rates that were asked for, and what became of them;
- :func:`rate`, a share with its binomial interval; :func:`verdicts`, decisions from p-values.
"""

from __future__ import annotations

from knnspect.metrics.image import F1Max, auroc, average_precision, f1, f1_max
from knnspect.metrics.pixel import (
    aupimo,
    aupro,
    pixel_auroc,
    pixel_average_precision,
    pixel_f1,
    pixel_f1_max,
)
from knnspect.metrics.pixel_scores import PixelScores
from knnspect.metrics.rates import (
    CalibrationPoint,
    DecisionRates,
    Rate,
    calibration_curve,
    decision_rates,
    rate,
    verdicts,
)

__all__ = [
    "CalibrationPoint",
    "DecisionRates",
    "F1Max",
    "PixelScores",
    "Rate",
    "aupimo",
    "aupro",
    "auroc",
    "average_precision",
    "calibration_curve",
    "decision_rates",
    "f1",
    "f1_max",
    "pixel_auroc",
    "pixel_average_precision",
    "pixel_f1",
    "pixel_f1_max",
    "rate",
    "verdicts",
]
