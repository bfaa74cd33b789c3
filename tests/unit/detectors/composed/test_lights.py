"""Several pictures of one part: a gallery a light, a verdict a part."""

from __future__ import annotations

import pickle
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import knnspect as ks
from knnspect import ImageError, ImageWarning, Lights, ParameterError, Regions
from knnspect.data import elpv_split
from knnspect.views.lights import IsLightPattern, LightPattern, PictureName

SIDE = 64
Pictures = dict[str, NDArray[np.uint8]]


@pytest.fixture(scope="module")
def cells() -> list[NDArray[np.uint8]]:
    paths = elpv_split(n_train=10, n_functional=1, n_defective=1).train
    return [np.asarray(Image.open(path).convert("RGB").resize((SIDE, SIDE))) for path in paths]


def pictures(
    cells: list[NDArray[np.uint8]], numbers: range, defect: str = "", prefix: str = ""
) -> Pictures:
    """Each cell from the top as it is, from the side darker and mirrored."""
    found = {}
    for number in numbers:
        for light in ("top", "side"):
            picture = cells[number].copy()
            if light == "side":
                picture = (picture[:, ::-1] * 0.6).astype(np.uint8)
            if light == defect:
                picture[20:36, 30:46] = 255
            found[f"{prefix}{number}_{light}.png"] = picture
    return found


def patchcore() -> ks.PatchCore:
    backbone = ks.Backbone(levels=(1, 2), image_size=64, patch_size=3)
    return ks.PatchCore(backbone, coreset=None)


@pytest.fixture(scope="module")
def lights(cells: list[NDArray[np.uint8]]) -> Lights:
    return Lights(patchcore()).fit(pictures(cells, range(8)))


@pytest.mark.parametrize("light", ["top", "side"])
def test_a_defect_in_either_light_is_one_of_the_part(
    lights: Lights, cells: list[NDArray[np.uint8]], light: str
) -> None:
    given = pictures(cells, range(2), light, "bad ") | pictures(cells, range(2, 4), "", "good ")
    found = lights.predict(given)
    assert [one.id for one in found] == ["bad 0", "bad 1", "good 2", "good 3"]
    assert [one.verdict for one in found] == ["anomalous"] * 2 + ["normal"] * 2
    assert {one.shown_view for one in found[:2]} == {light}
    views = found[0].views
    other = "side" if light == "top" else "top"
    assert (views[light].verdict, views[other].verdict) == ("anomalous", "normal")
    assert found[0].p_value == pytest.approx(2 * views[light].p_value)
    row, column = np.unravel_index(int(found[0].map.argmax()), found[0].map.shape)
    assert 16 <= row < 40
    assert 26 <= column < 50
    evidence = found[0].evidence(int(row), int(column))
    assert evidence is not None
    assert evidence.view == light
    assert lights.thumbnail(evidence.image, light) != lights.thumbnail(evidence.image, other)


def test_the_picture_is_that_of_the_light_that_decides(
    lights: Lights, cells: list[NDArray[np.uint8]]
) -> None:
    given = pictures(cells, range(1), "side")
    (found,) = lights.iter_predict(given, keep_pictures=True)
    assert found.picture is not None
    np.testing.assert_array_equal(found.picture, given["0_side.png"])
    np.testing.assert_array_equal(found.views["top"].picture, given["0_top.png"])


def test_each_light_is_judged_as_it_would_be_alone(
    lights: Lights, cells: list[NDArray[np.uint8]]
) -> None:
    given = pictures(cells, range(8, 10), "top")
    found = lights.predict(given)
    for light in ("top", "side"):
        learnt = {k: v for k, v in pictures(cells, range(8)).items() if light in k}
        alone = patchcore().fit(learnt)
        expected = alone.predict({k: v for k, v in given.items() if light in k})
        for one, other in zip(found, expected, strict=True):
            assert one.views[light].score == other.score
            assert one.views[light].p_value == other.p_value
            np.testing.assert_array_equal(one.views[light].map, other.map)


