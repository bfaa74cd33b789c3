"""For tests of backends and detectors: what all of them promise, as checks, and a float64 oracle.

``check_backend``, ``backend_checks``    the contract of exactness
``check_detector``, ``detector_checks``  what every detector promises, whatever its method
``oracle``                               nearest neighbours the slow way
``cases``, ``drawing``                   features to be searched; random ones need hypothesis
``checks``, ``expectations``             how checks are made, run, and fail

Checks of backends need NumPy alone; those that need more say what to install, and are skipped.
"""

from __future__ import annotations

from knnspect.testing.backends import backend_checks, check_backend
from knnspect.testing.cases import Case, feature_level, random_pyramid
from knnspect.testing.checks import Check, ContractError, Results
from knnspect.testing.oracle import Oracle, assert_same_neighbors

__all__ = [
    "Case",
    "Check",
    "ContractError",
    "Oracle",
    "Results",
    "assert_same_neighbors",
    "backend_checks",
    "check_backend",
    "feature_level",
    "random_pyramid",
]
