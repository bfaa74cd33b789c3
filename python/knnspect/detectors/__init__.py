"""Detectors: ``fit`` on normal images, ``predict`` scores and maps of others.

``base``       what every detector has in common: predictions, files
``learning``   what those have in common that keep normal features
``maps``       from the distances of cells to a map of pixels
``patchcore``  PatchCore
``spade``      SPADE
"""

from __future__ import annotations

from knnspect.detectors.base import Detector, Prediction, load
from knnspect.detectors.patchcore import PatchCore
from knnspect.detectors.spade import Spade

__all__ = ["Detector", "PatchCore", "Prediction", "Spade", "load"]
