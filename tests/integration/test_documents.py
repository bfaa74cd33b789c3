"""What the README shows works as printed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knnspect.data import elpv_split

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [
    re.split(r"\s+#", line)[0].split()
    for language, text in BLOCKS
    if language == ""
    for line in text.splitlines()
    if line.startswith("knnspect ")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the README's ``bottle`` dataset, out of solar cells with a painted defect."""
    root = tmp_path_factory.mktemp("readme")
    split = elpv_split(n_train=6, n_functional=2, n_defective=1)
    for part in ("train/good", "test/good", "test/broken", "ground_truth/broken"):
        (root / "bottle" / part).mkdir(parents=True)
    for path in split.train:
        shutil.copy(path, root / "bottle" / "train" / "good")
    for path in split.functional:
        shutil.copy(path, root / "bottle" / "test" / "good")
    pixels = np.asarray(Image.open(split.functional[0])).copy()
    mask = np.zeros(pixels.shape, np.uint8)
    pixels[120:170, 60:110], mask[120:170, 60:110] = 0, 255
    Image.fromarray(pixels).save(root / "bottle" / "test" / "broken" / "000.png")
    Image.fromarray(mask).save(root / "bottle" / "ground_truth" / "broken" / "000_mask.png")
    return root


def test_there_is_something_to_try() -> None:
    assert len(PYTHON) == 4
    assert {command[1] for command in COMMANDS} == {"fit", "predict", "evaluate", "info"}


def test_python_examples_run_in_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="image_neighbors=50 exceeds")
        can_run = [text for text in PYTHON if "Faiss" not in text or find_spec("faiss")]
        for text in can_run:
            exec(compile(text, "README.md", "exec"), names)
    if len(can_run) < len(PYTHON):
        pytest.skip("all but the example of faiss, which is not installed")


def test_commands_run_in_order(folder: Path) -> None:
    knnspect = Path(sys.executable).with_name("knnspect")
    for _, *arguments in COMMANDS:
        run = subprocess.run(
            [knnspect, *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, f"{arguments}: {run.stderr}"
        assert run.stdout
    assert (folder / "results" / "overlays" / "broken" / "000.png").is_file()
    assert (folder / "results" / "scores.csv").is_file()
    assert (folder / "figures.json").is_file()
