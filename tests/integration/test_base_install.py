"""What works where no extra is installed: `tests/install/base_install.py`, in a process of its own.

There the packages of a base install are all that can be found; `.ci/run` runs the same on the wheel
in a fresh environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from base_environment import base_distributions, link_base

import knnspect as ks

SCRIPT = Path(__file__).parents[1] / "install" / "base_install.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), np.uint8)
    path = tmp_path_factory.mktemp("model") / "model.ks"
    ks.Spade(ks.Backbone(image_size=64, device="cpu")).fit(images).save(path)
    return path


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


def test_a_base_install_does_all_that_needs_no_network(tmp_path: Path, model: Path) -> None:
    link_base(tmp_path)
    done = run_in(tmp_path, SCRIPT, model)
    assert done.returncode == 0, done.stderr
    assert "a base install works" in done.stdout
