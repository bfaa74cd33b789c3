"""Decisions on the command line: calibrating, judging at a false-alarm rate, exit codes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import Run
from PIL import Image

import knnspect as ks
from knnspect.data import elpv_split, read_image

SMALL = ("--image-size", "64", "--levels", "1,2", "--device", "cpu")
METHOD = ("--method", "patchcore", "--coreset", "60", *SMALL)
N_LEARNT, N_HELD, N_GOOD, N_BAD = 6, 12, 3, 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Solar cells: to learn from, held out, and to be judged; half of these have a black square."""
    root = tmp_path_factory.mktemp("data")
    files = elpv_split(n_train=0, n_functional=N_LEARNT + N_HELD + N_GOOD + N_BAD).functional
    places = ["normal"] * N_LEARNT + ["held"] * N_HELD + ["good"] * N_GOOD + ["bad"] * N_BAD
    for number, (file, place) in enumerate(zip(files, places, strict=True)):
        cell = np.array(read_image(file)[::2, ::2, 0])
        if place == "bad":
            cell[60:100, 30:80] = 0
        folder = root / ("line" if place in ("good", "bad") else place)
        if place == "held":
            folder /= f"day{number % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cell).save(folder / f"{place}{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def models(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models in a folder: ``decides``, and ``old``, which has no calibration."""
    root = tmp_path_factory.mktemp("models")
    backbone = ks.Backbone(image_size=64, levels=(1, 2), device="cpu")
    detector = ks.PatchCore(backbone, coreset=60)
    detector.fit(data / "normal", calibration_images=data / "held").save(root / "decides")
    detector.calibration_ = None  # as those of earlier versions
    detector.save(root / "old")
    return root


@pytest.fixture
def old(models: Path, tmp_path: Path) -> Path:
    shutil.copy(models / "old", tmp_path / "old")
    return tmp_path / "old"


class TestFit:
    def test_says_what_is_promised(self, run: Run, data: Path) -> None:
        code, out, err = run("fit", data / "normal", "--output", "m", *METHOD)
        assert code == 0, err
        assert len(out.splitlines()) == 1
        words = "calibrated by 6 normal images left out one by one: false-alarm rates from 0.143"
        assert out.rstrip().endswith(words)

    def test_calibrates_with_a_folder_and_its_blocks(self, run: Run, data: Path) -> None:
        options = ("--calibrate", data / "held", "--blocks", "folder", *METHOD)
        code, out, err = run("fit", data / "normal", "--output", "m", *options)
        assert code == 0, err
        assert "12 normal images in 4 blocks, held out: false-alarm rates from 0.2" in out
        calibration = ks.load("m").calibration_
        assert calibration is not None
        assert (calibration.kind, calibration.n_blocks) == ("held out", 4)

    def test_says_that_one_image_does_not_calibrate(self, run: Run, data: Path) -> None:
        one = min((data / "normal").iterdir())
        code, out, err = run("fit", one, "--output", "m", *METHOD)
        assert code == 0, err
        assert "not calibrated, as that takes more normal images (knnspect calibrate)" in out

    @pytest.mark.parametrize(
        ("options", "code", "words"),
        [
            (("--false-alarm-rate", "0.05"), 1, "0.05 needs 19 normal images"),
            (
                ("--false-alarm-rate", "1"),
                2,
                "false_alarm_rate: expected a number above 0 and below 1, got 1",
            ),
            (("--false-alarm-rate", "x"), 2, "--false-alarm-rate: expected a number"),
            (("--calibrate", "normal"), 1, "6 of the 6 calibration images were learnt from"),
            (("--calibrate", "gone"), 1, "gone"),
            (("--blocks", "day"), 2, "--blocks"),
        ],
    )
    def test_what_cannot_be_promised_writes_no_model(
        self, run: Run, data: Path, tmp_path: Path, options: tuple[str, str], code: int, words: str
    ) -> None:
        name, value = options
        place = data / value if name == "--calibrate" else value
        found, out, err = run("fit", data / "normal", "--output", "m", name, place, *METHOD)
        assert (found, out) == (code, "")
        assert words in " ".join(err.replace("│", " ").split())
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_of_calibration_is_looked_at_before_the_work(
        self, run: Run, data: Path, tmp_path: Path
    ) -> None:
        for name in ("train/good", "test/cut"):
            shutil.copytree(data / "line", tmp_path / "set" / name)
        options = ("--calibrate", "set", *METHOD)
        code, out, err = run("fit", data / "normal", "--output", "m", *options)
        assert (code, out) == (1, "")
        assert "set: expected normal images, got a dataset" in err
        assert "learning" not in err


class TestPredict:
    def test_judges_at_a_rate_without_a_new_fit(
        self, run: Run, models: Path, data: Path, tmp_path: Path
    ) -> None:
        before = (models / "decides").read_bytes()
        command = ("predict", models / "decides", data / "line", "--output", "results")
        code, out, err = run(*command, "--false-alarm-rate", ".1")
        assert code == 0, err
        assert (models / "decides").read_bytes() == before
        detector = ks.load(models / "decides").set_params(false_alarm_rate=0.1)
        expected = detector.predict(data / "line")
        n_anomalous = sum(p.is_anomalous for p in expected)
        assert N_BAD <= n_anomalous < len(expected)
        assert f"{n_anomalous} of 6 images anomalous at a false-alarm rate of 0.1\n" in err
        assert out.splitlines() == [f"{p.score:.6g}\t{p.id}" for p in expected]
        with (tmp_path / "results/scores.csv").open(newline="") as table:
            rows = list(csv.DictReader(table))
        document = json.loads((tmp_path / "results/scores.json").read_text())
        for prediction, row, entry in zip(expected, rows, document["images"], strict=True):
            assert float(row["p_value"]) == entry["p_value"] == prediction.p_value
            assert row["verdict"] == entry["verdict"] == prediction.verdict
            assert int(row["n_regions"]) == len(entry["regions"]) == len(prediction.regions)
        assert document["false_alarm_rate"] == 0.1
        assert document["threshold"] == expected[0].threshold
        assert "12 normal images held out: exact" in document["guarantee"]

    def test_ends_with_code_3_after_all_is_written(
        self, run: Run, models: Path, data: Path, tmp_path: Path
    ) -> None:
        command = ("predict", models / "decides", "--fail-on-anomaly", "--output", "results")
        code, out, _ = run(*command, data / "line")
        assert code == 3
        assert len(out.splitlines()) == N_GOOD + N_BAD
        assert (tmp_path / "results/scores.json").is_file()
        p_values = {p.id: p.p_value for p in ks.load(models / "decides").predict(data / "line")}
        good = max(p_values, key=lambda id_: p_values[id_])
        assert run(*command, data / "line" / good)[0] == 0

    def test_a_model_without_calibration_says_what_brings_verdicts(
        self, run: Run, old: Path, data: Path, tmp_path: Path
    ) -> None:
        code, out, err = run("predict", old, data / "line", "--output", "results")
        assert code == 0, err
        assert len(out.splitlines()) == N_GOOD + N_BAD
        (said,) = (line for line in err.splitlines() if "verdicts" in line)
        assert f"(knnspect calibrate {old} IMAGES)" in said
        assert "anomalous" not in err
        with (tmp_path / "results/scores.csv").open(newline="") as table:
            row = next(csv.DictReader(table))
        assert (row["p_value"], row["verdict"], row["n_regions"]) == ("", "", "")

    @pytest.mark.parametrize("option", [("--fail-on-anomaly",), ("--false-alarm-rate", "0.1")])
    def test_a_model_without_calibration_refuses_to_decide(
        self, run: Run, old: Path, data: Path, tmp_path: Path, option: tuple[str, ...]
    ) -> None:
        code, out, err = run("predict", old, data / "line", "--output", "results", *option)
        assert (code, out) == (1, "")
        assert "gives no verdicts, which need a calibration: the model has none" in err
        assert not (tmp_path / "results").exists()

    def test_a_rate_that_cannot_be_promised_is_refused_before_the_work(
        self, run: Run, models: Path, data: Path, tmp_path: Path
    ) -> None:
        command = ("predict", models / "decides", data / "line", "--output", "results")
        code, out, err = run(*command, "--false-alarm-rate", "0.001")
        assert (code, out) == (1, "")
        assert "0.001 needs 999 normal images" in err
        assert list(tmp_path.iterdir()) == []
        assert run(*command, "--false-alarm-rate", "0")[0] == 2

    def test_a_rate_may_stand_in_a_file(
        self, run: Run, models: Path, data: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "line.toml").write_text("[predict]\nfalse_alarm_rate = 0.25\n")
        command = ("predict", models / "decides", data / "line", "--output", "results")
        code, _, err = run(*command, "--config", "line.toml")
        assert code == 0, err
        assert "at a false-alarm rate of 0.25" in err


class TestCalibrate:
    def test_gives_a_model_verdicts_and_changes_no_score(
        self, run: Run, models: Path, old: Path, data: Path
    ) -> None:
        code, out, err = run("calibrate", old, data / "held", "--false-alarm-rate", "0.1")
        assert code == 0, err
        words = "calibrated by 12 normal images held out: false-alarm rates from 0.0769"
        assert out == f"{old}: {words}\n"
        detector, before = ks.load(old), ks.load(models / "decides")
        assert detector.false_alarm_rate == 0.1
        for one, other in zip(
            detector.predict(data / "line"), before.predict(data / "line"), strict=True
        ):
            assert (one.score, one.p_value) == (other.score, other.p_value)
        assert [file.name for file in old.parent.iterdir() if file.suffix != ".out"] == ["old"]

    @pytest.mark.parametrize("method", ["spade", "patchcore", "simplenet"])
    def test_a_folder_stays_the_model(
        self, run: Run, data: Path, tmp_path: Path, method: str
    ) -> None:
        own = ("--max-epochs", "1") if method == "simplenet" else ()
        options = ("--method", method, *SMALL, "--max-memory", "4GB", *own)
        code, _, err = run("fit", data / "normal", "--output", "model", *options)
        assert code == 0, err
        before = {p.relative_to(tmp_path) for p in tmp_path.rglob("*")}
        scores = ks.load("model").scores(data / "line")
        code, out, err = run("calibrate", "model", data / "held", "--blocks", "folder")
        assert code == 0, err
        assert "model: calibrated by 12 normal images in 4 blocks, held out" in out
        assert {p.relative_to(tmp_path) for p in tmp_path.rglob("*")} == before
        np.testing.assert_array_equal(ks.load("model").scores(data / "line"), scores)
        code, _, err = run("predict", "model", data / "line", "--output", "results")
        assert code == 0, err
        assert "at a false-alarm rate of 0.2" in err

    def test_a_failure_leaves_the_model_as_it_was(
        self, run: Run, old: Path, data: Path, tmp_path: Path
    ) -> None:
        before = old.read_bytes()
        (tmp_path / "bad").mkdir()
        shutil.copy(min((data / "held/day0").iterdir()), tmp_path / "bad")
        (tmp_path / "bad" / "text.png").write_text("no image")
        for images, options, words in (
            (data / "normal", (), "were learnt from"),
            (data / "held", ("--false-alarm-rate", "0.01"), "0.01 needs 99 normal images"),
            ("bad", (), "text.png"),
            ("gone", (), "gone"),
        ):
            code, out, err = run("calibrate", old, images, *options)
            assert (code, out) == (1, "")
            assert words in err
            assert old.read_bytes() == before
        code, out, err = run("calibrate", old, "bad", "--skip-bad")
        assert code == 0, err
        assert "by 1 normal image held out: false-alarm rates from 0.5, 1 left out" in out

    def test_of_a_folder_with_defects_it_is_said(
        self, run: Run, old: Path, data: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(data / "held/day0", tmp_path / "test/good")
        shutil.copytree(data / "line", tmp_path / "test/cut")
        code, _, err = run("calibrate", old, "test")
        assert code == 0
        assert "images in cut are taken for normal, as those in good are" in err


class TestInfo:
    def test_tells_what_decisions_promise(self, run: Run, models: Path, old: Path) -> None:
        _, out, _ = run("info", models / "decides")
        words = " ".join(out.replace("│", " ").split())
        assert "calibration 12 normal images held out: false-alarm rates from 0.0769" in words
        assert "guarantee exact for images like these" in words
        assert "false alarm rate 0.07692 by default" in words
        assert "day1" not in words, "no ids of images"
        _, out, _ = run("info", old)
        words = " ".join(out.replace("│", " ").split())
        assert "calibration none, so that images have scores, and no verdicts" in words

    def test_tells_that_settings_changed_since(self, run: Run, models: Path) -> None:
        ks.load(models / "decides").set_params(sigma=1.0, false_alarm_rate=0.2).save("changed")
        _, out, _ = run("info", "changed")
        words = " ".join(out.replace("│", " ").split())
        assert "no verdicts sigma changed since it was calibrated" in words
        assert "false alarm rate 0.2, as asked for" in words


def test_help_of_calibrate_fits_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("calibrate", "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "--blocks" in out
    assert "calibrate" in run("--help")[1]
