"""Which training images do not belong.

``check``  outliers among them, copies, and other sizes and depths
"""

from __future__ import annotations

from knnspect.cleaning.check import ImageCheck, OddImage, check_images

__all__ = ["ImageCheck", "OddImage", "check_images"]
