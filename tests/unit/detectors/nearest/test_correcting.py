"""Models that compare are corrected: at once, all or nothing, and every step can be taken back."""

from __future__ import annotations

import copy
import os
import threading
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
    Gallery,
    ImageError,
    NotFittedError,
    ParameterError,
    PatchCore,
    Spade,
    StoreError,
    Variants,
    load,
)
from knnspect.corrections import Journal
from knnspect.data import elpv_split
from knnspect.detectors.nearest.base import NearestDetector
from knnspect.model_files import corrections_of

N = 10


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(image_size=64, patch_size=3, device="cpu")


@pytest.fixture(scope="module")
def cells() -> dict[str, NDArray[np.uint8]]:
    split = elpv_split(n_train=N + 6, n_functional=1, n_defective=1)
    return {
        path.stem: np.asarray(Image.open(path).convert("RGB").resize((64, 64)))
        for path in split.train
    }


@pytest.fixture(scope="module")
def normal(cells: dict[str, Any]) -> dict[str, Any]:
    return dict(list(cells.items())[:N])


@pytest.fixture(scope="module")
def others(cells: dict[str, Any]) -> dict[str, Any]:
    return dict(list(cells.items())[N:])


MAKERS: dict[str, Callable[[Backbone], NearestDetector]] = {
    "spade": lambda b: Spade(b, image_neighbors=5),
    "spade, image score": lambda b: Spade(b, image_neighbors=5, score="image"),
    "spade, variants": lambda b: Spade(b, image_neighbors=5, variants=Variants(mirror=True)),
    "spade, late fusion": lambda b: Spade(b, fusion="levels", window=2),
    "spade, mask": lambda b: Spade(b, image_neighbors=5, mask="pca"),
    "int8": lambda b: PatchCore(b, coreset=None, gallery_dtype="int8"),
    "patchcore": lambda b: PatchCore(b, coreset=None),
    "coreset": lambda b: PatchCore(b, coreset=0.1),
    "coreset, projection": lambda b: PatchCore(b, coreset=0.1, projection=16),
    "coreset, image score": lambda b: PatchCore(b, coreset=0.1, score="image"),
    "coreset, variants": lambda b: PatchCore(b, coreset=0.05, variants=Variants(2)),
}
#: Those that keep the features of all images.
EXACT = [name for name in MAKERS if not name.startswith("coreset")]


@pytest.fixture(scope="module", params=list(MAKERS))
def fitted(
    request: pytest.FixtureRequest, backbone: Backbone, normal: dict[str, Any]
) -> NearestDetector:
    return MAKERS[request.param](backbone).fit(normal)


@pytest.fixture
def detector(fitted: NearestDetector) -> NearestDetector:
    return copy.copy(fitted)


