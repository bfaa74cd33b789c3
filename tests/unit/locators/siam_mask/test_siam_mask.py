"""A small trained network finds a face, draws it, and is the same from a file."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from faces import Faces, normal_frames, the_faces, trained_locator
from numpy.typing import NDArray

import knnspect as ks
from knnspect import ImageError, ImageWarning, ParameterError, ShapeError, SiamMask, _core
from knnspect.locators import FoundPart, mask_iou

Frames = dict[str, NDArray[np.uint8]]
PLACES = [
    ("grass", 25.0, 1.1, (55.0, 120.0)),
    ("gravel", -50.0, 0.9, (95.0, 50.0)),
    ("coffee", 5.0, 1.3, (70.0, 90.0)),
]


@pytest.fixture
def faces() -> Faces:
    return the_faces()


@pytest.fixture
def frames() -> Frames:
    return normal_frames()


@pytest.fixture
def trained() -> SiamMask:
    return trained_locator()


def assert_same(one: FoundPart, other: FoundPart) -> None:
    assert (one.score, one.threshold, one.p_value) == (other.score, other.threshold, other.p_value)
    np.testing.assert_array_equal(one.matrix, other.matrix)
    np.testing.assert_array_equal(one.mask, other.mask)
    assert one.rotated_box == other.rotated_box


@pytest.mark.parametrize(("name", "angle", "scale", "at"), PLACES)
def test_the_face_is_found_and_drawn(
    trained: SiamMask,
    faces: Faces,
    name: str,
    angle: float,
    scale: float,
    at: tuple[float, float],
) -> None:
    frame, true = faces.pasted(name, angle, scale, at)
    found = trained.locate(frame)
    assert found.score > 0.8
    row, column = found.view.to_original(21.5, 17.5)
    assert np.hypot(row - at[0], column - at[1]) < 5
    assert found.mask.shape == frame.shape[:2]
    assert mask_iou(found.mask, true) > 0.45
    assert found.scale == pytest.approx(scale, rel=0.35)
    box = found.rotated_box
    assert np.hypot(box.row - at[0], box.column - at[1]) < 8
    rows, columns = np.nonzero(found.mask)
    assert found.box == pytest.approx(
        (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1), abs=2
    )
    assert trained.locate(faces.ground(name)).score < found.score


def test_a_large_frame_is_searched_all_over(trained: SiamMask, faces: Faces) -> None:
    at = (200.0, 90.0)
    frame, _ = faces.pasted("grass", 15, 1, at, size=(256, 256))
    found = trained.locate(frame)
    row, column = found.view.to_original(21.5, 17.5)
    assert np.hypot(row - at[0], column - at[1]) < 5


def test_frames_decide_what_is_found(trained: SiamMask, faces: Faces, frames: Frames) -> None:
    calibration = trained.calibration_
    assert calibration is not None
    assert list(calibration.ids or ()) == list(frames)
    assert trained.threshold_ == pytest.approx(float(1 - calibration.scores.max()))
    found = list(trained.locate_all(frames))
    assert all(part.found for part in found)
    assert not trained.locate(faces.ground("brick")).found


def test_images_are_judged_alone(trained: SiamMask, frames: Frames) -> None:
    together = {part.image_id: part for part in trained.locate_all(frames)}
    for id_, frame in reversed(frames.items()):
        assert_same(trained.locate(frame), together[id_])


def test_the_same_seed_trains_the_same_network(faces: Faces) -> None:
    def fitted(seed: int) -> SiamMask:
        locator = SiamMask(width=8, pairs=8, max_epochs=2, seed=seed)
        return locator.fit(faces.template, mask=faces.mask)

    one, same, other = fitted(3), fitted(3), fitted(4)
    assert len(one.history_) == 2
    assert one.history_ == same.history_ != other.history_
    arrays = same.arrays()
    assert all(np.array_equal(value, arrays[name]) for name, value in one.arrays().items())
    assert any(not np.array_equal(value, arrays[name]) for name, value in other.arrays().items())


def test_training_goes_on_from_a_checkpoint(faces: Faces, tmp_path: Path) -> None:
    def locator(epochs: int = 1) -> SiamMask:
        return SiamMask(width=8, pairs=8, max_epochs=epochs)

    path = tmp_path / "half"
    one = locator().fit(faces.template, mask=faces.mask, checkpoint=path)
    assert path.exists()
    again = locator().fit(faces.template, mask=faces.mask, checkpoint=path)
    assert again.history_ == one.history_
    with pytest.raises(ParameterError, match="with another max_epochs"):
        locator(2).fit(faces.template, mask=faces.mask, checkpoint=path)
    with pytest.raises(ParameterError, match="another set of images"):
        locator().fit(faces.template, box=faces.box, checkpoint=path)


def test_it_is_saved_and_loaded_to_the_bit(trained: SiamMask, faces: Faces, tmp_path: Path) -> None:
    path = tmp_path / "face.ks"
    ks.save_locator(trained, path)
    loaded = ks.load_locator(path)
    assert type(loaded) is SiamMask
    assert loaded.history_ == trained.history_
    assert {name: getattr(loaded, name) for name in ("width", "turn", "pairs")} == {
        "width": 32,
        "turn": 60,
        "pairs": 384,
    }
    frame, _ = faces.pasted("coins", 30, 1, (70, 80))
    assert_same(loaded.locate(frame), trained.locate(frame))


def test_it_is_pickled_and_copied(trained: SiamMask, faces: Faces) -> None:
    frame, _ = faces.pasted("coins", 30, 1, (70, 80))
    found = trained.locate(frame)
    assert_same(pickle.loads(pickle.dumps(trained)).locate(frame), found)
    assert_same(copy.deepcopy(trained).locate(frame), found)
    assert pickle.loads(pickle.dumps(SiamMask(turn=3))) == SiamMask(turn=3)


def test_forged_files_are_refused(trained: SiamMask, tmp_path: Path) -> None:
    path = tmp_path / "face.ks"

    def forge(settings: dict[str, object], drop: str | None = None) -> None:
        ks.save_locator(trained, path)
        store = _core.Store(path, True, True)
        config = {**json.loads(store.metadata["config"]), **settings}
        tensors = {name: store.tensor(name).copy() for name in store.names if name != drop}
        del store
        _core.save_tensors(path, "siam_mask", {"config": json.dumps(config)}, tensors)

    for settings, words in (
        ({"width": 31}, "expected finite values of shape"),
        ({"width": 10**9}, "width: expected at most 1024"),
        ({"state": {}}, "'history' is missing"),
        ({"smallest": 3.0}, "smallest: expected at most largest"),
    ):
        forge(dict(settings))
        with pytest.raises(ks.StoreError, match=rf"face\.ks: is damaged: .*{words}"):
            ks.load_locator(path)
    forge({}, drop="learnt.network.adapted.0.weight")
    with pytest.raises(ks.StoreError, match=r"face\.ks: is damaged: .*adapted"):
        ks.load_locator(path)


def test_a_detector_judges_what_is_aligned(trained: SiamMask, frames: Frames) -> None:
    aligned = trained.aligned(frames)
    cut = [item.load() for item in aligned]
    assert [each.shape for each in cut] == [(44, 36, 3)] * 4


def test_a_part_cut_by_the_border_is_searched_for(trained: SiamMask, faces: Faces) -> None:
    frame, _ = faces.pasted("grass", 0, 1.2, (14.0, 95.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageWarning)
        found = trained.locate(frame)
    row, column = found.view.to_original(21.5, 17.5)
    assert np.hypot(row - 14, column - 95) < 20


def test_parts_are_cut_out_by_masks_by_the_template_or_by_their_foreground(faces: Faces) -> None:
    black = np.zeros((200, 200, 3), np.uint8)
    pictures = {}
    for number, scale in enumerate((2.0, 2.4, 2.8)):
        on_black, mask = faces.pasted("moon", 20 * number, scale, (100, 100), size=(200, 200))
        pictures[f"part {number}"] = np.where(mask[..., None], on_black, black), mask
    images = {id_: image for id_, (image, _) in pictures.items()}
    masks = {id_: mask for id_, (_, mask) in pictures.items()}
    from knnspect.locators.siam_mask.parts import cut_parts

    backbone = SiamMask().backbone
    given = cut_parts(images, masks, (200, 200), (None, None), backbone)
    listed = cut_parts(images, list(masks.values()), (200, 200), (None, None), backbone)
    told = cut_parts(images, "foreground", (200, 200), (None, None), backbone)
    for part, same, by_features, mask in zip(given, listed, told, masks.values(), strict=True):
        assert part.mask.sum() == same.mask.sum() == mask.sum()
        assert by_features.mask.sum() == pytest.approx(mask.sum(), rel=0.3)
    boxed = cut_parts(images, "template", (200, 200), ((50, 60, 150, 140), None), backbone)
    assert [part.size for part in boxed] == [(100, 80)] * 3
    with pytest.raises(ParameterError, match="there is none of image part 2"):
        cut_parts(images, {id_: masks[id_] for id_ in ("part 0", "part 1")}, (9, 9), 0, backbone)
    with pytest.raises(ParameterError, match="expected one for each of 3 images, got 1"):
        cut_parts(images, [masks["part 0"]], (200, 200), 0, backbone)
    with pytest.raises(ParameterError, match='masks: expected "foreground", "template", a list'):
        cut_parts(images, "guess", (200, 200), 0, backbone)
    with pytest.raises(ImageError, match=r"image part 0: expected the template's size, \(90, 70\)"):
        cut_parts(images, "template", (90, 70), ((0, 0, 9, 9), None), backbone)
    with pytest.raises(ImageError, match="its foreground cannot be told"):
        cut_parts({"black": black}, "foreground", (200, 200), 0, backbone)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({}, ParameterError, "either the box of the part or its mask"),
        ({"box": (20, 15, 64, 71)}, ParameterError, "within the template's 90 x 70 pixels"),
        ({"mask": np.zeros((90, 70), bool)}, ParameterError, "hides everything"),
        ({"mask": np.ones((70, 90), bool)}, ShapeError, r"the template's size, \(90, 70\)"),
        ({"box": (0, 0, 9, 9), "parts": []}, ImageError, "at least one image"),
        ({"box": (0, 0, 9, 9), "backgrounds": []}, ImageError, "at least one image"),
    ],
)
def test_what_makes_no_sense_is_refused(
    given: dict[str, object], error: type[Exception], words: str, faces: Faces
) -> None:
    with pytest.raises(error, match=words):
        SiamMask().fit(faces.template, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"smallest": 2.0}, "smallest: expected at most largest, 1.4, got 2"),
        ({"turn": 181.0}, "turn: expected at most 180"),
        ({"backbone": ks.Backbone(levels=(1, 2), image_size=224)}, "expected image_size=256"),
        ({"backbone": ks.Backbone(levels=(1, 3), image_size=256)}, "a level of stride 8"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(
    params: dict[str, object], words: str, faces: Faces
) -> None:
    with pytest.raises(ParameterError, match=words):
        SiamMask().set_params(**params).fit(faces.template, box=faces.box)


def test_a_template_larger_than_the_image_is_refused(trained: SiamMask, faces: Faces) -> None:
    with pytest.raises(ImageError, match="image small: the template, 44 x 36 pixels, is larger"):
        list(trained.locate_all({"small": faces.ground("moon")[:24]}))


def test_too_few_frames_for_a_rate_are_refused(faces: Faces, frames: Frames) -> None:
    locator = SiamMask(width=8, pairs=4, max_epochs=1, false_alarm_rate=0.01)
    with pytest.raises(ks.CalibrationError, match=r"0\.01 needs 99 normal images"):
        locator.fit(faces.template, mask=faces.mask, frames=frames)
    assert not hasattr(locator, "part_")


def test_before_fit_nothing_is_found(faces: Faces) -> None:
    with pytest.raises(ks.NotFittedError):
        SiamMask().locate(faces.template)
