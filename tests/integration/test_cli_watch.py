"""``knnspect watch``: drift of real images, run after run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import Run
from PIL import Image

import knnspect as ks
from knnspect.calibration import DriftWatch
from knnspect.data import elpv_split, read_image

N_BEFORE, N = 40, 75


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Solar cells to learn from, and a line on which the light fails after some of them."""
    folder = tmp_path_factory.mktemp("cells")
    split = elpv_split(n_train=4, n_functional=N, n_defective=0)
    (folder / "normal").mkdir()
    (folder / "line").mkdir()
    for file in split.train:
        shutil.copy(file, folder / "normal")
    for number, place in enumerate(np.random.default_rng(0).permutation(N)):
        cell = read_image(split.functional[place])[::3, ::3, 0]
        light = 1.0 if number < N_BEFORE else 0.5
        picture = Image.fromarray(np.rint(cell * light).astype(np.uint8))
        picture.save(folder / "line" / f"{number:03d}.png")
    backbone = ks.Backbone(image_size=64, levels=(1, 2), device="cpu")
    ks.PatchCore(backbone, coreset=50).fit(folder / "normal").save(folder / "model.ks")
    return folder


@pytest.fixture
def model(cells: Path, tmp_path: Path) -> Path:
    shutil.copy(cells / "model.ks", tmp_path)
    return tmp_path / "model.ks"


def state_of(model: Path) -> str:
    return model.with_name(f"{model.name}.drift.json").read_text()


def test_a_light_that_fails_raises_an_alarm_that_stays(
    run: Run, model: Path, cells: Path, tmp_path: Path
) -> None:
    code, out, err = run("watch", "model.ks", cells / "line", "--fail-on-alarm")
    assert code == 3, err
    *said, summary = out.splitlines()
    line = cells / "line"
    assert all(words.startswith("alarm: ") for words in said)
    first = next(words for words in said if words.startswith("alarm: brightness is lower since "))
    alarm = DriftWatch.load(tmp_path / "model.ks.drift.json").alarms["brightness"]
    assert abs(alarm.since - N_BEFORE) <= 2
    assert alarm.since_image == str(line / f"{alarm.since:03d}.png")
    assert f"(image {alarm.since + 1}), noticed with {alarm.image} (image {alarm.at + 1})" in first
    assert summary.startswith(f"{N} images, {N} of them new: ")
    assert summary.endswith("; --reset begins anew")
    assert {file.name for file in tmp_path.iterdir()} == {"model.ks", "model.ks.drift.json"}

    before = state_of(model)
    code, again, err = run("watch", "model.ks", cells / "line", "--fail-on-alarm")
    assert code == 3
    assert again.splitlines()[:-1] == out.splitlines()[:-1]
    assert f"{N} images, 0 of them new" in again
    assert f"{N} images up to {line / f'{N - 1:03d}.png'} were watched before" in err
    assert state_of(model) == before
    assert run("watch", "model.ks", cells / "line")[0] == 0, "exit code 3 is asked for"


def test_runs_over_a_folder_that_grows_are_as_one_run(
    run: Run, model: Path, cells: Path, tmp_path: Path
) -> None:
    names = sorted(file.name for file in (cells / "line").iterdir())[:24]
    (tmp_path / "line").mkdir()
    for begin, end in ((0, 5), (5, 6), (6, 24)):
        for name in names[begin:end]:
            shutil.copy(cells / "line" / name, tmp_path / "line")
        if begin == 6:
            (tmp_path / "line" / names[5]).unlink()  # the last one that was watched
        code, out, err = run("watch", "model.ks", "line", "--batch-size", 5, "--threads", 1)
        assert code == 0, err
        assert f"{end} images, {end - begin} of them new" in out
    in_parts = state_of(model)
    shutil.copy(cells / "line" / names[5], tmp_path / "line")
    assert run("watch", "model.ks", "line", "--reset")[0] == 0
    assert state_of(model) == in_parts


def test_a_list_gives_the_order(run: Run, model: Path, cells: Path, tmp_path: Path) -> None:
    files = sorted((cells / "line").iterdir())[:6][::-1]
    (tmp_path / "list.txt").write_text(
        "\n".join(os.path.relpath(file, tmp_path) for file in files) + "\n"
    )
    code, out, err = run("watch", "model.ks", "list.txt")
    assert code == 0, err
    assert "6 images, 6 of them new: no alarm; nearest to one is " in out
    known = DriftWatch.load(tmp_path / "model.ks.drift.json")
    assert known.last_image == str(files[-1])
    scores = ks.load(model).scores([str(file) for file in files])
    bag = known.to_json()["monitors"]["score"]["scores"]
    assert set(scores.tolist()) <= set(bag)


def test_the_state_of_a_folder_model_is_in_its_folder(
    run: Run, cells: Path, tmp_path: Path
) -> None:
    spade = ks.Spade(ks.Backbone(image_size=64, levels=(1, 2), device="cpu"), image_neighbors=2)
    spade.fit(cells / "normal", folder=tmp_path / "model").save(tmp_path / "model")
    code, out, err = run("watch", "model", sorted((cells / "line").iterdir())[0])
    assert code == 0, err
    assert "1 images, 1 of them new" in out
    assert (tmp_path / "model" / "drift.json").is_file()
    assert len(ks.load(tmp_path / "model").predict(cells / "normal")) == 4
    spade.fit(cells / "normal", folder=tmp_path / "model").save(tmp_path / "model")
    assert (tmp_path / "model" / "drift.json").is_file()


