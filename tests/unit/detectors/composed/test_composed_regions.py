"""Several regions of a product, each with a gallery and a verdict of its own."""

from __future__ import annotations

import json
import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forging import with_changes
from numpy.typing import NDArray
from PIL import Image

import knnspect as ks
from knnspect import Aligned, ImageError, ParameterError, Regions, ShapeError
from knnspect.calibration.joint import JointCalibration
from knnspect.data import elpv_split
from knnspect.views import Box
from knnspect.views.regions import IsRegions, NamedRegions

SIZE = (96, 96)
ROWS, COLUMNS = np.indices(SIZE)
LEFT, RIGHT = COLUMNS < 48, COLUMNS >= 48
#: A slanted one, which is no box.
CORNER = ROWS + COLUMNS < 80


def backbone() -> ks.Backbone:
    return ks.Backbone(levels=(1, 2), image_size=64, patch_size=3)


def patchcore(**params: object) -> ks.PatchCore:
    return ks.PatchCore(backbone(), coreset=None, **params)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cells() -> list[NDArray[np.uint8]]:
    return [
        np.repeat(np.asarray(Image.open(path).convert("L").resize(SIZE))[..., None], 3, axis=2)
        for path in elpv_split(n_train=10, n_functional=1, n_defective=1).train
    ]


