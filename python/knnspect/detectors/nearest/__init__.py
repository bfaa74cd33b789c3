"""Methods that compare with the nearest normal features; each module but four is one.

``base``           what they have in common
``coreset``        what those have in common that compare every cell, with a coreset or with all
``compared``       what a comparison gives, before there is a map
``leave_one_out``  normal images compared with the others: which, and without which
"""

from __future__ import annotations

from knnspect.detectors.nearest.base import NearestDetector
from knnspect.detectors.nearest.coreset import CoresetDetector

__all__ = ["CoresetDetector", "NearestDetector"]
