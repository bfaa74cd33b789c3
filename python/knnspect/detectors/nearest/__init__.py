"""Methods that compare with the nearest normal features; each module but two is one.

``base``     what they have in common
``coreset``  what those have in common that compare every cell, with a coreset or with all
"""

from __future__ import annotations

from knnspect.detectors.nearest.base import NearestDetector
from knnspect.detectors.nearest.coreset import CoresetDetector

__all__ = ["CoresetDetector", "NearestDetector"]
