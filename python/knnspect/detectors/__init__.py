"""Detectors: ``fit`` on normal images, ``predict`` scores and maps of others.

``base``        what every detector has in common
``composed``    detectors made of others: several views of an image, one decision
``border``      how much larger distances are near the border of normal images
``deciding``    what the scores of normal images allow to be said of others
``judging``     judging images, the same for every detector
``judged_file`` which file was judged
``heads``       methods that train a network on features, one a file
``known_defects``  defects that were rejected before
``labelled``    what learns from a few images with defects, too
``maps``        from the scores of cells to a map of pixels
``nearest``     methods that compare with the nearest normal features, one a file
``prediction``  what a detector says of an image
``regions``     places of an image that are anomalous
``registry``    methods by their words, and models from files
``state``       what a fitted detector has learnt, as files have it
"""

from __future__ import annotations

from knnspect.detectors.base import Detector
from knnspect.detectors.composed import Aligned, Composed, Lights, Regions, load
from knnspect.detectors.heads.cflow import CFlow
from knnspect.detectors.heads.deep_svdd import DeepSvdd
from knnspect.detectors.heads.simplenet import SimpleNet
from knnspect.detectors.heads.student_teacher import StudentTeacher
from knnspect.detectors.heads.transformations import Transformations
from knnspect.detectors.known_defects import KnownDefect
from knnspect.detectors.nearest.anomalydino import AnomalyDINO
from knnspect.detectors.nearest.patchcore import PatchCore
from knnspect.detectors.nearest.rad import Rad
from knnspect.detectors.nearest.spade import Spade
from knnspect.detectors.nearest.superadd import SuperADD
from knnspect.detectors.prediction import Prediction
from knnspect.detectors.regions import AnomalousRegion
from knnspect.detectors.registry import get_method, methods
from knnspect.detectors.state import State

__all__ = [
    "Aligned",
    "AnomalousRegion",
    "AnomalyDINO",
    "CFlow",
    "Composed",
    "DeepSvdd",
    "Detector",
    "KnownDefect",
    "Lights",
    "PatchCore",
    "Prediction",
    "Rad",
    "Regions",
    "SimpleNet",
    "Spade",
    "State",
    "StudentTeacher",
    "SuperADD",
    "Transformations",
    "get_method",
    "load",
    "methods",
]