def test_scores_are_compared_with_those_of_images_held_out(
    run: Run, model: Path, cells: Path, tmp_path: Path
) -> None:
    one, *others = sorted((cells / "line").iterdir())[:9]
    patchcore = ks.load(model)
    assert patchcore.calibration_ is not None
    assert patchcore.calibration_.kind == "leave one out"
    code, _, err = run("watch", "model.ks", one)
    assert code == 0, err
    assert "model.ks.drift.json: begins; scores are compared with those of images before" in err
    assert "leave one out, is not quite like scores of new images" in err
    known = DriftWatch.load(tmp_path / "model.ks.drift.json")
    assert len(known.monitors["score"].calibration_scores) == 0

    # Of images that came in blocks, one of each block.
    before = state_of(model)
    blocks = {str(file): number // 2 for number, file in enumerate(others)}
    patchcore.calibrate([str(file) for file in others], blocks=blocks).save(model)
    code, out, err = run("watch", "model.ks", one)
    assert (code, out) == (1, "")
    assert "was begun with other calibration scores than the model has now" in err
    assert state_of(model) == before
    code, _, err = run("watch", "model.ks", one, "--reset")
    assert code == 0, err
    assert "those of 8 normal images in 4 blocks, held out" in err
    known = DriftWatch.load(tmp_path / "model.ks.drift.json")
    expected = sorted(patchcore.calibration_.scores[::2].tolist())
    assert known.monitors["score"].calibration_scores.tolist() == expected
    assert len(known.monitors["brightness"].calibration_scores) == 0


def test_a_model_without_calibration_is_watched_by_what_it_judges(
    run: Run, model: Path, cells: Path, tmp_path: Path
) -> None:
    backbone = ks.Backbone(image_size=64, levels=(1, 2), device="cpu")
    one = sorted((cells / "normal").iterdir())[0]
    ks.PatchCore(backbone, coreset=50).fit(one).save(model)
    code, _, err = run("watch", "model.ks", cells / "normal")
    assert code == 0, err
    assert "scores are compared with those of images before alone (the model has none" in err
    known = DriftWatch.load(tmp_path / "model.ks.drift.json")
    assert len(known.monitors["score"].calibration_scores) == 0


def test_a_state_that_watches_other_quantities_needs_a_reset(
    run: Run, model: Path, cells: Path, tmp_path: Path
) -> None:
    DriftWatch({"score": (), "weight": ()}).save(tmp_path / "model.ks.drift.json")
    code, out, err = run("watch", "model.ks", sorted((cells / "line").iterdir())[0])
    assert (code, out) == (1, "")
    assert "expected the quantities score, map median, brightness, sharpness, it has" in err


@pytest.mark.parametrize(
    ("probability", "code", "words"),
    [
        ("0.05", 2, "expected 0.01, with which model.ks.drift.json was begun, got 0.05; --reset"),
        ("0", 2, "--false-alarm-probability"),
        ("2", 2, "--false-alarm-probability"),
    ],
)
def test_another_probability_needs_a_reset(
    probability: str, code: int, words: str, run: Run, model: Path, cells: Path
) -> None:
    one = sorted((cells / "line").iterdir())[0]
    assert run("watch", "model.ks", one)[0] == 0
    before = state_of(model)
    found = run("watch", "model.ks", one, "--false-alarm-probability", probability)
    assert found[0] == code
    assert words.replace("--false-alarm-probability", "probability") in found[2]
    assert state_of(model) == before
    if probability == "0.05":
        assert run("watch", "model.ks", one, "--reset", "--false-alarm-probability", ".05")[0] == 0
        assert json.loads(state_of(model))["false_alarm_probability"] == 0.05


def test_a_damaged_state_is_said_and_a_reset_helps(run: Run, model: Path, cells: Path) -> None:
    file = model.with_name("model.ks.drift.json")
    one = sorted((cells / "line").iterdir())[0]
    for damage in ('{"kind": "drift watch"', "[]", '{"kind": "drift watch", "format": 7}'):
        file.write_text(damage)
        code, out, err = run("watch", "model.ks", one)
        assert (code, out) == (1, "")
        assert err.startswith("knnspect: ")
        assert "model.ks.drift.json: is damaged: " in err
        assert file.read_text() == damage
    assert run("watch", "model.ks", one, "--reset")[0] == 0
    assert len(ks.load(model).predict(one)) == 1


def test_a_bad_image_is_left_out_on_request(
    run: Run, model: Path, cells: Path, tmp_path: Path
) -> None:
    (tmp_path / "line").mkdir()
    for name in ("000.png", "001.png"):
        shutil.copy(cells / "line" / name, tmp_path / "line")
    (tmp_path / "line" / "0005.png").write_text("no image")
    code, out, err = run("watch", "model.ks", "line")
    assert (code, out) == (1, "")
    assert "0005.png" in err
    code, out, err = run("watch", "model.ks", "line", "--skip-bad")
    assert code == 0, err
    assert "2 images, 2 of them new, 1 left out: no alarm" in out


def test_a_kill_leaves_a_state_from_which_the_next_run_goes_on(
    run: Run, model: Path, cells: Path, tmp_path: Path
) -> None:
    (tmp_path / "line").mkdir()
    for number in range(130):
        shutil.copy(cells / "line" / "000.png", tmp_path / "line" / f"{number:03d}.png")
    code = "from knnspect.cli import main; main()"
    state = tmp_path / "model.ks.drift.json"
    with subprocess.Popen(
        [sys.executable, "-c", code, "watch", "model.ks", "line", "--batch-size", "1"],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        end = time.monotonic() + 120
        while not state.exists() and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.002)
        process.kill()
    n_saved = DriftWatch.load(state).n
    assert n_saved in (100, 130)
    _, out, _ = run("watch", "model.ks", "line")
    assert f"130 images, {130 - n_saved} of them new" in out
    in_parts = state_of(model)
    run("watch", "model.ks", "line", "--reset")
    assert state_of(model) == in_parts
