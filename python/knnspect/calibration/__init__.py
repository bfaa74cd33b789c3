"""From scores of normal images to decisions with stated error rates."""

from __future__ import annotations

from knnspect.calibration.alarm import DriftAlarm
from knnspect.calibration.conformal import Calibration
from knnspect.calibration.drift import DriftMonitor
from knnspect.calibration.quantities import QUANTITIES, quantities
from knnspect.calibration.watch import DriftWatch

__all__ = ["QUANTITIES", "Calibration", "DriftAlarm", "DriftMonitor", "DriftWatch", "quantities"]
