"""Checks of detectors find what is wrong with one, and pass for one of another package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest

from knnspect import ImageError, Spade
from knnspect.constraints import Positive
from knnspect.detectors import Detector, Prediction, State
from knnspect.errors import DTypeError
from knnspect.features import Features
from knnspect.model_files import StoredModel
from knnspect.normal_features import NormalFeatures, Run
from knnspect.parameters import learnt, parameter
from knnspect.progress import Stopwatch
from knnspect.testing import (
    ContractError,
    DetectorCase,
    Material,
    check_detector,
    detector_checks,
)
from knnspect.testing.checks import run_checks
from knnspect.testing.detectors.learning import a_parameter_outside_its_values_is_named

MATERIAL = Material()


class Mean(Detector):
    """Judge cells by their distance from the mean.

    Parameters
    ----------
    power : float, default 2.0
        To which differences are raised.
    """

    power: float = parameter(Positive(at_most=5), default=2.0)
    method: ClassVar[str] = "mean"
    n_images_ = nbytes_ = 1
    mean_: Any = learnt()

    def _learn(self, normal: NormalFeatures, run: Run) -> None:
        self.mean_ = normal.gallery.pyramid().levels[0].mean((0, 1, 2))
        self.normal_map_max_ = float("nan")  # not known

    def _judge(self, features: Features, watch: Stopwatch) -> Iterator[Prediction]:
        for index, id_ in enumerate(features.ids):
            level = features.pyramid.levels[0][index]
            if not np.isfinite(level).all():
                raise ImageError(f"image {id_}: its features are not finite")
            far = np.abs(level - self.mean_) ** self.power
            map_ = self._map(far.mean(-1), features.placements[index])
            yield Prediction(id_, float(map_.max()), map_)

    def _state(self) -> State:
        return State(arrays={"mean": self.mean_})

    def _set_state(self, stored: StoredModel) -> None:
        self.mean_ = stored.tensors("")["mean"]


class ForgetsALittle(Mean):
    """Its scores change when it is saved and loaded."""

    def _set_state(self, stored: StoredModel) -> None:
        super()._set_state(stored)
        self.mean_ = self.mean_.astype("f2").astype("f4")


class JudgesByItsNeighbours(Mean):
    """Judges an image by those that come with it."""

    def _judge(self, features: Features, watch: Stopwatch) -> Iterator[Prediction]:
        found = list(super()._judge(features, watch))
        mean = float(np.mean([p.score for p in found]))
        for p in found:
            yield Prediction(p.id, p.score + mean, p.map)


class LearnsAsItJudges(Mean):
    def _judge(self, features: Features, watch: Stopwatch) -> Iterator[Prediction]:
        yield from super()._judge(features, watch)
        self.mean_ = self.mean_ * np.float32(1.01)


class Backwards(Mean):
    def _judge(self, features: Features, watch: Stopwatch) -> Iterator[Prediction]:
        yield from reversed(list(super()._judge(features, watch)))


class KeepsHalf(Mean):
    """Forgets what it has learnt before it knows that it can learn."""

    def fit(self, images: object, **options: Any) -> KeepsHalf:
        self.mean_ = None
        return super().fit(images, **options)


class TakesAnything(Mean):
    def check_params(self) -> None:
        pass


class SaysNothingOfNans(Mean):
    def _judge(self, features: Features, watch: Stopwatch) -> Iterator[Prediction]:
        for index, id_ in enumerate(features.ids):
            far = np.abs(features.pyramid.levels[0][index] - self.mean_)
            map_ = self._map(far.mean(-1), features.placements[index])
            yield Prediction(id_, float(map_.max()), map_)


def failures(detector: Detector | type[Detector], *names: str) -> str:
    """What the checks of these names say of a detector."""
    case = DetectorCase(detector, MATERIAL)
    checks = [check for check in detector_checks(case) if check.name.startswith(names)]
    assert len({check.function for check in checks}) == len(names)
    with pytest.raises(ContractError) as raised:
        run_checks(f"detector {case!r}", case, checks)
    return str(raised.value)


@pytest.mark.parametrize(
    ("kind", "check", "problem"),
    [
        (ForgetsALittle, "models_predict_the_same_to_the_bit", "saved and loaded: image 'whole': "),
        (ForgetsALittle, "models_are_the_same_when_saved_again", "expected the same bytes"),
        (JudgesByItsNeighbours, "predictions_of_an_image_alone", "image 'whole': score: expected"),
        (JudgesByItsNeighbours, "predictions_do_not_depend_on_the_batch", "batches of 1: image"),
        (LearnsAsItJudges, "predictions_leave_the_detector_as_it_was", "the same again: image"),
        (Backwards, "predictions_come_one_per_image_in_order", "ids: expected ['whole'"),
        (KeepsHalf, "a_fit_that_fails_leaves_what_was_learnt", "TypeError"),
        (
            TakesAnything,
            "a_parameter_outside_its_values_is_named(name='power'",
            "fit: expected a ParameterError",
        ),
        (SaysNothingOfNans, "features_that_are_not_finite", "predict: expected a ImageError"),
    ],
)
def test_a_wrong_detector_is_caught(kind: type[Detector], check: str, problem: str) -> None:
    message = failures(kind, check)
    assert message.startswith(f"detector {kind.__name__}(): ")
    assert f"checks failed\n\n{check}" in message
    assert problem in message, message


def test_a_detector_of_another_package_passes_with_the_parameters_that_are_given() -> None:
    case = DetectorCase(Mean(power=3), MATERIAL)
    assert (case.make().get_params()["power"], repr(case)) == (3, "Mean(power=3)")
    names = ("models_predict", "models_are_the_same", "predictions_are_the_same", "one_image")
    checks = [check for check in detector_checks(case) if check.name.startswith(names)]
    own = [check for check in detector_checks(case) if "name='power'" in check.name]
    results = run_checks("mean", case, [*checks, *own])
    assert (len(results.passed), results.skipped) == (4 + 9, {})


def test_another_process_is_asked_where_it_knows_the_method() -> None:
    elsewhere = "models_predict_the_same_in_another_process_and_another_place"
    for kind, is_registered in ((Mean, False), (Spade, True)):
        names = [check.name for check in detector_checks(DetectorCase(kind, MATERIAL))]
        assert (elsewhere in names) is is_registered


def test_what_is_no_detector_is_refused() -> None:
    with pytest.raises(DTypeError, match="detector: expected a Detector, got int"):
        check_detector(int, MATERIAL)  # type: ignore[arg-type]
    with pytest.raises(DTypeError, match="detector: expected a Detector, got str"):
        check_detector("spade", MATERIAL)  # type: ignore[arg-type]


def test_values_that_are_refused_may_be_added() -> None:
    case = DetectorCase(Mean(), MATERIAL, bad=[("power", 6.0, ValueError)])
    own = [
        c for c in detector_checks(case) if c.function is a_parameter_outside_its_values_is_named
    ]
    assert own[-1].name.endswith("(name='power', value=6.0, error=ValueError)")
    own[-1](case)