@pytest.fixture(scope="module")
def normal(cells: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    return cells[:8]


@pytest.fixture(scope="module")
def scratched(cells: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """A normal one with a defect in its right half, at rows 40 to 60 and columns 64 to 84."""
    pixels = cells[0].copy()
    pixels[40:60, 64:84] = 255
    found: NDArray[np.uint8] = pixels
    return found


@pytest.fixture(scope="module")
def halves(normal: list[NDArray[np.uint8]]) -> Regions:
    return Regions(patchcore(), regions={"left": LEFT, "right": RIGHT}).fit(normal)


@pytest.mark.parametrize("method", ["patchcore", "spade"])
def test_one_region_says_the_same_as_a_mask(
    method: str, normal: list[NDArray[np.uint8]], scratched: NDArray[np.uint8]
) -> None:
    def made(**params: object) -> ks.Detector:
        kind: Any = {"patchcore": ks.PatchCore, "spade": ks.Spade}[method]
        found: ks.Detector = kind(backbone(), **params)
        return found

    plain = made(mask=CORNER).fit(normal)
    one = Regions(made(), regions={"corner": CORNER}).fit(normal)
    for image in (scratched, normal[0], normal[0][:, ::-1]):
        ((expected,), (found,)) = plain.predict([image]), one.predict([image])
        assert found.score == expected.score
        np.testing.assert_array_equal(found.map, expected.map)
        assert (found.p_value, found.threshold) == (expected.p_value, expected.threshold)
        assert found.pixel_threshold == expected.pixel_threshold
        assert list(found.views) == ["corner"]
    assert one.normal_map_max_ == plain.normal_map_max_
    np.testing.assert_array_equal(one.calibration_.scores, plain.calibration_.scores)  # type: ignore[union-attr]


def test_each_region_has_a_verdict(halves: Regions, scratched: NDArray[np.uint8]) -> None:
    (found,) = halves.predict([scratched])
    left, right = found.views["left"], found.views["right"]
    assert (left.verdict, right.verdict) == ("normal", "anomalous")
    assert found.verdict == "anomalous"
    assert found.p_value == pytest.approx(2 * right.p_value)
    row, column = np.unravel_index(int(found.map.argmax()), SIZE)
    assert 36 <= row < 64
    assert 60 <= column < 88
    evidence = found.evidence(int(row), int(column))
    assert evidence is not None
    assert evidence.view == "right"
    assert evidence.cell[1] >= 8  # of 16 columns of cells
    assert found.regions[0].box.left >= 48


def test_what_lies_in_no_region_does_not_count(
    normal: list[NDArray[np.uint8]], scratched: NDArray[np.uint8]
) -> None:
    regions = {"left": COLUMNS < 40, "foot": ROWS > 80}
    detector = Regions(patchcore(), regions=regions).fit(normal)
    (found,) = detector.predict([scratched])
    assert found.verdict == "normal"
    assert found.map[50, 74] < detector.predict([normal[1]])[0].calibration.pixel_threshold()  # type: ignore[union-attr]


def test_what_is_ignored_is_left_out_of_all(
    normal: list[NDArray[np.uint8]], scratched: NDArray[np.uint8]
) -> None:
    ignored = (abs(ROWS - 50) < 22) & (abs(COLUMNS - 74) < 22)
    regions = {"left": LEFT, "right": RIGHT, "ignore": ignored}
    detector = Regions(patchcore(), regions=regions).fit(normal)
    assert list(detector.views_) == ["left", "right"]
    (found,) = detector.predict([scratched])
    assert found.verdict == "normal"


def test_only_cells_of_the_region_are_stored(halves: Regions) -> None:
    rows = {}
    for name, detector in halves.views_.items():
        assert isinstance(detector, ks.PatchCore)
        searched = detector.searched_
        assert isinstance(searched, ks.Coreset)
        rows[name] = searched
        assert len(searched) == 8 * 16 * 8  # half of the cells of eight images
    assert rows["left"].cells[:, 1].max() < 8 <= rows["right"].cells[:, 1].min()


def test_a_region_that_is_cut_out_is_judged_alone(
    normal: list[NDArray[np.uint8]], scratched: NDArray[np.uint8]
) -> None:
    window = (abs(ROWS - 50) < 20) & (abs(COLUMNS - 70) < 24)
    cut = Regions(patchcore(), regions={"left": LEFT, "window": window}, cut=True).fit(normal)
    (found,) = cut.predict([scratched])
    assert found.views["left"].verdict == "normal"
    assert found.views["window"].verdict == "anomalous"
    # The same as a detector that is shown the part alone.
    alone = patchcore().fit([image[31:70, 47:94] for image in normal])
    (expected,) = alone.predict([scratched[31:70, 47:94]])
    assert found.views["window"].score == expected.score
    np.testing.assert_array_equal(found.views["window"].map[31:70, 47:94], expected.map)
    assert not found.views["window"].map[:, :47].any()
    row, column = np.unravel_index(int(found.map.argmax()), SIZE)
    evidence = found.evidence(int(row), int(column))
    assert evidence is not None
    assert evidence.box.top - 1 <= row <= evidence.box.bottom
    assert evidence.box.left - 1 <= column <= evidence.box.right


def test_a_cut_region_that_is_no_box_is_masked(
    normal: list[NDArray[np.uint8]], scratched: NDArray[np.uint8]
) -> None:
    cut = Regions(patchcore(), regions={"corner": CORNER}, cut=True).fit(normal)
    (judge,) = cut.views_.values()
    assert isinstance(judge, ks.PatchCore)
    assert judge.region_ is not None
    assert judge.region_.size == (80, 80)
    assert cut.predict([scratched])[0].verdict == "normal"


def test_overlapping_regions_both_judge(
    normal: list[NDArray[np.uint8]], scratched: NDArray[np.uint8]
) -> None:
    regions = {"right": RIGHT, "middle": abs(ROWS - 48) < 24}
    detector = Regions(patchcore(), regions=regions).fit(normal)
    (found,) = detector.predict([scratched])
    assert {name: view.verdict for name, view in found.views.items()} == {
        "right": "anomalous",
        "middle": "anomalous",
    }


def test_nothing_is_learnt_from_what_is_judged(
    halves: Regions, scratched: NDArray[np.uint8]
) -> None:
    other = deepcopy(halves)
    first = other.predict([scratched])[0]
    other.predict([scratched, scratched[::-1]])
    assert other.predict([scratched])[0].score == first.score
    alone, (_, batched) = first, other.predict([scratched[::-1], scratched])
    assert batched.score == alone.score
    np.testing.assert_array_equal(batched.map, alone.map)


def test_saved_and_loaded_it_says_the_same(
    halves: Regions, scratched: NDArray[np.uint8], tmp_path: Path
) -> None:
    halves.save(tmp_path / "halves.ks")
    loaded = ks.load(tmp_path / "halves.ks")
    assert isinstance(loaded, Regions)
    for other in (loaded, pickle.loads(pickle.dumps(halves))):
        ((expected,), (found,)) = halves.predict([scratched]), other.predict([scratched])
        assert found.score == expected.score
        np.testing.assert_array_equal(found.map, expected.map)
        assert found.views["left"].score == expected.views["left"].score
    assert loaded.regions == halves.regions
    assert loaded.detector.get_params()["coreset"] is None
    assert loaded.detector.get_params()["mask"] is None
    backbones = {id(each.backbone) for each in loaded.views_.values()}
    assert backbones == {id(loaded.backbone)}


@pytest.mark.parametrize(
    "changes",
    [
        {"views": {}},
        {"views": 5},
        {"views": {"left": {}, "middle": {}}},
        {"views": {"left": {}}},
        {"views": [1, 2]},
        {"regions": {"left": 3}},
        {"regions": {}},
        {"cut": "yes"},
        {"false_alarm_rate": 2},
    ],
)
def test_a_forged_file_is_one_error(
    halves: Regions, tmp_path: Path, changes: dict[str, object]
) -> None:
    halves.save(tmp_path / "halves.ks")
    forged = with_changes(tmp_path / "halves.ks", "config", changes)
    (tmp_path / "forged.ks").write_bytes(forged)
    with pytest.raises(ks.StoreError, match=r"forged\.ks: is damaged"):
        ks.load(tmp_path / "forged.ks")


def test_regions_of_a_part_that_is_located(cells: list[NDArray[np.uint8]]) -> None:
    def frame(cell: NDArray[np.uint8], top: int, left: int) -> NDArray[np.uint8]:
        ground = np.full((130, 150, 3), 116, np.uint8)
        ground[top : top + 96, left : left + 96] = cell
        return ground

    finder = ks.GoldenTemplate(
        ks.Backbone(levels=(1, 2), image_size=128, resize="pad"),
        turns=1,
        smallest=1,
        largest=1,
        scales=1,
        least_score=0.01,
    ).fit(cells[0], box=(0, 0, *SIZE))
    images = [frame(cell, 3 * n, 5 * n) for n, cell in enumerate(cells[:6])]
    inner = Regions(patchcore(), regions={"left": LEFT, "right": RIGHT})
    detector = Aligned(inner, locator=finder, false_alarm_rate=0.4).fit(images)
    bad = cells[7].copy()
    bad[40:60, 64:84] = 255
    (found,) = detector.predict([frame(bad, 20, 40)])
    assert found.verdict == "anomalous"
    assert {name: view.verdict for name, view in found.views.items()} == {
        "left": "normal",
        "right": "anomalous",
    }
    assert all(view.false_alarm_rate == 0.2 for view in found.views.values())
    row, column = np.unravel_index(int(found.map.argmax()), found.map.shape)
    assert abs(row - 70) < 14
    assert abs(column - 114) < 14
    evidence = found.evidence(int(row), int(column))
    assert evidence is not None
    assert evidence.view == "right"
    assert detector.thumbnail(evidence.image, evidence.view) is not None


def test_the_calibration_is_that_of_both(halves: Regions) -> None:
    calibration = halves.calibration_
    assert isinstance(calibration, JointCalibration)
    assert len(calibration) == 8
    assert calibration.smallest_rate == pytest.approx(2 / 9)
    with pytest.raises(ks.CalibrationError, match=r"0\.1 needs 19 normal images"):
        deepcopy(halves).set_params(false_alarm_rate=0.1).predict([np.zeros((*SIZE, 3), np.uint8)])


def test_one_image_calibrates_nothing(normal: list[NDArray[np.uint8]]) -> None:
    regions = Regions(patchcore(), regions={"left": LEFT, "right": RIGHT})
    with pytest.raises(ks.CalibrationError, match="regions: expected a calibration of each view"):
        regions.fit(normal[:1])
    assert not hasattr(regions, "views_")


def test_a_method_without_masks_judges_boxes_that_are_cut_out(
    normal: list[NDArray[np.uint8]], scratched: NDArray[np.uint8]
) -> None:
    padim = ks.Padim(backbone())
    with pytest.raises(ParameterError, match="region left needs a detector that takes a mask"):
        Regions(padim, regions={"left": LEFT}).fit(normal)
    with pytest.raises(ParameterError, match="region corner needs a detector that takes a mask"):
        Regions(padim, regions={"corner": CORNER}, cut=True).fit(normal)
    regions = {"left": LEFT, "right": RIGHT}
    found = Regions(padim, regions=regions, cut=True).fit(normal).predict([scratched])[0]
    assert found.views["right"].score > found.views["right"].threshold


def test_images_of_other_sizes_are_refused(
    halves: Regions, normal: list[NDArray[np.uint8]]
) -> None:
    wide = {"wide": np.zeros((96, 100, 3), np.uint8), "good": normal[0]}
    with pytest.raises(ImageError, match="image wide: its size, 96 x 100 pixels, does not suit"):
        halves.predict(wide)
    with pytest.warns(ks.ImageWarning, match="left out image wide"):
        assert [one.id for one in halves.predict(wide, skip_bad=True)] == ["good"]
    large = [np.asarray(Image.fromarray(normal[0]).resize((192, 192)))]
    assert halves.predict(large)[0].map.shape == (192, 192)
    cut = Regions(patchcore(), regions={"left": LEFT}, cut=True).fit(normal)
    with pytest.raises(ImageError, match="expected 96 x 96 pixels, as the masks of regions that"):
        cut.predict(large)


@pytest.mark.parametrize(
    ("masks", "error", "words"),
    [
        ({}, ParameterError, "expected at least one region"),
        ({"ignore": LEFT}, ParameterError, "expected at least one region"),
        ({"a": LEFT, "b": LEFT[:50]}, ShapeError, "region b: expected 96 x 96 pixels"),
        ({"a": LEFT, "ignore": LEFT[:50]}, ShapeError, "region ignore: expected 96 x 96"),
        ({"a": ~LEFT & LEFT}, ParameterError, "region a: expected a mask in which some pixels"),
        ({"a": LEFT, "ignore": LEFT}, ParameterError, "region a: nothing is left of it"),
        ({"a/b": LEFT}, ParameterError, "without '/', got 'a/b'"),
        ({"a": "none.png"}, ImageError, "region a: none.png"),
    ],
)
def test_masks_that_are_no_regions_are_refused(
    masks: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        NamedRegions(masks)
    with pytest.raises(error, match=f"regions: .*{words}"):
        Regions(patchcore(), regions=masks).fit([np.zeros((*SIZE, 3), np.uint8)])


def test_regions_come_from_a_folder_or_a_file(tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for name, mask in (("left", LEFT), ("corner", CORNER), ("ignore", ROWS < 5)):
        Image.fromarray((mask * 255).astype(np.uint8)).save(masks / f"{name}.png")
    expected = NamedRegions({"left": LEFT, "corner": CORNER, "ignore": ROWS < 5})
    assert dict(NamedRegions.of(masks)) == dict(expected)
    file = tmp_path / "regions.json"
    regions = {"left": [0, 0, 96, 48], "corner": "masks/corner.png", "ignore": [0, 0, 5, 96]}
    file.write_text(json.dumps({"size": [96, 96], "regions": regions}))
    assert dict(NamedRegions.of(str(file))) == dict(expected)
    assert expected.box("left") == Box(5, 0, 96, 48)
    assert dict(NamedRegions.from_json(expected.to_json())) == dict(expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"size": [96, 96], "regions": {"a": [0, 0, 96, 97]}}', "a box within 96 x 96 pixels"),
        ('{"size": [96, 96], "regions": {"a": [50, 0, 50, 9]}}', "top above bottom"),
        ('{"regions": {}}', 'expected "size" and "regions"'),
        ("[1]", 'expected "size" and "regions"'),
        ('{"size": [96, 96], "regions": {}}', "expected at least one region"),
        ("{", "regions.json"),
    ],
)
def test_a_file_that_has_no_regions_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "regions.json"
    file.write_text(text)
    with pytest.raises(ks.KnnspectError, match=words):
        NamedRegions.of(file)


def test_bad_values_of_the_parameter_are_refused() -> None:
    for value, error in IsRegions().bad_values():
        with pytest.raises(error, match=r"^regions: "):
            IsRegions().check("regions", value)


def test_a_detector_with_a_mask_of_its_own_is_refused(normal: list[NDArray[np.uint8]]) -> None:
    with pytest.raises(ParameterError, match="mask: expected None in a detector of regions"):
        Regions(patchcore(mask=LEFT), regions={"right": RIGHT}).fit(normal)
