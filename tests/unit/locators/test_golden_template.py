"""A part is found where it was pasted, and only there."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import skimage
from numpy.typing import NDArray
from PIL import Image

import knnspect as ks
from knnspect import GoldenTemplate, ImageError, ImageWarning, ParameterError, ShapeError, _core
from knnspect.locators import Locator
from knnspect.views import AlignedView, Region, similarity

SIZE, PART = (128, 160), (44, 36)
#: Pixels of the network's input between cells of the finest level, of an input of 160 pixels.
STRIDE = 4
CENTRE = (21.5, 17.5)


def picture(name: str) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = getattr(skimage.data, name)()
    return found


def frame(name: str, turns: int = 0) -> NDArray[np.uint8]:
    ground = np.rot90(picture(name), turns)
    if ground.ndim == 2:
        ground = np.repeat(ground[..., None], 3, axis=2)
    return np.ascontiguousarray(ground[: 2 * SIZE[0] : 2, : 2 * SIZE[1] : 2])


def ellipse() -> NDArray[np.bool_]:
    rows, columns = np.indices(PART)
    found: NDArray[np.bool_] = ((rows - CENTRE[0]) / 22) ** 2 + (
        (columns - CENTRE[1]) / 18
    ) ** 2 < 1
    return found


@pytest.fixture(scope="module")
def template() -> NDArray[np.uint8]:
    """A face, which lies at rows 20 to 64 and columns 15 to 51."""
    found = np.full((90, 70, 3), 128, np.uint8)
    face = Image.fromarray(picture("astronaut")[34:210, 160:304])
    found[20:64, 15:51] = np.asarray(face.reduce(4))
    return found


@pytest.fixture(scope="module")
def mask(template: NDArray[np.uint8]) -> NDArray[np.bool_]:
    found = np.zeros(template.shape[:2], bool)
    found[20:64, 15:51] = ellipse()
    return found


def backbone() -> ks.Backbone:
    return ks.Backbone(levels=(1, 2), image_size=160, resize="pad")


@pytest.fixture(scope="module")
def locator(template: NDArray[np.uint8], mask: NDArray[np.bool_]) -> GoldenTemplate:
    found = GoldenTemplate(backbone(), smallest=0.8, largest=1.25, scales=3)
    return found.fit(template, mask=mask)


def pasted(
    template: NDArray[np.uint8],
    ground: NDArray[np.uint8],
    angle: float,
    scale: float,
    at: tuple[float, float],
) -> NDArray[np.uint8]:
    part = template[20:64, 15:51]
    view = AlignedView(PART, ground.shape[:2], similarity(angle, scale, at=CENTRE, to=at))
    shown = AlignedView(ground.shape[:2], PART, view.inverse).to_image(ellipse())[..., None]
    mixed: NDArray[np.uint8] = np.rint(view.cut(part) * shown + ground * (1 - shown)).astype("u1")
    return mixed


PLACES = [
    ("brick", 0.0, 1.0, (60.0, 80.0)),
    ("grass", 71.0, 0.85, (40.3, 110.6)),
    ("gravel", 200.0, 1.2, (70.2, 60.9)),
    ("coins", -33.0, 1.0, (88.8, 41.1)),
]


@pytest.mark.parametrize(("name", "angle", "scale", "at"), PLACES)
def test_a_part_is_found_where_it_was_pasted(
    locator: GoldenTemplate,
    template: NDArray[np.uint8],
    name: str,
    angle: float,
    scale: float,
    at: tuple[float, float],
) -> None:
    image = pasted(template, frame(name), angle, scale, at)
    found = locator.locate(image)
    assert found.found
    assert found.score > 0.5
    box = found.rotated_box
    assert np.hypot(box.row - at[0], box.column - at[1]) < STRIDE / 2
    assert abs((found.angle - angle + 180) % 360 - 180) < 3
    assert found.scale == pytest.approx(scale, rel=0.05)
    # The mask is the ellipse, moved the same way.
    way = similarity(angle, scale, at=CENTRE, to=at)
    true = AlignedView(SIZE, PART, AlignedView(PART, SIZE, way).inverse).to_image(ellipse()) >= 0.5
    assert (found.mask & true).sum() / (found.mask | true).sum() > 0.85
    assert found.share_inside == 1


@pytest.mark.parametrize("name", ["brick", "grass", "gravel", "coins", "moon"])
def test_a_frame_without_the_part_is_not_found(locator: GoldenTemplate, name: str) -> None:
    found = locator.locate(frame(name))
    assert not found.found
    assert found.score < locator.threshold_ == locator.least_score
    assert found.p_value is None


def test_a_frame_of_other_proportions_is_searched_as_well(
    locator: GoldenTemplate, template: NDArray[np.uint8]
) -> None:
    ground = np.ascontiguousarray(frame("brick").transpose(1, 0, 2))
    found = locator.locate(pasted(template, ground, 120, 0.9, (101.0, 44.0)))
    assert found.found
    assert np.hypot(found.rotated_box.row - 101, found.rotated_box.column - 44) < STRIDE / 2


def test_upright_images_are_as_the_template(
    locator: GoldenTemplate, template: NDArray[np.uint8]
) -> None:
    images = {
        name: pasted(template, frame(name), angle, scale, at) for name, angle, scale, at in PLACES
    }
    aligned = locator.aligned(images)
    upright = {item.id: item.load() for item in aligned}
    assert list(upright) == list(images)
    part = template[20:64, 15:51].astype(float)
    for name, image in upright.items():
        off = np.abs(image.astype(float) - part)[ellipse()].mean()
        assert off < 12, name
    wider = {item.id: item.load() for item in locator.aligned(images, margin=0.25)}
    for name, image in wider.items():
        assert image.shape == (66, 54, 3)
        off = np.abs(image[11:-11, 9:-9].astype(float) - upright[name].astype(float))
        assert off.mean() < 6, name  # another pixel is 20 away


def test_a_detector_judges_upright_parts_and_its_maps_come_back(
    locator: GoldenTemplate, template: NDArray[np.uint8]
) -> None:
    rng = np.random.default_rng(0)
    normal = {
        f"{name} {turn}": pasted(template, frame(name, turn), rng.uniform(0, 360), 1, (64, 80))
        for turn, name in enumerate(["brick", "grass", "gravel"])
    }
    image = pasted(template, frame("coins"), 135, 1, (64.0, 70.0))
    view = AlignedView(PART, SIZE, similarity(135, 1, at=CENTRE, to=(64.0, 70.0)))
    row, column = view.to_frame(28, 12)
    spoilt = image.copy()
    rows, columns = np.indices(SIZE)
    hole = (rows - row) ** 2 + (columns - column) ** 2 < 5**2
    spoilt[hole] = (0, 255, 0)
    detector = ks.PatchCore(ks.Backbone(levels=(1, 2), image_size=96), coreset=1.0, sigma=1.0)
    detector.fit(locator.aligned(normal))
    judged = locator.aligned({"good": image, "spoilt": spoilt, "none": frame("moon")})
    with pytest.warns(ImageWarning, match="none: the part was not found"):
        good, bad = detector.predict(judged, skip_bad=True)
    assert bad.score > good.score
    map_ = judged.to_image("spoilt", bad.map, outside=float(bad.map.min()))
    assert map_.shape == SIZE
    at = np.unravel_index(map_.argmax(), SIZE)
    assert np.hypot(at[0] - row, at[1] - column) < 8
    with pytest.raises(ParameterError, match="no image 'none' was read"):
        judged.to_image("none", bad.map)
    with pytest.raises(ImageError, match="image none: the part was not found: its score is"):
        detector.predict(locator.aligned({"none": frame("moon")}))


@pytest.fixture(scope="module")
def calibrated(template: NDArray[np.uint8], mask: NDArray[np.bool_]) -> GoldenTemplate:
    frames = {
        name: pasted(template, frame(name, 1), angle, scale, at)
        for name, angle, scale, at in PLACES
    }
    found = GoldenTemplate(backbone(), smallest=1, largest=1, scales=1, turns=12)
    return found.fit(template, mask=mask, frames=frames)


def test_normal_frames_decide_what_is_found(
    calibrated: GoldenTemplate, template: NDArray[np.uint8]
) -> None:
    calibration = calibrated.calibration_
    assert calibration is not None
    least = float(1 - calibration.scores.max())
    assert calibrated.threshold_ == pytest.approx(least)
    name, angle, scale, at = PLACES[0]
    same = calibrated.locate(pasted(template, frame(name, 1), angle, scale, at))
    assert same.found
    assert same.p_value == calibration.p_value(1 - same.score)
    without = calibrated.locate(frame("moon"))
    assert not without.found
    assert without.p_value == calibration.smallest_rate == 0.2
    calibrated.set_params(false_alarm_rate=0.4)
    assert calibrated.threshold_ == pytest.approx(1 - np.sort(calibration.scores)[-2])
    calibrated.set_params(false_alarm_rate=None)
    with pytest.raises(ks.CalibrationError, match=r"0\.01 needs 99 normal images"):
        calibrated.set_params(false_alarm_rate=0.01).locate(frame("moon"))
    calibrated.set_params(false_alarm_rate=None)


def test_it_is_saved_and_loaded(
    calibrated: GoldenTemplate, template: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = tmp_path / "face.ks"
    ks.save_locator(calibrated, path)
    loaded = ks.load_locator(path)
    assert type(loaded) is GoldenTemplate
    assert loaded.turns == 12
    image = pasted(template, frame("coins"), 50, 1, (60.0, 77.0))
    one, other = calibrated.locate(image), loaded.locate(image)
    assert (one.score, one.threshold, one.p_value) == (other.score, other.threshold, other.p_value)
    np.testing.assert_array_equal(one.matrix, other.matrix)
    np.testing.assert_array_equal(one.mask, other.mask)


def test_files_that_hold_something_else_are_refused(
    calibrated: GoldenTemplate, tmp_path: Path
) -> None:
    path = tmp_path / "face.ks"
    with pytest.raises(ks.NotFittedError):
        ks.save_locator(GoldenTemplate(), path)
    with pytest.raises(ks.StoreError, match="expected a file, it is a folder"):
        ks.save_locator(calibrated, tmp_path)
    ks.save_locator(calibrated, path)
    with pytest.raises(ks.StoreError, match="expected a detector, the file holds a golden_templ"):
        ks.load(path)
    contents = bytearray(path.read_bytes())
    contents[-100] ^= 1
    path.write_bytes(contents)
    with pytest.raises(ks.StoreError, match=r"face\.ks"):
        ks.load_locator(path)
    ks.save_locator(calibrated, path)
    with pytest.raises(ks.ParameterError, match="device"):
        ks.load_locator(path, device="nowhere")


def forged(locator: GoldenTemplate, path: Path, **settings: object) -> None:
    """Save a locator with other settings, and a checksum that suits them."""
    ks.save_locator(locator, path)
    store = _core.Store(path, True, True)
    config = {**json.loads(store.metadata["config"]), **settings}
    tensors = {name: store.tensor(name).copy() for name in store.names}
    del store
    _core.save_tensors(path, "golden_template", {"config": json.dumps(config)}, tensors)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"turns": 0}, "turns: expected at least 1"),
        ({"turns": 10**9}, "turns: expected at most 360"),
        ({"smallest": 3.0}, "smallest: expected at most largest"),
        ({"part": {}}, "'dtype' is missing"),
        ({"part": {"dtype": "object", "mask": {}}}, "'object' is missing"),
        (
            {"part": {"dtype": "uint8", "mask": {"height": 10**6, "width": 10**6, "bits": ""}}},
            "expected float16 pixels of a part of",
        ),
        (
            {"part": {"dtype": "float32", "mask": {"height": 44, "width": 36, "bits": ""}}},
            "expected float32 pixels",
        ),
        ({"calibration": {"kind": "held out"}}, "'ids' is missing"),
        ({"false_alarm_rate": 0.001}, "false_alarm_rate"),
    ],
)
def test_settings_of_a_file_that_make_no_sense_are_refused(
    settings: dict[str, object], words: str, calibrated: GoldenTemplate, tmp_path: Path
) -> None:
    path = tmp_path / "face.ks"
    forged(calibrated, path, **settings)
    with pytest.raises(ks.StoreError, match=rf"face\.ks: is damaged: .*{words}"):
        ks.load_locator(path)


def test_a_part_of_more_than_8_bits_is_kept(
    template: NDArray[np.uint8], mask: NDArray[np.bool_], tmp_path: Path
) -> None:
    deep = template.astype(np.float32) / 255
    locator = GoldenTemplate(backbone(), turns=1, scales=1, smallest=1, largest=1)
    locator.fit(deep, mask=mask)
    ks.save_locator(locator, tmp_path / "face.ks")
    loaded = ks.load_locator(tmp_path / "face.ks")
    np.testing.assert_array_equal(loaded.part_.pixels, deep[20:64, 15:51])
    image = pasted(template, frame("brick"), 0, 1, (60, 80)).astype(np.float32) / 255
    assert loaded.locate(image).found
    assert loaded.locate(image).score == locator.locate(image).score


def test_a_part_at_the_border_is_said_to_be_cut(
    locator: GoldenTemplate, template: NDArray[np.uint8]
) -> None:
    image = pasted(template, frame("brick"), 0, 1, (16.0, 80.0))
    with pytest.warns(ImageWarning, match=r"image cut: \d+% of the part lie beyond the border"):
        (found,) = locator.locate_all({"cut": image})
    assert found.found
    assert abs(found.rotated_box.row - 16) < STRIDE
    assert found.share_inside == pytest.approx(0.9, abs=0.06)
    assert found.box.top < 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        locator.locate(frame("brick"))


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({}, ParameterError, "either the box of the part or its mask"),
        ({"box": (0, 0, 9, 9), "mask": np.ones((90, 70), bool)}, ParameterError, "either"),
        ({"box": (20, 15, 64, 71)}, ParameterError, "within the template's 90 x 70 pixels"),
        ({"box": (64, 15, 20, 51)}, ParameterError, "top above bottom"),
        ({"box": (1, 2, 3)}, ParameterError, "expected top, left, bottom and right"),
        ({"box": 7}, ParameterError, "expected top, left, bottom and right"),
        ({"mask": np.zeros((90, 70), bool)}, ParameterError, "hides everything"),
        ({"mask": np.ones((70, 90), bool)}, ShapeError, r"the template's size, \(90, 70\)"),
    ],
)
def test_a_part_that_makes_no_sense_is_refused(
    given: dict[str, object], error: type[Exception], words: str, template: NDArray[np.uint8]
) -> None:
    with pytest.raises(error, match=words):
        GoldenTemplate(backbone()).fit(template, **given)


def test_images_in_which_the_part_has_no_room_are_named(
    locator: GoldenTemplate, template: NDArray[np.uint8]
) -> None:
    with pytest.raises(ImageError, match="image small: the template, 44 x 36 pixels, is larger"):
        list(locator.locate_all({"small": frame("brick")[:25]}))
    tiny = GoldenTemplate(backbone()).fit(template, box=(20, 15, 26, 21))
    with pytest.raises(ImageError, match=r"takes \d cells of an image of 128 x 160"):
        tiny.locate(frame("brick"))


def test_a_part_that_is_a_thin_line_is_refused(template: NDArray[np.uint8]) -> None:
    line = np.zeros((90, 70), bool)
    line[np.arange(60), np.arange(60)] = True
    with pytest.raises(ParameterError, match="is it a thin line"):
        GoldenTemplate(backbone()).fit(template, mask=line)


def test_what_is_set_after_fit_counts_from_the_next_one_on(
    locator: GoldenTemplate, template: NDArray[np.uint8]
) -> None:
    image = pasted(template, frame("grass"), 71, 0.85, (40.3, 110.6))
    before = locator.locate(image).score
    other = GoldenTemplate(backbone(), smallest=0.8, largest=1.25, scales=3)
    other.restore(locator.part_, None)
    other.set_params(turns=1, scales=1, backbone__levels=(0, 1))
    assert other.locate(image).score == before


def test_parameters_that_do_not_go_together_are_refused(template: NDArray[np.uint8]) -> None:
    box = (20, 15, 64, 51)
    with pytest.raises(ParameterError, match="smallest: expected at most largest"):
        GoldenTemplate(backbone(), smallest=2).fit(template, box=box)
    with pytest.raises(ParameterError, match='resize="pad"'):
        GoldenTemplate(ks.Backbone(image_size=64)).fit(template, box=box)
    with pytest.raises(ks.NotFittedError, match="call fit first"):
        GoldenTemplate().locate(template)
    with pytest.raises(ks.NotFittedError, match="call fit first"):
        GoldenTemplate().aligned([template])


def test_each_parameter_refuses_bad_values(template: NDArray[np.uint8]) -> None:
    for name, declared in GoldenTemplate.parameters.items():
        for value, error in declared.constraint.bad_values():
            if value is None and (declared.is_made or name == "false_alarm_rate"):  # the default
                continue
            with pytest.raises(error, match=name):
                GoldenTemplate(**{name: value}).fit(template, box=(20, 15, 64, 51))


def test_templates_masks_and_frames_may_be_files(
    calibrated: GoldenTemplate,
    template: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    tmp_path: Path,
) -> None:
    Image.fromarray(template).save(tmp_path / "face.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    (tmp_path / "frames").mkdir()
    for name, angle, scale, at in PLACES:
        image = pasted(template, frame(name, 1), angle, scale, at)
        Image.fromarray(image).save(tmp_path / "frames" / f"{name}.png")
    locator = GoldenTemplate(backbone(), smallest=1, largest=1, scales=1, turns=12)
    locator.fit(tmp_path / "face.png", mask=tmp_path / "mask.png", frames=tmp_path / "frames")
    assert calibrated.calibration_ is not None
    assert locator.calibration_ is not None
    assert locator.calibration_.ids == tuple(sorted(f"{name}.png" for name, *_ in PLACES))
    np.testing.assert_array_equal(
        sorted(locator.calibration_.scores), sorted(calibrated.calibration_.scores)
    )
    found = [part.image_id for part in locator.locate_all(tmp_path / "frames") if part.found]
    assert found == list(locator.calibration_.ids)
    (tmp_path / "frames" / "coins.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"coins\.png"):
        list(locator.locate_all(tmp_path / "frames"))
    with pytest.raises(ImageError, match=r"none\.png"):
        locator.locate(tmp_path / "none.png")
    assert locator.calibration_ is not None
    with pytest.raises(ImageError, match=r"coins\.png"):
        locator.fit(template, mask=mask, frames=tmp_path / "frames")
    assert len(locator.calibration_) == 4, "a fit that fails leaves what was learnt before"


def test_a_region_is_a_mask_as_well(
    locator: GoldenTemplate, template: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> None:
    other = GoldenTemplate(backbone(), turns=1).fit(template, mask=Region(mask))
    np.testing.assert_array_equal(other.part_.mask, locator.part_.mask)
    assert isinstance(other, Locator)
