"""Models whose backbone is an ONNX file of others are fitted and used where there is no PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from base_environment import link_base
from command_line import Run
from onnx_files import ocr_network
from PIL import Image

import knnspect as ks
from knnspect.data import elpv_split, read_image

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*near-duplicates"),
]

COMMAND = "from knnspect.cli import main; main()"
#: Levels of the network that finds text, and how images enter it.
LEVELS = ("p2o.pd_op.add.14.0", "p2o.pd_op.add.27.0")
NETWORK = ("--image-size", "64", "--levels", ",".join(LEVELS), "--mean", "0.5", "--std", "0.5")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Solar cells to learn from, and normal and defective ones to judge."""
    root = tmp_path_factory.mktemp("cells")
    split = elpv_split(n_train=30, n_functional=6, n_defective=4)
    for part, files in (("normal", split.train), ("test", [*split.defective, *split.functional])):
        (root / part).mkdir()
        for number, file in enumerate(files):
            cell = Image.fromarray(np.array(read_image(file)[..., 0]))
            cell.resize((80, 80)).save(root / part / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of a base install, with onnxruntime."""
    folder = tmp_path_factory.mktemp("packages")
    link_base(folder, "onnx")
    return folder


def run_in(packages: Path, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-S", "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("method", ["patchcore", "spade"])
def test_without_torch_a_model_is_fitted_and_judges(
    method: str, cells: Path, packages: Path, tmp_path: Path
) -> None:
    network = tmp_path / "network.onnx"
    network.write_bytes(ocr_network("det").read_bytes())
    model, output = tmp_path / "model.ks", tmp_path / "results"
    fitted = run_in(
        packages,
        COMMAND,
        *("fit", cells / "normal", "--output", model, "--method", method),
        *("--backbone", network, *NETWORK),
    )
    assert fitted.returncode == 0, fitted.stderr
    network.unlink()  # the model has it
    judged = run_in(
        packages, COMMAND, *("predict", model, cells / "test", "--output", output, "--report")
    )
    assert judged.returncode == 0, judged.stderr
    assert "onnxruntime" in (output / "report.html").read_text(encoding="utf-8")
    scores = json.loads((output / "scores.json").read_text())
    found = {one["id"]: one["score"] for one in scores["images"]}

    # Where there is PyTorch, the same is found.
    network.write_bytes(ocr_network("det").read_bytes())
    backbone = ks.Backbone(network, LEVELS, 64, mean=0.5, std=0.5, patch_size=3)
    kind = {"patchcore": ks.PatchCore, "spade": ks.Spade}[method]
    expected = kind(backbone).fit(cells / "normal").predict(cells / "test")
    np.testing.assert_allclose(list(found.values()), [one.score for one in expected], rtol=1e-5)
    said = run_in(packages, COMMAND, "info", model).stdout
    words = " ".join(said.replace("│", " ").split())
    for part in ("backbone format onnx-file", "backbone name network.onnx", "backbone mean 0.5"):
        assert part in words


def test_a_head_is_trained_on_its_features_and_goes_on_from_a_checkpoint(
    cells: Path, packages: Path, tmp_path: Path
) -> None:
    def simplenet(epochs: int) -> ks.SimpleNet:
        backbone = ks.Backbone(ocr_network("det"), LEVELS, 64, device="cpu", patch_size=3)
        return ks.SimpleNet(backbone, max_epochs=epochs, hidden=16)

    checkpoint = tmp_path / "half.ckpt"
    expected = simplenet(2).fit(cells / "normal")
    simplenet(1).fit(cells / "normal", checkpoint=checkpoint)
    found = simplenet(2).fit(cells / "normal", checkpoint=checkpoint)
    scores = [one.score for one in expected.predict(cells / "test")]
    assert [one.score for one in found.predict(cells / "test")] == scores
    found.save(tmp_path / "model.ks")
    code = (
        "import sys, knnspect as ks;"
        "print([one.score for one in ks.load(sys.argv[1]).predict(sys.argv[2])])"
    )
    judged = run_in(packages, code, tmp_path / "model.ks", cells / "test")
    assert judged.returncode == 0, judged.stderr
    np.testing.assert_allclose(json.loads(judged.stdout), scores, rtol=1e-4)


def test_without_onnxruntime_what_it_needs_is_said(tmp_path: Path, cells: Path) -> None:
    (tmp_path / "packages").mkdir()
    link_base(tmp_path / "packages")
    failed = run_in(
        tmp_path / "packages",
        COMMAND,
        *("fit", cells / "normal", "--output", tmp_path / "model.ks"),
        *("--backbone", ocr_network("cls"), "--levels", "relu_1.tmp_0"),
    )
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].endswith(
        'an ONNX network needs onnxruntime, which is not installed: pip install "knnspect[onnx]"'
    )


def test_info_lists_the_tensors_of_a_file(run: Run, tmp_path: Path) -> None:
    code, said, errors = run("info", ocr_network("cls"))
    assert (code, errors) == (0, "")
    assert "56x112x8       Relu               relu_1.tmp_0" in said.splitlines()
    assert "x (float: any x 3 x any x any)" in said
    (tmp_path / "none.onnx").write_bytes(b"no network")
    code, said, errors = run("info", "none.onnx")
    assert (code, said) == (1, "")
    assert "none.onnx: expected an ONNX file" in errors


def test_a_level_that_is_not_there_is_named_with_its_neighbours(run: Run, cells: Path) -> None:
    arguments = ("fit", cells / "normal", "--output", "model.ks", "--backbone", ocr_network("cls"))
    code, _, errors = run(*arguments, "--levels", "relu_1.tmp_1")
    assert code == 2
    assert "did you mean 'relu_1.tmp_0'" in errors
    assert "knnspect info" in errors
    code, _, errors = run(*arguments)
    assert code == 2
    assert "has the outputs 0 to 0, got 1" in errors
