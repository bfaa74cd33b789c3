"""Detectors: ``fit`` on normal images, ``predict`` scores and maps of others.

``base``       what every detector has in common: predictions, files
``building``   filling a gallery with the features of normal images, in memory or in a folder
``cflow``      CFLOW-AD
``learning``   what detectors have in common when they learn, and in files
``maps``       from the distances of cells to a map of pixels
``memory``     what PatchCore compares with: a coreset, or all cells
``patchcore``  PatchCore
``simplenet``  SimpleNet
``spade``      SPADE
``trained``    what those detectors have in common that train a network
"""

from __future__ import annotations

from knnspect.detectors.base import Detector, Prediction, load
from knnspect.detectors.cflow import CFlow
from knnspect.detectors.patchcore import PatchCore
from knnspect.detectors.simplenet import SimpleNet
from knnspect.detectors.spade import Spade

__all__ = ["CFlow", "Detector", "PatchCore", "Prediction", "SimpleNet", "Spade", "load"]