def test_scores_order_parts_beyond_all_normal_ones(
    lights: Lights, cells: list[NDArray[np.uint8]]
) -> None:
    part: Pictures = {}
    for number, value in enumerate((120, 180, 255)):
        part |= pictures(cells, range(1), "", f"{number} ")
        part[f"{number} 0_top.png"][20:36, 30:46] = value
    found = lights.predict(part)
    assert len({one.p_value for one in found}) == 1
    in_light = [one.views["top"].score for one in found]
    assert np.argsort([one.score for one in found]).tolist() == np.argsort(in_light).tolist()


def test_a_light_that_is_missing_is_named(lights: Lights, cells: list[NDArray[np.uint8]]) -> None:
    given = pictures(cells, range(1), "top", "whole ") | pictures(cells, range(1, 2), "top")
    del given["1_side.png"]
    with pytest.raises(ImageError, match="part 1: has no picture in the light side, of side, top"):
        lights.predict(given)
    with pytest.warns(ImageWarning, match="left out image 1: part 1: has no picture"):
        assert [one.id for one in lights.predict(given, skip_bad=True)] == ["whole 0"]
    patient = deepcopy(lights).set_params(missing="warn")
    with pytest.warns(ImageWarning, match="in the light side: it is judged by top alone"):
        whole, lacking = patient.predict(given)
    assert list(lacking.views) == ["top"]
    assert lacking.verdict == whole.verdict == "anomalous"
    # Still times two: the p-value is that of a part with both.
    assert lacking.p_value == pytest.approx(2 * lacking.views["top"].p_value)


def test_normal_parts_have_all_lights(lights: Lights, cells: list[NDArray[np.uint8]]) -> None:
    given = pictures(cells, range(8))
    del given["3_side.png"]
    fresh = Lights(patchcore(), missing="warn")
    with pytest.raises(ImageError, match="part 3: has no picture in the light side"):
        fresh.fit(given)
    with pytest.raises(ImageError, match="part 9: has no picture in the light top"):
        deepcopy(lights).calibrate({"9_side.png": cells[9]})
    with pytest.raises(ImageError, match="part 0: its light back is none of those that were"):
        lights.predict(pictures(cells, range(1)) | {"0_back.png": cells[0]})


def test_names_that_say_no_light_are_refused(
    lights: Lights, cells: list[NDArray[np.uint8]]
) -> None:
    with pytest.raises(ImageError, match=r"image plain.png: its name does not match the pattern"):
        lights.predict({"plain.png": cells[0]})
    with pytest.raises(ImageError, match=r"part 0: expected one picture in the light top, got 0_t"):
        lights.predict({"0_top.png": cells[0], "0_top.jpg": cells[0]})


def test_files_of_folders_are_grouped(cells: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    for name, picture in pictures(cells, range(4)).items():
        number, light = name.removesuffix(".png").split("_")
        file = tmp_path / "good" / light / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)
    detector = Lights(patchcore(), pattern="{light}/{part}.png").fit(tmp_path / "good")
    assert sorted(detector.views_) == ["side", "top"]
    assert detector.n_images_ == 4
    found = detector.predict(tmp_path)
    assert [one.id for one in found] == [f"good/{number}" for number in range(4)]
    assert found[0].file is not None
    assert found[0].file.path.name == "0.png"


def test_one_light_is_a_detector_alone(cells: list[NDArray[np.uint8]]) -> None:
    given = {k: v for k, v in pictures(cells, range(6)).items() if "top" in k}
    one, plain = Lights(patchcore()).fit(given), patchcore().fit(given)
    bad = {"new_top.png": pictures(cells, range(1), "top")["0_top.png"]}
    ((found,), (expected,)) = one.predict(bad), plain.predict(bad)
    assert (found.id, found.score, found.p_value) == ("new", expected.score, expected.p_value)


