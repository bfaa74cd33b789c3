"""``knnspect bench``, with real images and the real weights."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import knnspect as ks
from knnspect import cli
from knnspect.backends import Capabilities, RustBackend, registry
from knnspect.data import elpv_split

SMALL = ("--image-size", "64", "--device", "cpu", "--images", "3")
QUICK = ("--backends", "rust", "--repeats", "1", "--batch-sizes", "2", "--queries", "2")
SYNTHETIC = ("--shapes", "8x8x5,4x4x7", "--images", "3")


class Run:
    """Runs ``knnspect bench`` in this process, and keeps what it said."""

    def __init__(self, capfd: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self._capfd, self._patch = capfd, patch

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self._patch.setattr(sys, "argv", ["knnspect", "bench", *map(str, arguments)])
        self._capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = self._capfd.readouterr()
        return code, out, err

    def fails(self, code: int, word: str, *arguments: object) -> None:
        got, out, err = self(*arguments)
        assert (got, out) == (code, ""), err
        assert "Traceback" not in err
        assert word in " ".join(err.replace("│", " ").split())
        assert len(err.splitlines()) <= 8


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("warnings.showwarning", __import__("warnings").showwarning)
    return Run(capfd, monkeypatch)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real cells in MVTec layout; one of those to be judged has a dark spot."""
    root = tmp_path_factory.mktemp("data") / "cells"
    split = elpv_split(n_train=4, n_functional=3, n_defective=0)
    for folder in ("train/good", "test/good", "test/spot", "ground_truth/spot"):
        (root / folder).mkdir(parents=True)
    for path in split.train:
        shutil.copy(path, root / "train/good")
    for path in split.functional[:2]:
        shutil.copy(path, root / "test/good")
    pixels = np.array(Image.open(split.functional[2]))
    mask = np.zeros_like(pixels)
    pixels[60:130, 170:240], mask[60:130, 170:240] = 0, 255
    Image.fromarray(pixels).save(root / "test/spot/0.png")
    Image.fromarray(mask).save(root / "ground_truth/spot/0_mask.png")
    return root


