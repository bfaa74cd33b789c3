"""Methods that compare with the nearest normal features; each module but nine is one.

``base``           what they have in common
``coreset``        what those have in common that compare every cell, with a coreset or with all
``compared``       what a comparison gives, before there is a map
``dropping``       what they have in common that drop cells which may be defects
``illustrated``    what they have in common that keep small copies of normal images
``leave_one_out``  normal images compared with the others: which, and without which
``masked``         what they have in common with a mask
``masking``        which cells count then
``outliers``       which cells of normal images may be defects
"""

from __future__ import annotations

from knnspect.detectors.nearest.base import NearestDetector
from knnspect.detectors.nearest.coreset import CoresetDetector

__all__ = ["CoresetDetector", "NearestDetector"]
