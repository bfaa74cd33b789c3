"""For tests of backends and detectors: what all of them promise, as checks, and a float64 oracle.

``check_backend``, ``backend_checks``    the contract of exactness
``check_detector``, ``detector_checks``  what every detector promises, whatever its method
``oracle``                               nearest neighbours the slow way
``cases``, ``drawing``                   features to be searched; random ones need hypothesis
``checks``, ``expectations``             how checks are made, run, and fail

Checks of backends need NumPy alone; those that need more say what to install, and are skipped.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from knnspect.testing.backends import backend_checks, check_backend
from knnspect.testing.cases import Case, feature_level, random_pyramid
from knnspect.testing.checks import Check, ContractError, Results
from knnspect.testing.oracle import Oracle, assert_same_neighbors

if TYPE_CHECKING:
    from knnspect.testing.detectors import DetectorCase, Material, check_detector, detector_checks

__all__ = [
    "Case",
    "Check",
    "ContractError",
    "DetectorCase",
    "Material",
    "Oracle",
    "Results",
    "assert_same_neighbors",
    "backend_checks",
    "check_backend",
    "check_detector",
    "detector_checks",
    "feature_level",
    "random_pyramid",
]

#: Imported when they are asked for: detectors need PyTorch, backends do not.
_OF_DETECTORS = ("DetectorCase", "Material", "check_detector", "detector_checks")


def __getattr__(name: str) -> object:
    if name not in _OF_DETECTORS:
        raise AttributeError(f"module 'knnspect.testing' has no attribute {name!r}")
    return getattr(import_module("knnspect.testing.detectors"), name)
