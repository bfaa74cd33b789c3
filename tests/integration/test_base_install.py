"""What works where no extra is installed, or `onnx` alone: the scripts of `tests/install`.

They run in processes of their own, where no other packages can be found; `.ci/run` runs the same on
the wheel in fresh environments.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from base_environment import base_distributions, link_base

SCRIPTS = Path(__file__).parents[1] / "install"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    runpy.run_path(str(SCRIPTS / "models.py"))["main"](folder)
    return folder


def run_in(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-S", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_base_install_brings_no_extra() -> None:
    found = base_distributions()
    assert {"numpy", "pillow", "typer", "jinja2"} <= found
    assert not found & {"torch", "timm", "scikit-learn", "safetensors", "imagecodecs", "zuko"}


def test_a_base_install_does_all_that_needs_no_network(tmp_path: Path, models: Path) -> None:
    link_base(tmp_path)
    done = run_in(tmp_path, SCRIPTS / "base_install.py", models / "model.ks")
    assert done.returncode == 0, done.stderr
    assert "a base install works" in done.stdout


def test_exported_models_judge_with_onnxruntime_alone(tmp_path: Path, models: Path) -> None:
    link_base(tmp_path, "onnx")
    done = run_in(tmp_path, SCRIPTS / "onnx_install.py", models)
    assert done.returncode == 0, done.stderr
    assert "exported models work" in done.stdout
