"""Which images do not belong.

``check``   outliers among training images, copies, and other sizes and depths
``duad``    which training images are normal, where some may have defects
``mutual``  images of which none is known to be normal, scored by each other
"""

from __future__ import annotations

from knnspect.cleaning.check import ImageCheck, OddImage, check_images
from knnspect.cleaning.duad import Cleaner
from knnspect.cleaning.mutual import MutualComparison, MutualScoring
from knnspect.detectors.selecting import Round, SelectedImage, Selection

__all__ = [
    "Cleaner",
    "ImageCheck",
    "MutualComparison",
    "MutualScoring",
    "OddImage",
    "Round",
    "SelectedImage",
    "Selection",
    "check_images",
]