@pytest.fixture(scope="module")
def model(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "cells.ks"
    spade = ks.Spade(ks.Backbone(image_size=64, device="cpu"), image_neighbors=3)
    spade.fit(dataset / "train/good").save(path)
    return path


def test_a_dataset_is_recognised_learnt_judged_and_drawn(
    run: Run, dataset: Path, tmp_path: Path
) -> None:
    files = ("--json", "bench.json", "--chart", "bench.png")
    code, out, err = run(dataset, *SMALL, *QUICK, *files)
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 80
    for word in ("rust", "p50", "p95", "p99", "retrieval", "matching", "AUROC", "exact"):
        assert word in out
    assert "learning" in err
    assert "bench: " in err
    document = json.loads((tmp_path / "bench.json").read_text())
    assert document["case"]["labelled_images"] == 3
    assert (document["case"]["gallery_images"], document["case"]["queries"]) == (4, 2)
    figures = document["backends"]["rust"]
    assert set(figures) == {
        "is_exact",
        "ms",
        "stages",
        "n_times",
        "cold_ms",
        "warm_ms",
        "images_per_s",
        "host_added_bytes",
        "host_peak_bytes",
        "device_peak_bytes",
        "recall",
        "accuracy",
        "change",
    }
    assert list(figures["stages"]) == ["decode", "features", "retrieval", "matching", "map"]
    assert list(figures["ms"]) == ["p50", "p95", "p99"]
    assert figures["accuracy"]["pixel_auroc"] > 0.9
    assert set(figures["change"].values()) == {0.0}
    assert document["machine"]["knnspect"] == ks.__version__
    with Image.open(tmp_path / "bench.png") as picture:
        assert picture.format == "PNG"


def test_synthetic_features_are_said_to_be_such(run: Run) -> None:
    code, out, err = run(*SYNTHETIC, *QUICK, "--k", "2")
    assert code == 0, err
    assert out.startswith("synthetic features, 8x8x5 + 4x4x7, bilinear, float32; k 2 in 3 images")
    assert "less structure than those of images" in err


def test_a_model_judges_images(run: Run, model: Path, dataset: Path) -> None:
    code, out, err = run(dataset / "test/good", "--model", model, *QUICK, "--images", "2")
    assert code == 0, err
    assert "k 1 in 2 of 4 images; 2 queries" in " ".join(out.split())
    assert "AUROC" not in out


def test_images_are_learnt_from_another_folder_or_held_out(run: Run, dataset: Path) -> None:
    train = dataset / "train/good"
    code, out, err = run(dataset / "test/good", "--train", train, *SMALL, *QUICK)
    assert code == 0, err
    assert "3 of 4 images; 2 queries" in " ".join(out.split())
    code, out, err = run(train, *QUICK, "--image-size", "64", "--images", "2")
    assert code == 0, err
    assert "2 of 2 images; 2 queries" in " ".join(out.split())


class Abacus(RustBackend):
    """A third party's, which miscounts in the upper left corner."""

    name = "abacus"
    capabilities = Capabilities("rows", ("cpu",), ("float32",))

    def search(self, *arguments: Any) -> ks.Neighbors:
        found = super().search(*arguments)
        distances = found.sq_distances.copy()
        distances[:, 0, 0] += 1
        return replace(found, sq_distances=distances)


class Point:
    """The entry point of a package that is installed."""

    name, value = "abacus", "abacus:Abacus"

    def load(self) -> type[Abacus]:
        return Abacus


@pytest.fixture
def abacus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registered", lambda: {"abacus": Point()})
    yield
    registry._make.cache_clear()


def test_labels_are_looked_at_before_the_work(run: Run, dataset: Path, tmp_path: Path) -> None:
    root = tmp_path / "cells"
    shutil.copytree(dataset, root)
    (root / "train/good").rename(root / "train/ok")
    (root / "test/good").rename(root / "test/ok")
    run.fails(1, "train (good='ok', or --good ok)", root, *SMALL, *QUICK)

    (root / "ground_truth/spot/0_mask.png").rename(root / "ground_truth/spot/0.PNG")
    code, out, err = run(root, "--good", "ok", *SMALL, *QUICK)
    assert code == 0, err
    assert "pixel AUROC" in out

    Image.new("L", (300, 300)).save(root / "ground_truth/spot/0.PNG")
    code, out, err = run(root, "--good", "ok", *SMALL, *QUICK, "--json", "bench.json")
    assert code == 0, err
    assert "pixel_auroc is not defined: 1 of 1 masks mark no pixel" in err.splitlines()[0]
    assert "image AUROC" in out
    assert "pixel AUROC" not in out
    document = json.loads((tmp_path / "bench.json").read_text())
    assert list(document["case"]["undefined"]) == ["pixel_auroc"]

    Image.new("L", (300, 299)).save(root / "ground_truth/spot/0.PNG")
    run.fails(1, "expected a mask of its image's size", root, "--good", "ok", *SMALL, *QUICK)


@pytest.mark.usefixtures("abacus")
def test_a_backend_that_is_wrong_is_refused_by_the_name_of_the_image(
    run: Run, model: Path, dataset: Path, tmp_path: Path
) -> None:
    image = min(file.name for file in (dataset / "test/good").iterdir())
    options = ("--backends", "rust,abacus", "--json", "bench.json", "--queries", "1")
    code, out, err = run(dataset / "test/good", "--model", model, *options)
    assert (code, out) == (1, "")
    said = err.splitlines()[-1]
    assert said.startswith(
        f"knnspect: backend 'abacus' disagrees with the Rust core on image {image}, cell (0, 0)"
    )
    assert not (tmp_path / "bench.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("--backends", "nope"), 2, "'nope'"),
        (("--backends", "rust:cuda"), 2, "takes no device"),
        (("--backends", ""), 2, "backend"),
        (("--backends", "rust,rust"), 2, "twice"),
        ((*SYNTHETIC, "--backends", "rust", "--k", "193"), 2, "k: expected at most the 192 cells"),
        (("--k", "0"), 2, "--k"),
        (("--images", "0"), 2, "--images"),
        (("--queries", "0"), 2, "--queries"),
        (("--repeats", "0"), 2, "--repeats"),
        (("--batch-sizes", "0"), 2, "--batch-sizes"),
        (("--batch-sizes", "x"), 2, "--batch-sizes"),
        (("--batch-sizes", "999999999999"), 2, "--batch-sizes: expected at most 65536"),
        (("--shapes", "8x8"), 2, "--shapes"),
        (("--shapes", "8x8x3,3x3x3"), 1, "divide"),
        ((*SYNTHETIC, "--threads", "0", "--backends", "rust"), 2, "threads"),
        (("--method", "patchcore"), 2, "--method: needs images"),
        (("--train", "gone"), 2, "--train"),
        (("--good", "ok"), 2, "--good: needs a dataset"),
        (("--model", "gone.ks"), 2, "--model: expected IMAGES"),
        (("gone",), 1, "gone"),
        (("gone", "--model", "gone.ks"), 1, "gone.ks"),
        (("gone", "--shapes", "8x8x3"), 2, "--shapes"),
        (("gone", "--dataset", "gone"), 2, "--dataset"),
        (("--dataset", "gone"), 1, "gone"),
        (("gone", "--method", "patchcore", "--k", "2"), 2, "--k: is an option of spade"),
        (("--json", "no/such.json"), 1, "no/such.json"),
        (("--chart", "no/such.png"), 1, "no/such.png"),
    ],
)
def test_bad_options_are_named(run: Run, arguments: Any, code: int, word: str) -> None:
    run.fails(code, word, *arguments)


def test_options_that_a_model_has_settled_are_refused(run: Run, model: Path, dataset: Path) -> None:
    images = dataset / "test/good"
    run.fails(2, "--levels: is settled", images, "--model", model, "--levels", "1,2")
    run.fails(2, "--train", images, "--model", model, "--train", dataset / "train/good")


def test_a_chart_needs_matplotlib_before_any_work(
    run: Run, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knnspect.bench.chart.find_spec", lambda name: None)
    run.fails(1, "matplotlib", dataset, "--chart", "bench.png")
