"""Settings from a file, and what only the command line does with detectors."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from command_line import Run

import knnspect as ks
from knnspect.data import elpv_split


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells")
    split = elpv_split(n_train=4, n_functional=1, n_defective=1)
    for name, files in (("normal", split.train), ("other", [*split.functional, *split.defective])):
        (folder / name).mkdir()
        for file in files:
            shutil.copy(file, folder / name)
    return folder


@pytest.fixture(scope="module")
def model(cells: Path) -> Path:
    backbone = ks.Backbone(image_size=64, device="cpu")
    ks.Spade(backbone, image_neighbors=4).fit(cells / "normal").save(cells / "model.ks")
    return cells / "model.ks"


class TestConfig:
    def test_gives_options_that_the_command_line_may_replace(
        self, run: Run, cells: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "ours.toml").write_text(
            'method = "patchcore"\ncoreset = 40\nlevels = [1, 2]\nimage_size = [64, 96]\n'
            'backend = "rust"\nsigma = 2\nscore = "map"\n[fit]\nbatch-size = 3\nskip_bad = true\n'
            "[evaluate]\nnot-read-here = 1\n"
        )
        code, _, err = run(
            *("fit", cells / "normal", "--output", "model.ks"),
            *("--config", "ours.toml", "--coreset", "60", "--device", "cpu"),
        )
        assert code == 0, err
        loaded = ks.load(tmp_path / "model.ks")
        assert isinstance(loaded, ks.PatchCore)
        assert (loaded.coreset, loaded.sigma, loaded.score) == (60, 2.0, "map")
        assert (loaded.backbone.levels, loaded.backbone.image_size) == ((1, 2), (64, 96))
        assert loaded.fitted_with_ == {"backend": "rust"}
        code, out, _ = run("info", "model.ks")
        assert code == 0
        words = " ".join(out.replace("│", " ").split())
        assert "fitted with backend rust" in words
        assert "coreset 60" in words

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("sigma = 2\ncolour = 3\n", "ours.toml:2: colour: is no option of fit with the method"),
            ("\nmax_epochs = 3\n", "ours.toml:2: max_epochs: is no option of fit with the method"),
            ("sigma = 2\nimages = 'a'\n", "ours.toml:2: images: is no option of fit"),
            ("levels = '1,,2'\n", "ours.toml:1: levels: expected whole numbers or names"),
            ("levels = ['36']\n", "levels: names of tensors are for ONNX files"),
            ("# one\n\nimage_neighbors = 2.5", "ours.toml:3: image_neighbors: expected a whole"),
            ("[fit]\nbatch_size = 'many'\n", "ours.toml:2: batch_size: expected a whole number"),
            ("skip_bad = 1", "ours.toml:1: skip_bad: expected true or false"),
            ("output = 0.5", "ours.toml:1: output: expected a text"),
            ("white = 2021-01-01", "ours.toml:1: white: expected a text, a number or a list"),
            ("sigma = \n", "ours.toml: expected a TOML file: Invalid value (at line 1"),
            ("a = 1\na = 2\n", "ours.toml: expected a TOML file"),
            ("method = 'nope'", "--method: expected one of"),
            ("image_neighbors = 0", "image_neighbors: expected at least 1"),
        ],
    )
    def test_that_is_wrong_is_refused_with_its_line(
        self, run: Run, cells: Path, tmp_path: Path, text: str, problem: str
    ) -> None:
        (tmp_path / "ours.toml").write_text(text)
        code, out, err = run(
            "fit", cells / "normal", "--output", "model.ks", "--config", "ours.toml"
        )
        assert (code, out) == (2, "")
        assert problem in " ".join(err.split())
        assert len(err.splitlines()) == 1
        assert not (tmp_path / "model.ks").exists()

    def test_that_is_missing_is_named(self, run: Run, cells: Path) -> None:
        code, _, err = run("evaluate", cells, "--config", "gone.toml")
        assert code == 2
        assert "--config: gone.toml cannot be read" in err


class TestPredict:
    def test_takes_a_backend_and_its_threads(self, run: Run, cells: Path, model: Path) -> None:
        expected = run("predict", model, cells / "other", "--output", "one")
        options = ("--backend", "torch:cpu", "--threads", "1")
        found = run("predict", model, cells / "other", "--output", "two", *options)
        assert expected[:2] == found[:2]
        code, _, err = run("predict", model, cells / "other", "--output", "x", "--backend", "abc")
        assert code == 2
        assert "backend: expected one of" in err

    @pytest.mark.parametrize("kind", ["npy", "tiff"])
    def test_writes_maps_and_does_not_judge_them(
        self, run: Run, cells: Path, model: Path, tmp_path: Path, kind: str
    ) -> None:
        images = tmp_path / "images"
        shutil.copytree(cells / "other", images)
        arguments = ("predict", model, images, "--output", images / "found", "--maps", kind)
        code, out, err = run(*arguments)
        assert code == 0, err
        detector = ks.load(model)
        for prediction in detector.predict(images):
            file = images / f"found/maps/{Path(prediction.id).stem}.{kind}"
            map_ = np.load(file) if kind == "npy" else tifffile.imread(file)
            assert map_.dtype == np.float32
            np.testing.assert_array_equal(map_, prediction.map)
        shutil.copy(next(images.glob("*.png")), images / "found/by hand.png")
        code, again, err = run(*arguments)
        assert (code, again) == (0, out)
        assert "in the folder of results are not judged" in err

    def test_of_nothing_but_results_is_refused(
        self, run: Run, cells: Path, model: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(cells / "other", tmp_path / "found")
        code, _, err = run("predict", model, tmp_path / "found", "--output", tmp_path / "found")
        assert code == 1
        assert "all images lie in the folder of results" in err

    def test_options_of_searching_are_refused_for_networks(
        self, run: Run, cells: Path, tmp_path: Path
    ) -> None:
        backbone = ks.Backbone(image_size=64, device="cpu")
        ks.SimpleNet(backbone, max_epochs=1, hidden=8).fit(cells / "normal").save(
            tmp_path / "net.ks"
        )
        for option, value in (("--backend", "rust"), ("--threads", "1")):
            code, _, err = run("predict", "net.ks", cells / "other", "--output", "x", option, value)
            assert code == 2
            words = "anomalydino, patchcore, rad, spade and superadd"
            assert f"{option}: is an option of {words}, the method is simplenet" in err


def test_options_of_a_method_are_shown_for_it_alone(run: Run) -> None:
    for method, there, missing in (
        ("cflow", "--coupling-blocks", "--coreset"),
        ("patchcore", "--coreset", "--image-neighb"),
        ("spade", "--image-neighb", "--max-epochs"),
    ):
        for command in ("fit", "evaluate"):
            code, out, _ = run(command, "--method", method, "--help")
            assert code == 0
            assert there in out
            assert missing not in out
            assert max(map(len, out.splitlines())) <= 80
