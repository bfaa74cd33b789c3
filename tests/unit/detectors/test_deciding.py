"""Detectors decide by the scores of normal images, which they did not learn from or left out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from knnspect import (
    Backbone,
    CalibrationError,
    CalibrationWarning,
    CFlow,
    Detector,
    ParameterError,
    PatchCore,
    Spade,
    Variants,
    load,
)
from knnspect.data import elpv_split

N = 12


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(image_size=64, patch_size=3, device="cpu")


@pytest.fixture(scope="module")
def cells() -> dict[str, NDArray[np.uint8]]:
    split = elpv_split(n_train=N + 9, n_functional=1, n_defective=1)
    return {
        path.stem: np.asarray(Image.open(path).convert("RGB").resize((64, 64)))
        for path in split.train
    }


@pytest.fixture(scope="module")
def normal(cells: dict[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
    return dict(list(cells.items())[:N])


@pytest.fixture(scope="module")
def others(cells: dict[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
    return dict(list(cells.items())[N:])


@pytest.fixture(scope="module")
def spade(backbone: Backbone, normal: dict[str, Any]) -> Spade:
    return Spade(backbone).fit(normal)


@pytest.fixture
def fitted(spade: Spade) -> Spade:
    return spade.__copy__()


class TestLeaveOneOut:
    @pytest.mark.parametrize(
        "make",
        [
            lambda b: Spade(b),
            lambda b: Spade(b, score="image", pixel_neighbors=2),
            lambda b: PatchCore(b, coreset=None),
            lambda b: PatchCore(b, coreset=None, score="image"),
            lambda b: Spade(b, fusion="levels", score="top", top=0.1),
            lambda b: PatchCore(b, coreset=None, variants=Variants(mirror=True)),
        ],
    )
    def test_scores_are_those_of_a_detector_that_never_saw_the_image(
        self, make: Callable[[Backbone], Any], backbone: Backbone, normal: dict[str, Any]
    ) -> None:
        detector = make(backbone).fit(normal)
        found = detector.calibration_
        assert found.kind == "leave one out"
        assert list(found.ids) == sorted(normal)
        for id_ in list(normal)[::5]:
            without = make(backbone).fit({k: v for k, v in normal.items() if k != id_})
            without.border_ = detector.border_
            (expected,) = without.predict({id_: normal[id_]})
            place = found.ids.index(id_)
            assert found.scores[place] == pytest.approx(expected.score, rel=1e-6)
            assert found.map_maxima[place] == pytest.approx(float(expected.map.max()), rel=1e-6)

    @pytest.mark.parametrize("score", ["map", "image"])
    def test_a_coreset_is_searched_without_the_rows_of_the_image(
        self, backbone: Backbone, normal: dict[str, Any], score: Any
    ) -> None:
        detector = PatchCore(backbone, coreset=0.2, score=score).fit(normal)
        found = detector.calibration_
        assert found is not None
        id_ = found.ids[4]
        without = detector.__copy__()
        assert detector.coreset_ is not None
        without.searched_ = detector.coreset_.without([id_])
        (expected,) = without.predict({id_: normal[id_]})
        assert found.scores[4] == pytest.approx(expected.score, rel=1e-6)
        assert found.scores[4] > detector.predict({id_: normal[id_]})[0].score

    def test_blocks_are_left_out_and_counted_together(
        self, backbone: Backbone, normal: dict[str, Any], spade: Spade
    ) -> None:
        ids = sorted(normal)
        blocks = {id_: place // 3 for place, id_ in enumerate(ids)}
        found = Spade(backbone).fit(normal, blocks=blocks).calibration_
        assert found is not None
        assert spade.calibration_ is not None
        assert found.n_blocks == N // 3
        assert found.smallest_rate == 1 / (N // 3 + 1)
        # Fewer images are left to be compared with.
        assert (found.map_maxima >= spade.calibration_.map_maxima * 0.99).all()
        assert found.scores.sum() > spade.calibration_.scores.sum()

    def test_near_duplicates_are_a_block(self, backbone: Backbone, normal: dict[str, Any]) -> None:
        first = next(iter(normal))
        frame = np.clip(normal[first].astype(int) + 1, 0, 255).astype(np.uint8)
        with pytest.warns(UserWarning, match=r"near-duplicates .* count as one image"):
            found = Spade(backbone).fit({**normal, "zz": frame}).calibration_
        assert found is not None
        assert len(found) == N + 1
        assert found.n_blocks == N
        assert found.blocks[found.ids.index(first)] == found.blocks[found.ids.index("zz")]

    def test_of_many_images_some_are_scored_and_more_for_a_small_rate(
        self, monkeypatch: pytest.MonkeyPatch, backbone: Backbone, normal: dict[str, Any]
    ) -> None:
        monkeypatch.setattr("knnspect.detectors.leave_one_out._MOST", 4)
        few = Spade(backbone).fit(normal).calibration_
        more = Spade(backbone, false_alarm_rate=0.1).fit(normal).calibration_
        assert few is not None
        assert more is not None
        assert (len(few), len(more)) == (4, 9)
        assert f", chosen from {N}," in few.guarantee

    def test_one_image_calibrates_nothing(self, backbone: Backbone, normal: dict[str, Any]) -> None:
        first = dict(list(normal.items())[:1])
        detector = PatchCore(backbone, coreset=None).fit(first)
        assert detector.calibration_ is None
        with pytest.raises(CalibrationError, match=r"false_alarm_rate: 0\.5 needs .* single image"):
            Spade(backbone, false_alarm_rate=0.5).fit(first)
        (prediction,) = detector.predict(first)
        with pytest.raises(CalibrationError, match="single image: calibrate it with normal images"):
            prediction.verdict  # noqa: B018


class TestRates:
    def test_may_be_changed_without_a_new_fit(self, fitted: Spade, others: dict[str, Any]) -> None:
        by_default = fitted.predict(others)
        fitted.set_params(false_alarm_rate=0.5)
        at_a_half = fitted.predict(others)
        assert fitted.calibration_ is not None
        assert by_default[0].threshold == fitted.calibration_.threshold(1 / (N + 1))
        assert at_a_half[0].threshold == fitted.calibration_.threshold(0.5)
        assert at_a_half[0].threshold < by_default[0].threshold
        assert [p.score for p in at_a_half] == [p.score for p in by_default]
        assert [p.is_anomalous for p in at_a_half] == [p.p_value <= 0.5 for p in at_a_half]

    def test_too_small_a_rate_is_refused_before_images_are_read(self, fitted: Spade) -> None:
        fitted.set_params(false_alarm_rate=0.001)
        with pytest.raises(CalibrationError, match="needs 999 normal images"):
            fitted.predict(np.zeros((1, 64, 64, 3), np.uint8))

    def test_a_fit_for_too_small_a_rate_takes_nothing_over(
        self, fitted: Spade, normal: dict[str, Any]
    ) -> None:
        before = fitted.searched_
        fitted.set_params(false_alarm_rate=0.01)
        with pytest.raises(CalibrationError, match=r"needs 99 .* there are 12"):
            fitted.fit(normal)
        assert fitted.searched_ is before

    @pytest.mark.parametrize("bad", [0, 1, 1.5, -0.1])
    def test_outside_0_and_1_are_refused(self, fitted: Spade, bad: float) -> None:
        fitted.set_params(false_alarm_rate=bad)
        with pytest.raises(ParameterError, match="false_alarm_rate: expected"):
            fitted.predict(np.zeros((1, 64, 64, 3), np.uint8))


class TestHeldOutImages:
    def test_decide_by_their_own_scores(self, fitted: Spade, others: dict[str, Any]) -> None:
        expected = fitted.predict(others)
        found = fitted.calibrate(others).calibration_
        assert found is not None
        assert found.kind == "held out"
        assert found.scores.tolist() == [prediction.score for prediction in expected]
        assert found.map_maxima.tolist() == [float(p.map.max()) for p in expected]

    def test_may_be_given_to_fit(
        self, backbone: Backbone, normal: dict[str, Any], others: dict[str, Any], spade: Spade
    ) -> None:
        detector = Spade(backbone).fit(normal, calibration_images=others)
        assert detector.calibration_ is not None
        assert list(detector.calibration_.ids) == list(others)
        assert detector.normal_map_max_ == spade.normal_map_max_
        assert detector.border_ == spade.border_

    def test_that_were_learnt_from_are_refused(
        self, fitted: Spade, normal: dict[str, Any], others: dict[str, Any]
    ) -> None:
        before = fitted.calibration_
        first = next(iter(normal.values()))
        with pytest.raises(CalibrationError, match=r"1 of the 10 .* were learnt from: renamed"):
            fitted.calibrate({**others, "renamed": first})
        assert fitted.calibration_ is before

    def test_that_were_learnt_from_are_known_after_a_save(
        self, fitted: Spade, normal: dict[str, Any], tmp_path: Path
    ) -> None:
        fitted.save(tmp_path / "model.ks")
        with pytest.raises(CalibrationError, match=f"{N} of the {N} calibration images"):
            load(tmp_path / "model.ks").calibrate(normal)

    def test_copies_count_as_one_image(self, fitted: Spade, others: dict[str, Any]) -> None:
        first = next(iter(others))
        with pytest.warns(CalibrationWarning, match=f"1 .* copies of others, such as b of {first}"):
            fitted.calibrate({**others, "b": others[first].copy()})
        assert fitted.calibration_ is not None
        assert fitted.calibration_.n_blocks == len(others)

    def test_that_all_score_the_same_are_said(self, fitted: Spade, others: dict[str, Any]) -> None:
        image = next(iter(others.values()))
        with pytest.warns(CalibrationWarning) as caught:
            fitted.calibrate({"a": image, "b": image})
        assert any("all score" in str(each.message) for each in caught)

    def test_too_few_leave_the_calibration_as_it_was(
        self, fitted: Spade, others: dict[str, Any]
    ) -> None:
        before = fitted.calibration_
        fitted.set_params(false_alarm_rate=0.08)
        with pytest.raises(CalibrationError, match=r"needs 12 .* there are 9"):
            fitted.calibrate(others)
        assert fitted.calibration_ is before

    def test_of_a_loader_are_read_once(self, fitted: Spade, others: dict[str, Any]) -> None:
        batches = [np.stack(list(others.values()))[:4], np.stack(list(others.values()))[4:]]
        found = fitted.calibrate(iter(batches)).calibration_
        assert found is not None
        assert len(found) == len(others)


class TestValidation:
    def test_images_held_out_from_training_decide(
        self, backbone: Backbone, normal: dict[str, Any]
    ) -> None:
        detector = CFlow(backbone, max_epochs=1, validation_fraction=0.25).fit(normal)
        found = detector.calibration_
        assert found is not None
        assert found.kind == "validation"
        assert len(found) == 3
        by_id = {p.id: p.score for p in detector.predict(normal)}
        for id_, score in zip(found.ids, found.scores, strict=True):
            assert score == pytest.approx(by_id[id_], rel=1e-4)


class TestFiles:
    def test_keep_it(self, fitted: Spade, others: dict[str, Any], tmp_path: Path) -> None:
        fitted.set_params(false_alarm_rate=0.25).save(tmp_path / "model.ks")
        again = load(tmp_path / "model.ks")
        assert repr(again.calibration_) == repr(fitted.calibration_)
        one, other = fitted.predict(others), again.predict(others)
        assert [p.p_value for p in one] == [p.p_value for p in other]
        assert [p.threshold for p in one] == [p.threshold for p in other]
        assert [p.regions for p in one] == [p.regions for p in other]

    def test_without_one_open(self, fitted: Spade, others: dict[str, Any], tmp_path: Path) -> None:
        fitted.calibration_ = fitted._digests = None  # as those of earlier versions have none
        fitted.save(tmp_path / "model.ks")
        again = load(tmp_path / "model.ks")
        (prediction, *_) = again.predict(others)
        assert again.calibration_ is None
        for name in ("p_value", "threshold", "is_anomalous", "verdict", "mask", "regions"):
            with pytest.raises(CalibrationError, match="the model has none") as caught:
                getattr(prediction, name)
            assert caught.value.image == prediction.id
        assert again.calibrate(others).calibration_ is not None

    def test_keep_what_it_was_made_with(
        self, fitted: Spade, others: dict[str, Any], tmp_path: Path
    ) -> None:
        fitted.set_params(sigma=1.0).save(tmp_path / "model.ks")
        for detector in (fitted, load(tmp_path / "model.ks")):
            (prediction, *_) = detector.predict(others)
            with pytest.raises(CalibrationError, match="sigma changed since: calibrate it again"):
                prediction.verdict  # noqa: B018
        assert fitted.set_params(sigma=4.0).predict(others)[0].verdict in ("normal", "anomalous")


def test_a_defect_is_found_and_marked(spade: Spade, others: dict[str, Any]) -> None:
    id_, image = next(iter(others.items()))
    bad = image.copy()
    bad[20:36, 24:40] = (255, 0, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        good, found = spade.predict({id_: image, "bad": bad})
    assert found.verdict == "anomalous"
    assert found.p_value == 1 / (N + 1)
    assert found.mask[26:30, 30:34].all()
    first = found.regions[0]
    assert first.box.top <= first.peak[0] < first.box.bottom
    assert first.peak_value == found.map.max() == found.map[first.peak]
    assert sum(region.area for region in found.regions) == found.mask.sum()
    if good.verdict == "normal":  # by the map, so that both say the same
        assert not good.mask.any()
        assert good.regions == []


def test_no_defective_image_is_read_to_calibrate(
    backbone: Backbone, normal: dict[str, Any], others: dict[str, Any]
) -> None:
    read: list[str] = []

    class Spied(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            read.append(key)
            return super().__getitem__(key)

        def items(self) -> Any:
            return [(key, self[key]) for key in self]

    detector: Detector = Spade(backbone).fit(Spied(normal), calibration_images=Spied(others))
    assert set(read) == {*normal, *others}
    assert detector.calibration_ is not None
    assert set(detector.calibration_.ids) == set(others)
