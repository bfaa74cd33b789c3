"""Methods that compare with the nearest normal features; each module but ``base`` is one.

``base``  what they have in common
"""

from __future__ import annotations

from knnspect.detectors.nearest.base import CoresetDetector, NearestDetector

__all__ = ["CoresetDetector", "NearestDetector"]
