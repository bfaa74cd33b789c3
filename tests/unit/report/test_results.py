"""The folder of results: which files it holds, and what is in them."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from knnspect.calibration import Calibration
from knnspect.data import Geometry
from knnspect.data.own_pictures import own_pictures
from knnspect.detectors import Prediction
from knnspect.errors import CalibrationError, StoreError
from knnspect.report import ResultsFolder, check_apart
from knnspect.search import Neighbors
from knnspect.views import Placement, Variants
from knnspect.views.query_variants import ChosenVariants

IMAGE = np.full((20, 30, 3), 90, np.uint8)
PLACEMENT = Placement((20, 30), Geometry((20, 30)))


def prediction(id_: str, score: float = 2.5, peak: tuple[int, int] = (4, 21)) -> Prediction:
    map_ = np.zeros((20, 30), np.float32)
    map_[peak] = 6
    # Two by three cells; the peak lies in the first row and the last column.
    index = np.array([[0, 0, 1], [0, 0, 0]], "u4").reshape(1, 2, 3, 1)
    neighbors = Neighbors(
        np.zeros((1, 2, 3, 1), "f4"), index, np.zeros((1, 2, 3, 1, 2), "u4"), ("x.png", "y.png")
    )
    return Prediction(id_, score, map_, neighbors, placement=PLACEMENT)


#: What a table has where there is no calibration.
UNDECIDED = {"p_value": "", "verdict": "", "n_regions": "", "known_defect": ""}


def decided(id_: str, score: float, rate: float | None = 0.25) -> Prediction:
    calibration = Calibration([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    own = prediction(id_, score)
    return replace(own, calibration=calibration, false_alarm_rate=rate)


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def strict_json(path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


class TestNames:
    @pytest.mark.parametrize(
        ("id_", "name"),
        [
            ("a.png", "a.png"),
            ("a.PNG", "a.PNG"),
            ("a.jpg", "a.jpg.png"),
            ("000000", "000000.png"),
            ("deep/er/a.png", "deep/er/a.png"),
            ("/data/a.png", "data/a.png"),
            ("../../a.png", "a.png"),
            ("a/../../b.png", "a/b.png"),
            ("./a.png", "a.png"),
            ("..", "image.png"),
            ("", "image.png"),
            ("ä 1%.png", "ä 1%.png"),
        ],
    )
    def test_an_overlay_is_called_after_its_image_and_stays_inside(
        self, tmp_path: Path, id_: str, name: str
    ) -> None:
        folder = tmp_path / "some" / "results"
        results = ResultsFolder(folder, 4.0)
        results.add(prediction(id_), IMAGE)
        assert files(tmp_path) == {f"some/results/overlays/{name}"}

    @pytest.mark.parametrize("slashes", ["/", "//", "///"])
    def test_an_absolute_path_leads_nowhere_else(self, tmp_path: Path, slashes: str) -> None:
        folder, outside = tmp_path / "results", (tmp_path / "a.png").as_posix().lstrip("/")
        ResultsFolder(folder, 4.0).add(prediction(slashes + outside), IMAGE)
        assert files(tmp_path) == {f"results/overlays/{outside}"}

    def test_no_overlay_takes_the_place_of_another(self, tmp_path: Path) -> None:
        ids = ["a.png", "a.jpg", "a", "/a.png", "../a.png", "a.png.png", "a.jpg.png", "b/a.png"]
        results = ResultsFolder(tmp_path, 4.0)
        for id_ in ids:
            results.add(prediction(id_), IMAGE)
        assert len(files(tmp_path)) == len(results) == len(ids)
        results.finish({})
        written = [row["overlay"] for row in strict_json(tmp_path / "scores.json")["images"]]
        assert set(written) == files(tmp_path) - {"scores.csv", "scores.json"}

    def test_an_image_and_a_folder_may_have_the_same_name(self, tmp_path: Path) -> None:
        results = ResultsFolder(tmp_path, 4.0)
        for id_ in ("a.jpg", "a.jpg.png/b.png", "c.jpg.png/b.png", "c.jpg"):
            results.add(prediction(id_), IMAGE)
        assert len(files(tmp_path)) == 4

    def test_a_name_may_be_as_long_as_names_can_be(self, tmp_path: Path) -> None:
        results = ResultsFolder(tmp_path, 4.0)
        for first in "ab":
            results.add(prediction("c" * 250 + first + ".jpg"), IMAGE)
        assert len(files(tmp_path)) == 2


class TestApart:
    """Overlays are not written over images that are to be judged."""

    @pytest.mark.parametrize("images", ["out/overlays", "out/overlays/deep", "out/overlays/a.png"])
    def test_images_among_overlays_are_refused(self, tmp_path: Path, images: str) -> None:
        (tmp_path / "out/overlays/deep").mkdir(parents=True)
        (tmp_path / "link").symlink_to(tmp_path / "out")
        for folder in ("out", "link"):
            with pytest.raises(StoreError, match=f"{folder}: its folder overlays holds images"):
                check_apart(tmp_path / folder, tmp_path / images, ["a.png"])

    def test_images_above_overlays_are_looked_at_one_by_one(self, tmp_path: Path) -> None:
        check_apart(tmp_path, tmp_path, ["a.png", "overlays2/a.png", "deep/overlays/a.png"])
        check_apart(tmp_path / "out", tmp_path, ["overlays/a.png"])
        with pytest.raises(StoreError, match="choose another folder"):
            check_apart(tmp_path, tmp_path, ["a.png", "overlays/a.png"])
        with pytest.raises(StoreError, match="choose another folder"):
            check_apart(tmp_path / "out", tmp_path, ["a.png", "out/overlays/deep/a.png"])


class TestContents:
    def test_the_tables_hold_the_scores_and_where_the_peak_is(self, tmp_path: Path) -> None:
        results = ResultsFolder(tmp_path, 4.0)
        results.add(prediction("b/ä, 1.png", 2.5), IMAGE)
        results.add(prediction("a.jpg", 1 / 3, (19, 0)), IMAGE)
        results.finish({"method": "spade"}, ["left out image c: it is torn"])
        with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as table:
            rows = list(csv.DictReader(table))
        assert rows == [
            {
                "id": "b/ä, 1.png",
                "score": "2.5",
                "map_max": "6.0",
                "relative": "1.5",
                "row": "4",
                "column": "21",
                "nearest_image": "y.png",
                **UNDECIDED,
            },
            {
                "id": "a.jpg",
                "score": repr(1 / 3),
                "map_max": "6.0",
                "relative": "1.5",
                "row": "19",
                "column": "0",
                "nearest_image": "x.png",
                **UNDECIDED,
            },
        ]
        document = strict_json(tmp_path / "scores.json")
        assert document["method"] == "spade"
        assert document["left_out"] == ["left out image c: it is torn"]
        assert [row["overlay"] for row in document["images"]] == [
            "overlays/b/ä, 1.png",
            "overlays/a.jpg.png",
        ]
        assert document["images"][1]["score"] == 1 / 3

    def test_the_tables_hold_decisions_where_there_is_a_calibration(self, tmp_path: Path) -> None:
        results = ResultsFolder(tmp_path, 4.0)
        results.add(decided("a.png", 3.5), IMAGE)
        results.add(decided("b.png", 2.5), IMAGE)
        assert results.n_anomalous == 1
        results.finish({})
        first, second = csv.DictReader((tmp_path / "scores.csv").read_text().splitlines())
        assert (first["p_value"], first["verdict"], first["n_regions"]) == (
            "0.25",
            "anomalous",
            "1",
        )
        assert (second["p_value"], second["verdict"]) == ("0.5", "normal")
        document = strict_json(tmp_path / "scores.json")
        assert document["false_alarm_rate"] == 0.25
        assert document["threshold"] == document["pixel_threshold"] == 3.0
        assert document["guarantee"] == decided("", 0.0).calibration.guarantee  # type: ignore[union-attr]
        entry = document["images"][0]
        assert (entry["p_value"], entry["verdict"], entry["n_regions"]) == (0.25, "anomalous", 1)
        box = {"top": 4, "left": 21, "bottom": 5, "right": 22}
        region = {"box": box, "area": 1, "peak": [4, 21], "peak_value": 6.0, "p_value": 0.25}
        assert entry["regions"] == [{**region, "known_defect": None}]

    def test_without_a_calibration_decisions_are_left_empty(self, tmp_path: Path) -> None:
        results = ResultsFolder(tmp_path, 4.0)
        results.add(prediction("a.png"), IMAGE)
        results.finish({})
        document = strict_json(tmp_path / "scores.json")
        for name in ("false_alarm_rate", "threshold", "pixel_threshold", "guarantee"):
            assert document[name] is None
        for name in ("p_value", "verdict", "n_regions", "regions"):
            assert document["images"][0][name] is None

    def test_a_rate_that_cannot_be_promised_writes_nothing(self, tmp_path: Path) -> None:
        results = ResultsFolder(tmp_path, 4.0)
        with pytest.raises(CalibrationError, match="needs 9 normal images"):
            results.add(decided("a.png", 3.5, 0.1), IMAGE)
        assert files(tmp_path) == set()

    def test_overlays_are_pictures_with_the_find_in_colour(self, tmp_path: Path) -> None:
        results = ResultsFolder(tmp_path, 4.0)
        results.add(prediction("a.png"), IMAGE)
        with Image.open(tmp_path / "overlays/a.png") as picture:
            assert picture.size == (30, 20)
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        assert np.ptp(pixels[4, 21]) > 60
        assert np.ptp(pixels[15, 3]) < 20

    @pytest.mark.parametrize("normal_map_max", [float("nan"), 0.0])
    def test_without_a_scale_each_image_is_scaled_by_itself(
        self, tmp_path: Path, normal_map_max: float
    ) -> None:
        results = ResultsFolder(tmp_path, normal_map_max)
        results.add(prediction("a.png"), IMAGE)
        flat = Prediction("flat", 0.0, np.zeros((20, 30), np.float32))
        results.add(flat, IMAGE)
        results.finish({})
        document = strict_json(tmp_path / "scores.json")
        assert [row["relative"] for row in document["images"]] == [None, None]
        assert document["images"][1]["nearest_image"] is None
        with (tmp_path / "scores.csv").open() as table:
            assert [row["relative"] for row in csv.DictReader(table)] == ["", ""]
        pixels = np.asarray(Image.open(tmp_path / "overlays/a.png").convert("RGB")).astype(int)
        assert np.ptp(pixels[4, 21]) > 60

    def test_the_scale_is_one_and_a_half_times_the_normal_maximum(self, tmp_path: Path) -> None:
        assert ResultsFolder(tmp_path, 4.0).scale == 6

    def test_results_of_an_earlier_run_are_replaced(self, tmp_path: Path) -> None:
        for score in (1.0, 2.0):
            results = ResultsFolder(tmp_path, 4.0)
            results.add(prediction("a.png", score), IMAGE)
            results.finish({})
        assert files(tmp_path) == {"overlays/a.png", "scores.csv", "scores.json"}
        assert strict_json(tmp_path / "scores.json")["images"][0]["score"] == 2


class TestFoldersThatCannotBeUsed:
    def test_a_file_in_the_place_of_the_folder_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "results").touch()
        with pytest.raises(StoreError, match=r"results.* cannot be made"):
            ResultsFolder(tmp_path / "results", 4.0)

    def test_a_file_on_the_way_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        with pytest.raises(StoreError, match="a/results"):
            ResultsFolder(tmp_path / "a" / "results", 4.0)

    def test_a_folder_in_the_place_of_a_table_is_named(self, tmp_path: Path) -> None:
        results = ResultsFolder(tmp_path, 4.0)
        (tmp_path / "scores.csv").mkdir()
        with pytest.raises(StoreError, match=r"scores\.csv"):
            results.finish({})

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_folder_without_permission_is_named(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        try:
            with pytest.raises(StoreError, match="cannot be made"):
                ResultsFolder(tmp_path / "results", 4.0)
        finally:
            tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("resize", "column", "cell"),
    [
        # An image of 8 x 24 meets a network of 8 x 8, with 4 x 4 cells.
        ("stretch", 3, 0),
        ("stretch", 20, 3),
        ("crop", 8, 0),  # the middle third is looked at
        ("crop", 15, 3),
        ("pad", 0, 0),
        ("pad", 23, 3),
    ],
)
def test_the_evidence_is_that_of_the_cell_under_the_peak(
    tmp_path: Path, resize: Any, column: int, cell: int
) -> None:
    map_ = np.zeros((8, 24), np.float32)
    map_[4, column] = 1
    index = np.broadcast_to(np.arange(4, dtype="u4"), (4, 4)).reshape(1, 4, 4, 1)
    neighbors = Neighbors(
        np.zeros((1, 4, 4, 1), "f4"), index, np.zeros((1, 4, 4, 1, 2), "u4"), tuple("abcd")
    )
    placement = Placement((8, 24), Geometry((8, 8), resize=resize))
    found = Prediction("x.png", 1.0, map_, neighbors, placement=placement)
    results = ResultsFolder(tmp_path, 1.0)
    results.add(found, np.zeros((8, 24, 3), np.uint8))
    results.finish({}, left_out=["a reason with \udcf6"])
    (row,) = csv.DictReader((tmp_path / "scores.csv").read_text().splitlines())
    assert row["nearest_image"] == "abcd"[cell]
    assert strict_json(tmp_path / "scores.json")["left_out"] == ["a reason with \udcf6"]


def test_the_variants_of_the_nearest_image_and_of_the_judged_one_are_told(tmp_path: Path) -> None:
    neighbors = Neighbors(
        np.zeros((1, 4, 4, 1), "f4"),
        np.zeros((1, 4, 4, 1), "u4"),
        np.zeros((1, 4, 4, 1, 2), "u4"),
        ("a.png [rotated 180]",),
    )
    placement, variants = Placement((8, 8), Geometry((8, 8))), Variants(2)
    map_ = np.eye(8, dtype=np.float32)
    found = Prediction("x.png", 1.0, map_, neighbors, placement=placement, variants=variants)
    chosen = ChosenVariants(Variants(mirror=True), np.ones((4, 4), np.intp))
    results = ResultsFolder(tmp_path, 1.0)
    for prediction in (found, replace(found, id="y.png", chosen_variants=chosen)):
        results.add(prediction, np.zeros((8, 8, 3), np.uint8))
    results.finish({})
    first, second = strict_json(tmp_path / "scores.json")["images"]
    assert (first["nearest_image"], first["nearest_variant"]) == ("a.png", "rotated 180")
    assert "query_variant" not in first
    assert (second["nearest_variant"], second["query_variant"]) == ("rotated 180", "mirrored")
    row, _ = csv.DictReader((tmp_path / "scores.csv").read_text().splitlines())
    assert row["nearest_image"] == "a.png"


@pytest.mark.parametrize("kind", ["npy", "tiff"])
def test_maps_are_written_as_they_are(tmp_path: Path, kind: Any) -> None:
    results = ResultsFolder(tmp_path, 4.0, maps=kind)
    found = prediction("deep/a.jpg")
    results.add(found, IMAGE)
    results.finish({})
    (row,) = strict_json(tmp_path / "scores.json")["images"]
    assert row["map"] == f"maps/deep/a.jpg.{kind}"
    file = tmp_path / row["map"]
    written = np.load(file) if kind == "npy" else tifffile.imread(file)
    assert written.dtype == np.float32
    np.testing.assert_array_equal(written, found.map)
    assert own_pictures([file]) == {file: tmp_path / "maps"}
