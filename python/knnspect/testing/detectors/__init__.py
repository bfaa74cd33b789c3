"""What every detector promises, whatever its method, as checks.

``case``         `DetectorCase`: a detector to be checked, and what its checks share
``predictions``  predictions depend on the images alone, and come in order
``models``       saved and loaded they predict the same; what is damaged is refused
``learning``     what images are taken, what is refused
``drawing``      of methods that draw images: what is drawn, and that a seed decides it
``corrections``  of methods that compare: what is added and removed counts, and can be taken back
"""

from __future__ import annotations

from knnspect.detectors import Detector
from knnspect.detectors.nearest.correcting import CorrectableDetector
from knnspect.detectors.reconstruction.base import ReconstructionDetector
from knnspect.testing.checks import Check, Results, run_checks
from knnspect.testing.detectors import corrections, drawing, learning, models, predictions
from knnspect.testing.detectors.case import DetectorCase, Material, method_of

__all__ = ["DetectorCase", "Material", "check_detector", "detector_checks"]


def detector_checks(case: DetectorCase) -> list[Check[DetectorCase]]:
    """Return what a detector promises, as checks.

    Parameters
    ----------
    case : DetectorCase
        The detector. Each of its parameters is tried with values that its constraint refuses.

    Returns
    -------
    list of Check
        Each is called with the case. That a model predicts the same in another process is among
        them if the method is registered: other processes know no others.

    Examples
    --------
    >>> from knnspect import Spade
    >>> case = DetectorCase(Spade(image_neighbors=4))
    >>> print(detector_checks(case)[1])
    predictions_differ_from_image_to_image
    """
    checks = [*predictions.CHECKS, *models.CHECKS, *learning.CHECKS, *learning.bad_values(case)]
    if issubclass(case.kind, CorrectableDetector):
        checks += corrections.CHECKS
    if issubclass(case.kind, ReconstructionDetector):
        checks += drawing.CHECKS
    return [*checks, *models.ELSEWHERE] if method_of(case.kind) is case.kind else checks


def check_detector(
    detector: Detector | type[Detector], material: Material | None = None
) -> Results:
    """Check that a detector keeps what every detector promises; it takes some seconds.

    Parameters
    ----------
    detector : Detector or type
        A class of detectors, or one that is not fitted, with the parameters to be checked: those
        with which it learns fast from eight images.
    material : Material, optional
        Images and a backbone; made by default.

    Returns
    -------
    Results
        Which checks passed, and which could not run here.

    Raises
    ------
    ContractError
        An AssertionError that says of each check that failed what was expected and what came.
    ParameterError
        If no material is given, and the weights of ``knnspect[testing]`` are not installed.

    Warns
    -----
    UserWarning
        If checks were skipped, and why.

    Examples
    --------
    >>> from knnspect import PatchCore
    >>> check_detector(PatchCore(coreset=0.1))  # doctest: +SKIP
    Results(110 passed, 0 skipped)
    """
    case = DetectorCase(detector, material)
    _ = case.backbone.geometry  # says what is missing, before anything else
    return run_checks(f"detector {case!r}", case, detector_checks(case))
