"""Models that were exported judge where there is no PyTorch, and say what the originals say.

They do so in processes that find the packages of a base install and onnxruntime, and no others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from base_environment import base_distributions, link_base
from networks import random_network, save
from PIL import Image

import knnspect as ks
from knnspect.data import elpv_split, read_image
from knnspect.detectors import Detector
from knnspect.exporting import export

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*near-duplicates"),
]

#: Judges images and writes what it says of them.
JUDGE = """
import json, sys, time
start = time.perf_counter()
import numpy as np
import knnspect as ks

# The last ones take long to import, and are not needed.
UNWANTED = ("torch", "timm", "onnx", "sklearn", "scipy.ndimage", "scipy.stats")
model, cells, output = sys.argv[1:4]
detector = ks.load(model)
first = detector.predict(cells + "/00.png")
seconds = time.perf_counter() - start
found = detector.predict(cells)
np.savez(output, *[one.map for one in found])
print(json.dumps({
    "seconds": seconds,
    "scores": [one.score for one in found],
    "verdicts": [one.verdict for one in found],
    "modules": [name for name in UNWANTED if name in sys.modules],
}))
"""
#: Changes what a model knows, calibrates it, and saves it.
CHANGE = """
import sys
import numpy as np
import knnspect as ks

model, cells, held, output = sys.argv[1:5]
detector = ks.load(model, device="cpu")
name = cells + "/09.png"
before = detector.predict(name)[0]
detector.add([name])
after = detector.predict(name)[0]
assert after.score < before.score, (before, after)
detector.calibrate(held)
detector.save(output)
again = ks.load(output)
assert again.predict(name)[0].score == after.score
assert [one.kind for one in again.history_] == ["add"], again.history_
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Solar cells to learn from, normal and defective ones to judge, and others to calibrate."""
    root = tmp_path_factory.mktemp("cells")
    split = elpv_split(n_train=30, n_functional=26, n_defective=4)
    parts = {
        "normal": split.train,
        "test": [*split.defective, *split.functional[:6]],
        "held": split.functional[6:],
    }
    for part, files in parts.items():
        (root / part).mkdir()
        for number, file in enumerate(files):
            cell = Image.fromarray(np.array(read_image(file)[..., 0]))
            cell.resize((100, 100)).save(root / part / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    link_base(folder, "onnx")
    assert not base_distributions("onnx") & {"torch", "timm", "onnx"}
    return folder


def run_without_torch(packages: Path, code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def lite(**given: Any) -> ks.Backbone:
    return ks.Backbone(levels=(1, 2), image_size=64, device="cpu", **given)


def vision_transformer(folder: Path) -> ks.Backbone:
    path = save(random_network("vit_tiny_patch16_224").state_dict(), folder / "vit.safetensors")
    return ks.Backbone(
        "vit_tiny_patch16_224",
        levels=(3,),
        image_size=64,
        weights=path,
        unit=True,
        norm=True,
        device="cpu",
    )


KINDS: dict[str, Callable[[Path], Detector]] = {
    "spade": lambda _: ks.Spade(lite(), image_neighbors=5),
    "patchcore": lambda _: ks.PatchCore(lite(patch_size=3), coreset=0.1),
    "simplenet": lambda _: ks.SimpleNet(lite(patch_size=5), max_epochs=3, hidden=32),
    "padim": lambda _: ks.Padim(lite(patch_size=3)),
    "pca_residual": lambda _: ks.PcaResidual(lite(patch_size=3)),
    "one_class_svm": lambda _: ks.OneClassSvm(lite(patch_size=3), landmarks=30),
    "deep_svdd": lambda _: ks.DeepSvdd(lite(patch_size=3), max_epochs=3),
    "student_teacher": lambda _: ks.StudentTeacher(lite(patch_size=3), max_epochs=3),
    "transformations": lambda _: ks.Transformations(lite(patch_size=3), max_epochs=3),
    "cflow": lambda _: ks.CFlow(lite(patch_size=3), max_epochs=2, coupling_blocks=2),
    "anomalydino": lambda folder: ks.AnomalyDINO(vision_transformer(folder)),
}


def exported(detector: Detector, path: Path) -> Path:
    export(detector).save(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_without_torch_a_model_says_what_the_original_says(
    kind: str, cells: Path, packages: Path, tmp_path: Path
) -> None:
    detector = KINDS[kind](tmp_path).fit(cells / "normal")
    expected = detector.predict(cells / "test")
    model = exported(detector, tmp_path / "model.ks")
    output = tmp_path / "maps.npz"
    found = json.loads(run_without_torch(packages, JUDGE, model, cells / "test", output))
    np.testing.assert_allclose(found["scores"], [one.score for one in expected], rtol=1e-4)
    assert found["verdicts"] == [one.verdict for one in expected]
    assert {"normal", "anomalous"} == set(found["verdicts"])
    assert found["modules"] == []
    for one, map_ in zip(expected, np.load(output).values(), strict=True):
        np.testing.assert_allclose(map_, one.map, rtol=1e-4, atol=1e-4 * one.map.max())


def test_without_torch_a_model_is_corrected_and_calibrated(
    cells: Path, packages: Path, tmp_path: Path
) -> None:
    detector = ks.PatchCore(lite(), coreset=0.2).fit(cells / "normal")
    model = exported(detector, tmp_path / "model.ks")
    arguments = (model, cells / "test", cells / "held", tmp_path / "again.ks")
    run_without_torch(packages, CHANGE, *arguments)


def test_without_torch_the_command_line_judges(cells: Path, packages: Path, tmp_path: Path) -> None:
    model = exported(ks.Spade(lite()).fit(cells / "normal"), tmp_path / "model.ks")
    command = "from knnspect.cli import main; main()"
    results = tmp_path / "results"
    run_without_torch(
        packages, command, "predict", model, cells / "test", "--output", results, "--device", "cpu"
    )
    assert len(list((results / "overlays").iterdir())) == 10
    assert "onnx" in run_without_torch(packages, command, "info", model)


def test_without_onnxruntime_what_it_needs_is_said(cells: Path, tmp_path: Path) -> None:
    model = exported(ks.Spade(lite()).fit(cells / "normal"), tmp_path / "model.ks")
    (tmp_path / "packages").mkdir()
    link_base(tmp_path / "packages")
    code = """
import sys
import knnspect as ks
try:
    ks.load(sys.argv[1])
except ks.MissingPackageError as error:
    print(error)
"""
    expected = "an ONNX network needs onnxruntime, which is not installed"
    said = run_without_torch(tmp_path / "packages", code, model).strip()
    assert said == f'{expected}: pip install "knnspect[onnx]"'
