"""From scores of normal images to decisions with stated error rates."""

from __future__ import annotations

from knnspect.calibration.alarm import DriftAlarm
from knnspect.calibration.drift import DriftMonitor

__all__ = ["DriftAlarm", "DriftMonitor"]