@pytest.fixture(scope="module")
def folder_of_spade(
    backbone: Backbone, normal: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("spade") / "model"
    MAKERS["spade"](backbone).fit(normal, folder=folder).save(folder)
    return folder


@pytest.fixture(scope="module")
def folder_of_coreset(
    backbone: Backbone, normal: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("coreset") / "model"
    MAKERS["coreset"](backbone).fit(normal, folder=folder).save(folder)
    return folder


@pytest.fixture(params=["spade", "coreset"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model in a folder of its own."""
    import shutil

    made = request.getfixturevalue(f"folder_of_{request.param}")
    return Path(shutil.copytree(made, tmp_path / "model"))


def judged(detector: NearestDetector, images: dict[str, Any]) -> list[Any]:
    """Return all that is said of the first images."""
    found = []
    for one in detector.predict(dict(list(images.items())[:3])):
        evidence = one.evidence(32, 32)
        found.append((one.id, one.score, one.map.tobytes(), one.p_value, evidence))
    return found


def odd(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image with a dark square."""
    changed: NDArray[np.uint8] = image.copy()
    changed[20:36, 24:40] = 5
    return changed


class TestAdd:
    @pytest.mark.parametrize("name", EXACT)
    def test_predictions_are_those_of_a_fit_with_all_images(
        self,
        name: str,
        backbone: Backbone,
        normal: dict[str, Any],
        others: dict[str, Any],
    ) -> None:
        new = dict(list(others.items())[:3])
        corrected = MAKERS[name](backbone).fit(normal)
        assert corrected.add(new) == list(new)
        anew = MAKERS[name](backbone).fit({**normal, **new})
        if name == "spade, mask":  # what tells the part is that of the first fit
            assert corrected.searched_.image_ids == anew.searched_.image_ids
            return
        # How normal images are at the border, too, is that of the first fit.
        anew.border_ = corrected.border_
        for one, other in zip(corrected.predict(others), anew.predict(others), strict=True):
            if name == "int8":  # which rounds what comes later by itself, all the same
                assert one.score == pytest.approx(other.score, rel=1e-3)
                continue
            assert one.score == other.score
            np.testing.assert_array_equal(one.map, other.map)
            assert one.neighbors is not None
            assert other.neighbors is not None
            np.testing.assert_array_equal(one.neighbors.images, other.neighbors.images)

    def test_an_image_that_was_added_is_found_again(
        self, detector: NearestDetector, others: dict[str, Any]
    ) -> None:
        before = detector.predict(others)
        new = dict(list(others.items())[:2])
        n_before = detector.n_images_
        assert detector.add(new) == list(new)
        after = detector.predict(others)
        assert detector.n_images_ == n_before + 2
        assert all(one.score <= other.score for one, other in zip(after, before, strict=True))
        assert sum(one.score for one in after[:2]) < 0.95 * sum(one.score for one in before[:2])
        assert after[0].neighbors is not None
        nearest = {id_.partition(" ")[0] for id_ in np.unique(after[0].neighbors.images)}
        assert nearest & {*new}
        assert detector.thumbnail(next(iter(new))) is not None
        assert detector.history_[-1].kind == "add"

    def test_the_detector_that_it_was_copied_from_stays_as_it_was(
        self, fitted: NearestDetector, others: dict[str, Any]
    ) -> None:
        before = judged(fitted, others)
        corrected = copy.copy(fitted)
        corrected.add(dict(list(others.items())[:1]))
        assert judged(fitted, others) == before
        assert fitted.history_ == ()

    def test_arrays_without_a_name_get_the_next_free_numbers(
        self, backbone: Backbone, normal: dict[str, Any], others: dict[str, Any]
    ) -> None:
        arrays, more = list(normal.values()), list(others.values())
        detector = MAKERS["patchcore"](backbone).fit(arrays)
        assert detector.add(more[:2]) == [f"{N:06d}", f"{N + 1:06d}"]
        (prediction,) = detector.predict(more[2:3])
        assert detector.accept(prediction, more[2]) == f"{N + 2:06d}"

    def test_an_id_that_is_there_or_was_there_is_refused_before_any_work(
        self, detector: NearestDetector, normal: dict[str, Any], others: dict[str, Any]
    ) -> None:
        known, new = next(iter(normal)), next(iter(others))
        before = judged(detector, others)
        with pytest.raises(ParameterError, match=f"image {known}: the model has, or had"):
            detector.add({new: others[new], known: others[new]})
        assert judged(detector, others) == before
        assert detector.history_ == ()
        detector.remove([known])
        with pytest.raises(ParameterError, match="or had, another image of this id"):
            detector.add({known: others[new]})

    def test_bad_images_leave_the_model_as_it_was(
        self, detector: NearestDetector, others: dict[str, Any], tmp_path: Path
    ) -> None:
        before = judged(detector, others)
        (tmp_path / "good.png").write_bytes(b"")
        with pytest.raises(ImageError):
            detector.add(tmp_path / "good.png")
        with pytest.raises(ImageError):
            detector.add([])
        assert judged(detector, others) == before

    def test_unusable_images_are_left_out_if_wanted(
        self, detector: NearestDetector, others: dict[str, Any], tmp_path: Path
    ) -> None:
        (tmp_path / "bad.png").write_bytes(b"")
        Image.fromarray(next(iter(others.values()))).save(tmp_path / "good.png")
        left_out: list[str] = []
        ids = detector.add(tmp_path, skip_bad=lambda id_, _: left_out.append(id_))
        assert (ids, left_out) == (["good.png"], ["bad.png"])
        (correction,) = detector.history_
        assert correction.images == ("good.png",)
        assert correction.added["good.png"].file == str(tmp_path / "good.png")

    def test_before_fit_there_is_nothing_to_correct(self, backbone: Backbone) -> None:
        spade = Spade(backbone)
        for correct in (
            lambda: spade.add([]),
            lambda: spade.remove(["a"]),
            lambda: spade.rollback(0),
            lambda: spade.history_,
        ):
            with pytest.raises(NotFittedError):
                correct()


class TestRemove:
    @pytest.mark.parametrize("name", EXACT)
    def test_predictions_are_those_of_a_fit_without_the_images(
        self, name: str, backbone: Backbone, normal: dict[str, Any], others: dict[str, Any]
    ) -> None:
        gone = list(normal)[2:4]
        corrected = MAKERS[name](backbone).fit(normal)
        corrected.remove(gone)
        assert corrected.n_images_ == N - 2
        anew = MAKERS[name](backbone).fit({k: v for k, v in normal.items() if k not in gone})
        assert corrected.searched_.image_ids == anew.searched_.image_ids
        if name == "spade, mask":
            return
        anew.border_ = corrected.border_
        for one, other in zip(corrected.predict(others), anew.predict(others), strict=True):
            assert one.score == other.score

    def test_what_was_removed_is_not_found(
        self, detector: NearestDetector, others: dict[str, Any]
    ) -> None:
        evidence = detector.predict(others)[0].evidence(32, 32)
        assert evidence is not None
        detector.remove([evidence.image])
        for prediction in detector.predict(others):
            assert prediction.neighbors is not None
            assert not any(
                id_.startswith(evidence.image) for id_ in np.unique(prediction.neighbors.images)
            )
            assert evidence.image not in dict(prediction.images)

    def test_what_is_unknown_or_would_leave_nothing_is_refused(
        self, detector: NearestDetector, normal: dict[str, Any], others: dict[str, Any]
    ) -> None:
        before = judged(detector, others)
        for ids, message in (
            (["nowhere.png"], "expected images of the model, got nowhere.png"),
            ([], "expected at least one image"),
            (list(normal), "expected to leave at least one normal image"),
        ):
            with pytest.raises(ParameterError, match=message):
                detector.remove(ids)
        assert judged(detector, others) == before

    def test_too_few_images_for_a_parameter_are_refused(
        self, backbone: Backbone, normal: dict[str, Any]
    ) -> None:
        few = dict(list(normal.items())[:2])
        detector = PatchCore(backbone, coreset=None, score="image", neighbors=300).fit(few)
        detector.remove([next(iter(few))])  # of fewer, all
        spade = Spade(backbone, pixel_neighbors=300).fit(normal)
        with pytest.raises(ParameterError, match="pixel_neighbors: expected at most the 256 cells"):
            spade.remove(list(normal)[1:])
        assert spade.n_images_ == N
        assert spade.history_ == ()


class TestRollback:
    def test_every_state_comes_back_as_it_was(
        self, detector: NearestDetector, normal: dict[str, Any], others: dict[str, Any]
    ) -> None:
        new = list(others.items())
        states = [judged(detector, others)]
        detector.add(dict(new[:2]))
        states.append(judged(detector, others))
        detector.remove([new[0][0], next(iter(normal))])
        states.append(judged(detector, others))
        detector.accept(detector.predict(dict(new[3:4]))[0], new[3][1])
        states.append(judged(detector, others))
        for to in (1, 0, 3, 2):
            detector.rollback(to)
            assert [s[:3] for s in judged(detector, others)] == [s[:3] for s in states[to]]
        assert [one.to for one in detector.history_[3:]] == [1, 0, 3, 2]
        with pytest.raises(ParameterError, match="to: expected the number of a correction"):
            detector.rollback(9)

    def test_files_keep_the_history(
        self, detector: NearestDetector, others: dict[str, Any], tmp_path: Path
    ) -> None:
        new = list(others.items())
        detector.add(dict(new[:2]))
        detector.remove([new[0][0]])
        detector.save(tmp_path / "model.ks")
        again = load(tmp_path / "model.ks")
        assert isinstance(again, NearestDetector)
        assert judged(again, others) == judged(detector, others)
        assert [one.to_json() for one in again.history_] == [
            one.to_json() for one in detector.history_
        ]
        assert not again.is_corrected_in_place
        for one in (again, detector):
            one.rollback(1)
        assert judged(again, others) == judged(detector, others)
        with pytest.raises(ParameterError, match="another image of this id"):
            again.add(dict(new[:1]))
        assert again.thumbnail(new[1][0]) == detector.thumbnail(new[1][0]) is not None
        # A corrected model can be corrected and saved any number of times.
        again.add(dict(new[2:3]))
        again.save(tmp_path / "model.ks")
        third = load(tmp_path / "model.ks")
        assert isinstance(third, NearestDetector)
        assert judged(third, others) == judged(again, others)


class TestAccept:
    def test_a_false_alarm_is_judged_normal_from_then_on(
        self, backbone: Backbone, normal: dict[str, Any], others: dict[str, Any]
    ) -> None:
        detector = MAKERS["spade"](backbone).fit(normal)
        strange = {"strange.png": odd(next(iter(others.values())))}
        (before,) = detector.predict(strange)
        assert before.is_anomalous
        assert detector.accept(before, strange["strange.png"]) == "strange.png"
        (after,) = detector.predict(strange)
        assert not after.is_anomalous
        assert after.score == 0
        (correction,) = detector.history_
        assert correction.scores == {"strange.png": (before.score, float(before.map.max()))}

    def test_what_another_model_said_does_not_decide(
        self, backbone: Backbone, normal: dict[str, Any], others: dict[str, Any]
    ) -> None:
        image = next(iter(others.values()))
        one, other = (MAKERS["spade"](backbone).fit(normal) for _ in range(2))
        other.remove(list(normal)[:4])
        (prediction,) = other.predict([image])
        one.accept(prediction, image, id="new")
        other.rollback(0)
        (expected,) = other.predict([image])
        assert one.history_[0].scores["new"][0] == expected.score

    def test_scores_are_found_anew_where_they_decide(
        self, backbone: Backbone, normal: dict[str, Any], others: dict[str, Any]
    ) -> None:
        detector = MAKERS["patchcore"](backbone).fit(normal)
        images = [odd(image) for image in list(others.values())[:3]]
        alone = detector.predict(images)
        for number, image in enumerate(images):
            (prediction,) = detector.predict([image])
            detector.accept(prediction, image, id=f"odd {number}")
        detector.predict(images)
        assert detector.calibration_ is not None
        scores = dict(zip(detector.calibration_.ids, detector.calibration_.scores, strict=True))
        highest = max(scores, key=lambda id_: scores[id_])
        assert detector.calibration_.threshold(0.1) == scores[highest]
        anew = MAKERS["patchcore"](backbone).fit(
            {**normal, **{f"odd {n}": image for n, image in enumerate(images)}}
        )
        assert anew.calibration_ is not None
        exact = dict(zip(anew.calibration_.ids, anew.calibration_.scores, strict=True))
        assert scores["odd 0"] < 0.9 * alone[0].score, "others like it came after it"
        # Upper bounds, and what decides is exact but for the border.
        assert all(scores[id_] >= 0.9 * exact[id_] for id_ in scores)
        assert scores[highest] == pytest.approx(exact[highest], rel=0.1)

    def test_the_file_is_read_again_and_must_be_the_same(
        self, detector: NearestDetector, others: dict[str, Any], tmp_path: Path
    ) -> None:
        file, image = tmp_path / "latest.png", list(others.values())
        Image.fromarray(image[0]).save(file)
        (prediction,) = detector.predict(file)
        copied = copy.copy(detector)
        assert copied.accept(prediction) == str(file)
        assert copied.predict(file)[0].score < prediction.score
        Image.fromarray(image[1]).save(file)
        os.utime(file, ns=(1, 1))
        with pytest.raises(ImageError, match="was changed or moved since it was judged"):
            detector.accept(prediction)
        file.unlink()
        with pytest.raises(ImageError, match="was changed or moved"):
            detector.accept(prediction)
        assert detector.accept(prediction, image[0], id="kept") == "kept"

    def test_a_picture_that_was_kept_is_taken(
        self, detector: NearestDetector, others: dict[str, Any]
    ) -> None:
        new = dict(list(others.items())[:1])
        (without,) = detector.predict(new)
        with pytest.raises(ImageError, match="give the image that was judged"):
            detector.accept(without)
        (prediction,) = detector.iter_predict(new, keep_pictures=True)
        detector.accept(prediction)
        assert detector.predict(new)[0].score < prediction.score

    @pytest.mark.parametrize("coreset", [0.3, 0.03, 5])
    def test_a_coreset_takes_what_it_needs_to_judge_the_image_normal(
        self, coreset: float, backbone: Backbone, normal: dict[str, Any], others: dict[str, Any]
    ) -> None:
        detector = PatchCore(backbone, coreset=coreset).fit(normal)
        radius = detector.searched_.sq_radius  # type: ignore[union-attr]
        strange = {"strange.png": odd(next(iter(others.values())))}
        (before,) = detector.predict(strange)
        assert before.is_anomalous
        threshold = before.threshold
        detector.accept(before, strange["strange.png"])
        (after,) = detector.predict(strange)
        assert after.score <= threshold
        assert not after.is_anomalous
        assert not after.mask.any()
        assert detector.searched_.sq_radius == radius  # type: ignore[union-attr]


class TestReject:
    def test_a_known_defect_is_named_where_it_comes_again(
        self, backbone: Backbone, normal: dict[str, Any], others: dict[str, Any]
    ) -> None:
        detector = MAKERS["coreset"](backbone).fit(normal)
        first, second, third = list(others.values())[:3]
        before = judged(detector, others)
        (prediction,) = detector.predict({"a": odd(first)})
        assert prediction.known is None
        assert detector.reject(prediction, "square", odd(first)) == "a"
        assert judged(detector, others) == before, "nothing else changes"
        again, good = detector.predict([odd(second), third])
        assert again.known_defect is not None
        assert (again.known_defect.name, again.known_defect.image) == ("square", "a")
        assert again.regions[0].known_defect == again.known_defect
        assert good.known_defect is None
        detector.remove(["a"])
        assert detector.predict([odd(second)])[0].known_defect is None
        detector.rollback(1)
        assert detector.predict([odd(second)])[0].known_defect is not None

    def test_two_kinds_are_told_apart_in_a_file_too(
        self, backbone: Backbone, normal: dict[str, Any], others: dict[str, Any], tmp_path: Path
    ) -> None:
        detector = MAKERS["spade"](backbone).fit(normal)

        def bright(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
            changed: NDArray[np.uint8] = image.copy()
            changed[40:56, 8:24] = 250
            return changed

        first, second = list(others.values())[:2]
        for name, change in (("dark", odd), ("bright", bright)):
            (prediction,) = detector.predict([change(first)])
            detector.reject(prediction, name, change(first), id=f"{name}.png")
        detector.save(tmp_path / "model.ks")
        found = load(tmp_path / "model.ks").predict([odd(second), bright(second)])
        names = [one.known_defect and one.known_defect.name for one in found]
        assert names == ["dark", "bright"]

    def test_what_cannot_be_remembered_is_refused(
        self, backbone: Backbone, normal: dict[str, Any], others: dict[str, Any]
    ) -> None:
        late = MAKERS["spade, late fusion"](backbone).fit(normal)
        (prediction,) = late.iter_predict([odd(next(iter(others.values())))], keep_pictures=True)
        with pytest.raises(ParameterError, match="fusion: expected"):
            late.reject(prediction, "square")
        spade = MAKERS["spade"](backbone).fit(normal)
        with pytest.raises(ParameterError, match="name: expected a name"):
            spade.reject(prediction, " ")


class TestDecisions:
    def test_added_images_decide_and_removed_ones_do_not(
        self, backbone: Backbone, normal: dict[str, Any], others: dict[str, Any]
    ) -> None:
        detector = MAKERS["spade"](backbone).fit(normal)
        gone, new = next(iter(normal)), dict(list(others.items())[:2])
        detector.add(new)
        detector.remove([gone])
        calibration = detector.calibration_
        assert calibration is not None
        assert set(calibration.ids) == {*normal, *new} - {gone}
        assert calibration.n_images == N + 1
        expected = dict(zip(calibration.ids, calibration.scores, strict=True))
        for id_ in new:
            left = copy.copy(detector)
            left.remove([id_])
            assert left.predict({id_: new[id_]})[0].score == expected[id_]

    def test_held_out_images_go_on_to_decide(
        self, backbone: Backbone, normal: dict[str, Any], others: dict[str, Any], tmp_path: Path
    ) -> None:
        held, new = dict(list(others.items())[:4]), dict(list(others.items())[4:5])
        detector = MAKERS["spade"](backbone).fit(normal, calibration_images=held)
        before = detector.calibration_
        assert before is not None
        detector.add(new)
        assert detector.calibration_ is before
        with pytest.raises(CalibrationError, match="1 of the 1 calibration images were learnt"):
            detector.calibrate(new)
        detector.remove(list(new))
        detector.calibrate(dict(list(others.items())[4:6]))
        detector.save(tmp_path / "model.ks")
        again = load(tmp_path / "model.ks")
        assert again.calibration_ is not None
        assert again.calibration_.ids == tuple(list(others)[4:6])

    def test_a_removed_image_may_calibrate(
        self, backbone: Backbone, normal: dict[str, Any], tmp_path: Path
    ) -> None:
        detector = MAKERS["spade"](backbone).fit(normal)
        gone = list(normal)[3]
        detector.remove([gone])
        detector.save(tmp_path / "model.ks")
        for one in (detector, load(tmp_path / "model.ks")):
            with pytest.raises(CalibrationError, match="1 of the 2 calibration images were learnt"):
                one.calibrate({id_: normal[id_] for id_ in (gone, list(normal)[4])})
            one.calibrate({gone: normal[gone]})

    def test_where_some_images_decide_as_many_of_the_added_ones_do(
        self, backbone: Backbone, normal: dict[str, Any], others: dict[str, Any]
    ) -> None:
        detector = MAKERS["patchcore"](backbone).fit(normal)
        alone = detector.calibration_
        assert alone is not None
        alone.n_images = 100 * N
        detector.add(others)
        assert set(detector.history_[0].scores) < set(others)


class TestFolders:
    def test_each_correction_is_there_at_once(self, folder: Path, others: dict[str, Any]) -> None:
        model_file = (folder / "model").read_bytes()
        detector = load(folder)
        assert isinstance(detector, NearestDetector)
        assert detector.is_corrected_in_place
        new = list(others.items())
        (prediction,) = detector.predict(dict(new[:1]))
        steps: list[Callable[[], object]] = [
            lambda: detector.add(dict(new[1:3])),
            lambda: detector.accept(prediction, new[0][1]),
            lambda: detector.reject(detector.predict([odd(new[3][1])])[0], "x", odd(new[3][1])),
            lambda: detector.remove([new[1][0]]),
            lambda: detector.rollback(1),
        ]
        for step in steps:
            step()
            again = load(folder)
            assert isinstance(again, NearestDetector)
            assert judged(again, others) == judged(detector, others)
            assert again.n_images_ == detector.n_images_
        assert [one.kind for one in corrections_of(folder)] == [
            "add",
            "accept",
            "reject",
            "remove",
            "rollback",
        ]
        assert (folder / "model").read_bytes() == model_file, "it need not be written anew"

    def test_memory_and_folder_say_the_same(
        self, folder: Path, others: dict[str, Any], tmp_path: Path
    ) -> None:
        in_folder = load(folder)
        in_folder.save(tmp_path / "model.ks")
        in_memory = load(tmp_path / "model.ks")
        new = list(others.items())
        for detector in (in_folder, in_memory):
            assert isinstance(detector, NearestDetector)
            detector.add(dict(new[:2]))
            detector.remove([new[0][0]])
        assert isinstance(in_folder, NearestDetector)
        assert isinstance(in_memory, NearestDetector)
        assert judged(in_folder, others) == judged(in_memory, others)
        in_folder.save(tmp_path / "copy.ks")
        again = load(tmp_path / "copy.ks")
        assert isinstance(again, NearestDetector)
        assert judged(again, others) == judged(in_folder, others)
        again.rollback(1)
        in_folder.rollback(1)
        assert judged(again, others) == judged(in_folder, others)

    def test_another_writer_is_not_disturbed(self, folder: Path, others: dict[str, Any]) -> None:
        detector, new = load(folder), list(others.items())
        assert isinstance(detector, NearestDetector)
        before = judged(detector, others)
        with (
            Gallery.open(folder / "gallery", "r+"),
            pytest.raises(StoreError, match="open for writing"),
        ):
            detector.add(dict(new[:1]))
        assert judged(detector, others) == before
        other = load(folder)
        assert isinstance(other, NearestDetector)
        other.add(dict(new[:1]))
        with pytest.raises(StoreError, match="corrected by another process since it was loaded"):
            detector.remove([next(iter(detector._stored.images))])
        with pytest.raises(StoreError, match="corrected by another process"):
            detector.save(folder)
        assert judged(detector, others) == before
        again = load(folder)
        assert isinstance(again, NearestDetector)
        assert judged(again, others) == judged(other, others)

    def test_what_a_kill_has_left_in_the_gallery_does_not_count(
        self, folder_of_spade: Path, others: dict[str, Any], tmp_path: Path
    ) -> None:
        import shutil

        folder = Path(shutil.copytree(folder_of_spade, tmp_path / "model"))
        before = judged(load(folder), others)  # type: ignore[arg-type]
        new = dict(list(others.items())[:2])
        detector = load(folder)
        assert isinstance(detector, NearestDetector)
        detector.add(new)
        journal = Journal.read(folder / "corrections")
        assert journal is not None
        with (folder / "corrections").open("r+b") as file:
            file.truncate(journal.last + 9)  # killed while the line is written
        again = load(folder)
        assert isinstance(again, NearestDetector)
        assert judged(again, others) == before
        assert again.history_ == ()
        again.save(tmp_path / "copy.ks")
        copied = load(tmp_path / "copy.ks")
        assert isinstance(copied, NearestDetector)
        assert judged(copied, others) == before
        again.add(new)
        assert again._all_ids == again._all.image_ids
        assert judged(again, others) == judged(detector, others)

    def test_calibrated_and_saved_again_it_keeps_its_corrections(
        self, folder: Path, others: dict[str, Any]
    ) -> None:
        detector, new = load(folder), list(others.items())
        assert isinstance(detector, NearestDetector)
        detector.add(dict(new[:2]))
        detector.calibrate(dict(new[2:]))
        detector.save(folder)
        again = load(folder)
        assert isinstance(again, NearestDetector)
        assert again.calibration_ is not None
        assert again.calibration_.kind == "held out"
        assert judged(again, others) == judged(detector, others)
        again.rollback(0)
        assert again.n_images_ == N

    def test_fitted_again_it_has_none(
        self, folder: Path, normal: dict[str, Any], others: dict[str, Any]
    ) -> None:
        detector = load(folder)
        assert isinstance(detector, NearestDetector)
        new = dict(list(others.items())[:1])
        detector.add(new)
        with pytest.warns(UserWarning, match=r"1 correction,.*1 image that was added"):
            detector.fit(normal, folder=folder)
        if isinstance(detector, Spade):
            with pytest.raises(StoreError, match="images that were added are not there any more"):
                load(folder)
        detector.save(folder)
        assert corrections_of(folder) == ()
        again = load(folder)
        assert isinstance(again, NearestDetector)
        assert again.n_images_ == N
        again.add(new)
        assert again.n_images_ == N + 1

    def test_altered_corrections_are_refused(self, folder: Path, others: dict[str, Any]) -> None:
        detector = load(folder)
        assert isinstance(detector, NearestDetector)
        detector.add(dict(list(others.items())[:1]))
        contents = bytearray((folder / "corrections").read_bytes())
        contents[len(contents) // 2] ^= 1
        (folder / "corrections").write_bytes(contents)
        with pytest.raises(StoreError, match="is damaged: what was corrected cannot be used"):
            load(folder)


def test_a_thread_that_judges_meanwhile_sees_one_state_or_the_other(
    backbone: Backbone, normal: dict[str, Any], others: dict[str, Any]
) -> None:
    detector = MAKERS["spade"](backbone).fit(normal)
    image = dict(list(others.items())[:1])
    new = dict(list(others.items())[1:3])
    seen: set[float] = {detector.predict(image)[0].score}
    other = copy.copy(detector)
    other.add(new)
    states = {*seen, other.predict(image)[0].score}
    stop = threading.Event()
    errors: list[Exception] = []

    def judge() -> None:
        try:
            while not stop.is_set():
                seen.add(detector.predict(image)[0].score)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=judge)
    thread.start()
    detector.add(new)
    for to in (0, 1, 0, 1, 0, 1):
        detector.rollback(to)
    stop.set()
    thread.join()
    assert not errors
    assert seen <= states