def test_saved_and_loaded_they_say_the_same(
    lights: Lights, cells: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    lights.save(tmp_path / "lights.ks")
    given = pictures(cells, range(8, 10), "top")
    expected = lights.predict(given)
    for other in (ks.load(tmp_path / "lights.ks"), pickle.loads(pickle.dumps(lights))):
        assert isinstance(other, Lights)
        assert other.pattern == "{part}_{light}.*"
        for one, same in zip(other.predict(given, batch_size=1), expected, strict=True):
            assert one.score == same.score
            np.testing.assert_array_equal(one.map, same.map)


def test_calibrated_by_parts_that_were_not_learnt_from(
    lights: Lights, cells: list[NDArray[np.uint8]]
) -> None:
    other = deepcopy(lights).calibrate(pictures(cells, range(8, 10)))
    assert other.calibration_ is not None
    assert other.calibration_.kind == "held out"
    with pytest.raises(ks.CalibrationError, match="were learnt from: 0"):
        other.calibrate(pictures(cells, range(1)))
    assert other.calibration_.kind == "held out"


def test_lights_of_regions(cells: list[NDArray[np.uint8]]) -> None:
    left = np.indices((SIDE, SIDE))[1] < 32
    inner = Regions(patchcore(), regions={"left": left, "right": ~left})
    detector = Lights(inner, false_alarm_rate=0.5).fit(pictures(cells, range(8)))
    assert detector.calibration_ is not None
    assert detector.calibration_.smallest_rate == pytest.approx(4 / 9)
    (found,) = detector.predict(pictures(cells, range(1), "top"))
    assert found.verdict == "anomalous"
    assert found.shown_view == "top"
    regions = found.views["top"].views
    assert {name: one.verdict for name, one in regions.items()}["right"] == "anomalous"
    assert all(one.false_alarm_rate == 0.125 for one in regions.values())
    row, column = np.unravel_index(int(found.map.argmax()), found.map.shape)
    evidence = found.evidence(int(row), int(column))
    assert evidence is not None
    assert evidence.view in ("top/left", "top/right")
    assert detector.thumbnail(evidence.image, evidence.view) is not None


@pytest.mark.parametrize(
    ("pattern", "id_", "expected"),
    [
        ("{part}_{light}.png", "a_top.png", ("a", "top")),
        ("{part}_{light}.png", "x/y/a_b_top.png", ("x/y/a_b", "top")),
        ("{part}_{light}.png", "a_top.jpg", None),
        ("{part}_{light}.png", "a.png", None),
        ("{part}_{light}.png", "_top.png", None),
        ("{light}/{part}.*", "root/side/7.tiff", ("root/7", "side")),
        ("{light}/{part}.*", "7.tiff", None),
        ("cam*-{part}-{light}.png", "cam01-7-uv.png", ("7", "uv")),
        (r"(?P<part>.+)_(?P<light>top|side)\.png", "a_b_side.png", ("a_b", "side")),
        (r"(?P<part>.+)_(?P<light>top|side)\.png", "a_back.png", None),
        (r"(?P<light>\d)(?P<part>\w+)\.png", "good/3part.png", ("good/part", "3")),
    ],
)
def test_patterns(pattern: str, id_: str, expected: tuple[str, str] | None) -> None:
    assert LightPattern(pattern).of(id_) == (None if expected is None else PictureName(*expected))


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{part}.png", "expected a pattern with a part and a light"),
        ("{light}.png", "expected a pattern with a part and a light"),
        ("(?P<part>.+)", "expected a pattern with a part and a light"),
        ("(?P<part>.+", "expected a pattern, such as"),
        ("{part}_{part}_{light}", "expected a pattern, such as"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        LightPattern(pattern)
    with pytest.raises(ParameterError, match=f"pattern: {words}"):
        Lights(patchcore(), pattern=pattern).fit({"a_b.png": np.zeros((8, 8, 3), np.uint8)})


def test_bad_values_of_the_parameter_are_refused() -> None:
    for value, error in IsLightPattern().bad_values():
        with pytest.raises(error, match=r"^pattern: "):
            IsLightPattern().check("pattern", value)
