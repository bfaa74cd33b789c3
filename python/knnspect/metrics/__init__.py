"""How well a detector tells defective from normal, image by image and pixel by pixel.

Everything here works on NumPy arrays. Labels come first and scores second, a higher score means
more defective, and what is defective is the positive class.

Over images, from one label and one score per image:

- :func:`auroc`, the area under the ROC curve;
- :func:`average_precision`, the area under the precision-recall curve, as a step function;
- :func:`f1_max`, the best F1 that any threshold reaches, and that threshold.

Over pixels, from one mask and one map per image:

- :func:`pixel_auroc`, the area under the ROC curve of all pixels;
- :func:`aupro`, which counts every defect the same, however small.
"""

from __future__ import annotations

from knnspect.metrics.image import F1Max, auroc, average_precision, f1_max
from knnspect.metrics.pixel import aupro, pixel_auroc

__all__ = ["F1Max", "aupro", "auroc", "average_precision", "f1_max", "pixel_auroc"]
