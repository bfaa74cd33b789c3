"""Correcting models on the command line."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import Run
from PIL import Image

import knnspect as ks
from knnspect.data import elpv_split, read_image
from knnspect.model_files import corrections_of

N_LEARNT, N_NEW, N_BAD = 8, 3, 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Solar cells to learn from, others with a light square, and some with a dark one."""
    root = tmp_path_factory.mktemp("data")
    files = elpv_split(n_train=0, n_functional=N_LEARNT + N_NEW + N_BAD).functional
    places = ["normal"] * N_LEARNT + ["new"] * N_NEW + ["bad"] * N_BAD
    for number, (file, place) in enumerate(zip(files, places, strict=True)):
        cell = np.array(read_image(file)[::2, ::2, 0])
        if place != "normal":
            cell[60:100, 30:80] = 0 if place == "bad" else 255
        (root / place).mkdir(exist_ok=True)
        Image.fromarray(cell).save(root / place / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def models(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    backbone = ks.Backbone(image_size=64, levels=(1, 2), device="cpu")
    ks.PatchCore(backbone, coreset=60).fit(data / "normal").save(root / "file")
    ks.Spade(backbone).fit(data / "normal", folder=root / "folder").save(root / "folder")
    return root


@pytest.fixture(params=["file", "folder"])
def model(request: pytest.FixtureRequest, models: Path, tmp_path: Path) -> Path:
    made = models / request.param
    copied = shutil.copytree if made.is_dir() else shutil.copy
    return Path(copied(made, tmp_path / "model"))


def n_anomalous(run: Run, model: Path, images: Path, output: str) -> int:
    code, _, errors = run("predict", model, images, "--output", output)
    assert code == 0, errors
    return int(errors.splitlines()[-1].split()[0])


def test_false_alarms_that_are_added_are_normal_until_they_are_removed(
    run: Run, model: Path, data: Path
) -> None:
    assert n_anomalous(run, model, data / "new", "before") == N_NEW
    code, output, errors = run("add", model, data / "new")
    assert code == 0, errors
    assert output == f"{model}: 11 normal images after correction 1, 3 more than before\n"
    assert n_anomalous(run, model, data / "new", "after") == 0
    code, output, _ = run("remove", model, "08.png", "09.png", "10.png")
    assert (code, output) == (0, f"{model}: 8 normal images after correction 2\n")
    assert n_anomalous(run, model, data / "new", "removed") == N_NEW
    code, output, _ = run("rollback", model, "--to", "1")
    assert (code, output) == (0, f"{model}: 11 normal images after correction 3\n")
    assert n_anomalous(run, model, data / "new", "back") == 0


def test_defects_that_were_rejected_are_named(run: Run, model: Path, data: Path) -> None:
    code, output, errors = run("reject", model, data / "bad", "--name", "dark square")
    assert code == 0, errors
    assert "2 images remembered as dark square; 1 kind of defect by now" in output
    code, _, errors = run("predict", model, data / "bad", "--output", "found", "--report")
    assert code == 0, errors
    with Path("found/scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["known_defect"] for row in rows] == ["dark square"] * N_BAD
    document = json.loads(Path("found/scores.json").read_text())
    like = document["images"][0]["regions"][0]["known_defect"]
    assert (like["name"], like["image"]) == ("dark square", rows[0]["id"])
    page = Path("found/report.html").read_text()
    assert "looks more like dark square (11.png) than like anything normal" in page
    code, output, _ = run("info", model)
    assert "2 images: dark square" in output


def test_the_history_says_what_came_when_from_which_file(run: Run, model: Path, data: Path) -> None:
    assert run("history", model)[:2] == (0, "")
    run("add", model, data / "new" / "08.png", "--prefix", "line 2/")
    run("remove", model, "00.png")
    run("rollback", model, "--to", "0")
    code, output, errors = run("history", model)
    assert code == 0
    steps = [line.split("\t") for line in output.splitlines()]
    added = f"line 2/{data / 'new' / '08.png'}"
    assert [(number, what) for number, _, what in steps] == [
        ("1", f"add {added}"),
        ("2", "remove 00.png"),
        ("3", "rollback to 0"),
    ]
    assert "3 corrections since it was fitted" in errors
    code, output, _ = run("history", model, "--csv")
    rows = list(csv.DictReader(io.StringIO(output)))
    assert [row["file"] for row in rows] == [str(data / "new" / "08.png"), "", ""]
    assert [row["time"] for row in rows] == [one.time for one in corrections_of(model)]
    assert rows[2]["to"] == "0"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("remove", "nowhere.png"), 2, "expected images of the model, got nowhere.png"),
        (("rollback", "--to", "7"), 2, "0 (as fitted) to 0, got 7"),
        (("add", "{data}/normal"), 2, "the model has, or had, another image of this id"),
        (("add", "{data}/nowhere"), 1, "nowhere"),
        (("reject", "{data}/bad", "--name", " "), 2, "name: expected a name"),
    ],
)
def test_mistakes_are_said_in_one_line_and_the_model_is_unharmed(
    run: Run,
    model: Path,
    data: Path,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    command, *rest = (argument.format(data=data) for argument in arguments)
    found, _, errors = run(command, model, *rest)
    assert found == code
    assert message in errors.splitlines()[-1]
    assert corrections_of(model) == ()


def test_a_trained_model_cannot_be_corrected(run: Run, data: Path, tmp_path: Path) -> None:
    backbone = ks.Backbone(image_size=64, levels=(1, 2), device="cpu")
    net = ks.SimpleNet(backbone, max_epochs=1).fit(data / "normal")
    net.save(tmp_path / "net.ks")
    for command in (("add", "{}", data / "new"), ("remove", "{}", "a"), ("history", "{}")):
        code, _, errors = run(*(tmp_path / "net.ks" if a == "{}" else a for a in command))
        if command[0] == "history":
            assert code == 0
            assert "0 corrections" in errors
        else:
            assert code == 2
            assert "simplenet keeps none of them, and is to be fitted again" in errors


def test_images_are_added_to_models_that_keep_none(run: Run, data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    backbone = ks.Backbone(image_size=64, levels=(1, 2), device="cpu")
    ks.Padim(backbone).fit(data / "normal").save(model)
    code, said, errors = run("add", model, data / "new")
    assert code == 0, errors
    assert said == f"{model}: {N_LEARNT + N_NEW} normal images, {N_NEW} more than before\n"
    assert ks.load(model).n_images_ == N_LEARNT + N_NEW
    before = model.read_bytes()
    code, _, errors = run("add", model, data / "new")
    assert code == 1
    assert f"{N_NEW} of the {N_NEW} images were learnt from already" in errors
    assert model.read_bytes() == before
    code, _, errors = run("remove", model, "08.png")
    assert code == 2, errors
    assert "padim keeps none of them" in errors
