"""Which images do not belong.

``check``   outliers among training images, copies, and other sizes and depths
``mutual``  images of which none is known to be normal, scored by each other
"""

from __future__ import annotations

from knnspect.cleaning.check import ImageCheck, OddImage, check_images
from knnspect.cleaning.mutual import MutualComparison, MutualScoring

__all__ = ["ImageCheck", "MutualComparison", "MutualScoring", "OddImage", "check_images"]
