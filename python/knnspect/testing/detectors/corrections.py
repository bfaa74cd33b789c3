"""Corrections: what came is found, what went is not, and every step can be taken back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from knnspect.detectors.nearest.correcting import CorrectableDetector
from knnspect.errors import ParameterError
from knnspect.testing.checks import Checks
from knnspect.testing.detectors.case import DetectorCase, expect_same_predictions
from knnspect.testing.expectations import expect, expect_equal, raises
from knnspect.testing.files import temporary_folder

__all__ = ["CHECKS"]

#: Of methods that compare with normal images.
CHECKS: Checks[DetectorCase] = Checks()


@CHECKS.add()
def corrections_can_be_taken_back(case: DetectorCase) -> None:
    detector, queries = _detector(case), case.material.queries
    detector.add(_new(case))
    detector.remove([next(iter(case.material.normal))])
    detector.rollback(0)
    found = detector.predict(queries)
    expect_same_predictions("a model whose corrections were taken back", found, case.predictions)
    expect_same_predictions(
        "the detector that it is a copy of", case.fitted.predict(queries), case.predictions
    )


@CHECKS.add()
def corrections_are_kept_in_files(case: DetectorCase) -> None:
    detector, queries = _detector(case), case.material.queries
    detector.add(_new(case))
    detector.remove([next(iter(case.material.normal))])
    expected = detector.predict(queries)
    with temporary_folder() as folder:
        detector.save(folder / "model.ks")
        loaded = case.load(folder / "model.ks")
        expect(isinstance(loaded, CorrectableDetector), "a corrected model: expected one again")
        expect_equal("normal images", loaded.n_images_, detector.n_images_)
        expect_same_predictions("a corrected model, loaded", loaded.predict(queries), expected)


@CHECKS.add()
def corrections_of_what_is_not_there_change_nothing(case: DetectorCase) -> None:
    detector = _detector(case)
    known = next(iter(case.material.normal))
    for correct, named in (
        (lambda: detector.remove(["no such image"]), "no such image"),
        (lambda: detector.rollback(1), "to: "),
        (lambda: detector.add({known: case.material.queries["whole"]}), known),
    ):
        with raises(ParameterError, named):
            correct()
    expect_equal("corrections", detector.history_, ())
    found = detector.predict(case.material.queries)
    expect_same_predictions("after refused corrections", found, case.predictions)


def _detector(case: DetectorCase) -> CorrectableDetector:
    detector = copy.copy(case.fitted)
    if not isinstance(detector, CorrectableDetector):
        raise TypeError(f"{case.kind.__name__} does not compare with normal images")
    return detector


def _new(case: DetectorCase) -> Mapping[str, Any]:
    whole = case.material.queries["whole"]
    return {"new.png": whole, "another.png": whole[::-1]}
