"""Parameters of composed detectors are declared once, as all are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

import knnspect as ks
from knnspect import Aligned, Lights, Regions
from knnspect.detectors import Composed

LEFT = np.indices((8, 8))[1] < 4
#: Another value than the default for each.
OTHERS: dict[str, Any] = {
    "detector": ks.PatchCore(),
    "false_alarm_rate": 0.3,
    "locator": ks.GoldenTemplate(turns=1),
    "margin": 0.5,
    "not_found": "error",
    "regions": {"left": LEFT},
    "cut": True,
    "pattern": "{light}-{part}.png",
    "missing": "warn",
}


@pytest.fixture(params=[Aligned, Lights, Regions], ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[Composed]:
    found: type[Composed] = request.param
    return found


def test_all_are_got_set_and_cloned(kind: type[Composed]) -> None:
    values = {name: OTHERS[name] for name in kind.parameters}
    detector = kind(**values)
    assert next(iter(kind.parameters)) == "detector"
    assert detector == kind().set_params(**values)
    assert detector != kind(**{**values, "false_alarm_rate": 0.2})
    assert clone(detector) == detector
    assert detector.get_params()["detector__coreset"] == 0.02
    assert repr(detector).startswith(f"{kind.__name__}(PatchCore(")
    detector.check_params()


def test_each_has_a_text(kind: type[Composed]) -> None:
    assert [name for name, each in kind.parameters.items() if len(each.summary) < 10] == []


def test_bad_values_are_named(kind: type[Composed]) -> None:
    good = {name: OTHERS[name] for name in kind.parameters}
    for name, declared in kind.parameters.items():
        for value, error in declared.constraint.bad_values():
            with pytest.raises(error, match=name):
                kind().set_params(**{**good, name: value}).check_params()


def test_what_is_not_fitted_says_so(kind: type[Composed]) -> None:
    detector = kind(**{name: OTHERS[name] for name in kind.parameters})
    for use in ("n_images_", "nbytes_", "leaves_", "calibration_", "uncalibrated"):
        with pytest.raises(ks.NotFittedError, match=f"this {kind.__name__} is not fitted yet"):
            getattr(detector, use)
    with pytest.raises(ks.NotFittedError):
        detector.save("nowhere.ks")
    with pytest.raises(ks.NotFittedError):
        detector.scores([np.zeros((8, 8, 3), np.uint8)])
    with pytest.raises(ks.NotFittedError):
        detector.calibrate([np.zeros((8, 8, 3), np.uint8)])
