"""Detectors: ``fit`` on normal images, ``predict`` scores and maps of others.

``base``     what every detector has in common: predictions, files
``heads``    detectors that train a network on features: SimpleNet, CFLOW-AD
``maps``     from the scores of cells to a map of pixels
``memory``   what PatchCore compares with: a coreset, or all cells
``nearest``  detectors that compare with the nearest normal features: SPADE, PatchCore
"""

from __future__ import annotations

from knnspect.detectors.base import Detector, Prediction, load
from knnspect.detectors.heads.cflow import CFlow
from knnspect.detectors.heads.simplenet import SimpleNet
from knnspect.detectors.nearest.patchcore import PatchCore
from knnspect.detectors.nearest.spade import Spade

__all__ = ["CFlow", "Detector", "PatchCore", "Prediction", "SimpleNet", "Spade", "load"]
