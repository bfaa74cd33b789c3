"""Scorers in NumPy say of cells what the networks in PyTorch say."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import knnspect as ks
from knnspect.detectors.heads.scorers.arrays import ArrayScorer
from knnspect.exporting import export
from knnspect.pyramid import FeaturePyramid

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ("simplenet", "block", "cflow", "deep_svdd", "duad", "student_teacher", "transformations")
IMAGES = np.random.default_rng(0).integers(0, 255, (4, 64, 96, 3), np.uint8)


def fitted(kind: str) -> Any:
    # Sides of 16, 8 and 2 by 24, 12 and 3 cells: levels that are resized by 2 and by 8.
    backbone = ks.Backbone(levels=(1, 2, 4), image_size=(64, 96), patch_size=3, device="cpu")
    if kind == "cflow":
        return ks.CFlow(backbone, max_epochs=2, coupling_blocks=3).fit(IMAGES[:3])
    quick: dict[str, Any] = {
        "deep_svdd": ks.DeepSvdd(backbone, max_epochs=2, hidden=24, outputs=9),
        "student_teacher": ks.StudentTeacher(backbone, max_epochs=2, hidden=24, upsample="block"),
        "transformations": ks.Transformations(backbone, max_epochs=2, transformations=7),
    }
    if kind in quick:
        return quick[kind].fit(IMAGES[:3])
    if kind == "duad":
        small: Any = {"clusters": 2, "most_rounds": 1, "hidden": 24, "latent_size": 6}
        return ks.Duad(backbone, max_epochs=2, **small).fit(IMAGES)
    upsample: Any = "block" if kind == "block" else "bilinear"
    return ks.SimpleNet(backbone, max_epochs=2, hidden=24, upsample=upsample).fit(IMAGES[:3])


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    detector = fitted(request.param)
    return detector, export(detector)


def test_cells_have_the_same_scores(both: tuple[Any, Any]) -> None:
    detector, other = both
    assert isinstance(other.network_, ArrayScorer)
    assert not isinstance(detector.network_, ArrayScorer)
    rng = np.random.default_rng(1)
    pyramid = detector.backbone.extract(IMAGES).pyramid
    for factor in (1, 30):  # like the normal images, and far from them
        levels = [
            (level[:1] + factor * rng.normal(size=level[:1].shape)).astype(np.float32)
            for level in pyramid.levels
        ]
        one = detector.network_.cell_scores(FeaturePyramid(levels))
        two = other.network_.cell_scores(FeaturePyramid(levels))
        assert one.dtype == two.dtype
        assert one.max() > 0
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5 * one.max())


def test_an_exported_detector_is_pickled_with_what_it_learnt(both: tuple[Any, Any]) -> None:
    detector, other = both
    again = pickle.loads(pickle.dumps(other))
    assert isinstance(again.network_, ArrayScorer)
    assert [one.score for one in again.predict(IMAGES)] == other.scores(IMAGES).tolist()
    assert again.nbytes_ == detector.nbytes_


def test_an_exported_detector_can_be_fitted_again() -> None:
    other = export(fitted("simplenet"))
    scores = other.fit(IMAGES[1:]).scores(IMAGES)
    assert np.isfinite(scores).all()
    assert not isinstance(other.network_, ArrayScorer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays, name: arrays.pop(name), "{name}"),
        (lambda arrays, name: arrays.update({name: arrays[name][1:]}), "{name}: expected .* val"),
        (lambda arrays, name: arrays.update({name: arrays[name] * np.nan}), "{name}: .* finite"),
    ],
)
def test_arrays_that_do_not_fit_are_named(both: tuple[Any, Any], change: Any, message: str) -> None:
    _, other = both
    name = list(other.network_.arrays())[-1]
    arrays = other.network_.arrays()
    change(arrays, name)
    with pytest.raises((KeyError, ValueError), match=message.format(name=name)):
        other._scorer(arrays)


def test_a_flow_needs_the_grid_that_it_was_trained_on() -> None:
    other = export(fitted("cflow"))
    levels = [np.zeros((1, 4, 4, 24), np.float32)]
    with pytest.raises(ks.ShapeError, match="the flows were trained on 16x24x24 \\+ 8x12x40"):
        other.network_.cell_scores(FeaturePyramid(levels))
