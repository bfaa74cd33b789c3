"""Detectors: ``fit`` on normal images, ``predict`` scores and maps of others.

``base``       what every detector has in common: predictions, files
``building``   filling a gallery with the features of normal images, in memory or in a folder
``learning``   what those detectors have in common that keep normal features
``maps``       from the distances of cells to a map of pixels
``memory``     what PatchCore compares with: a coreset, or all cells
``patchcore``  PatchCore
``spade``      SPADE
"""

from __future__ import annotations

from knnspect.detectors.base import Detector, Prediction, load
from knnspect.detectors.patchcore import PatchCore
from knnspect.detectors.spade import Spade

__all__ = ["Detector", "PatchCore", "Prediction", "Spade", "load"]
