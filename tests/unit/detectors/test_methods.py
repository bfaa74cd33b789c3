"""A method is one class, also of another package: found by its word, everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import knnspect as ks
from knnspect.data import elpv_split
from knnspect.detectors import get_method, methods
from knnspect.errors import ParameterError

#: All that a method needs.
TOY = '''
"""A method of another package."""
import numpy as np
from knnspect.constraints import Positive
from knnspect.detectors import Detector, Prediction, State
from knnspect.parameters import parameter


class Mean(Detector):
    """Judge cells by their distance from the mean.

    Parameters
    ----------
    power : float, default 2.0
        To which differences are raised.

    Source
    ------
    Doe, "On Means" (2026). Deviations: none.
    """

    power: float = parameter(Positive(), default=2.0)
    method = "mean"
    n_images_ = nbytes_ = 1

    def _learn(self, normal, run):
        self.mean_ = normal.gallery.pyramid().levels[0].mean((0, 1, 2))
        self.normal_map_max_ = 1.0

    def _judge(self, features, watch):
        for index, id_ in enumerate(features.ids):
            far = np.abs(features.pyramid.levels[0][index] - self.mean_) ** self.power
            map_ = self._map(far.mean(-1), features.placements[index])
            yield Prediction(id_, float(map_.max()), map_)

    def _state(self):
        return State(arrays={"mean": self.mean_})

    def _set_state(self, stored):
        self.mean_ = stored.tensors("")["mean"]
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with an installed package that brings a method."""
    folder = tmp_path / "site"
    (folder / "toy-1.0.dist-info").mkdir(parents=True)
    (folder / "toy.py").write_text(TOY)
    (folder / "toy-1.0.dist-info/METADATA").write_text("Name: toy\nVersion: 1.0\n")
    (folder / "toy-1.0.dist-info/entry_points.txt").write_text(
        "[knnspect.detectors]\nmean = toy:Mean\nbroken = toy:no_such\nother = toy:np\n"
    )
    monkeypatch.syspath_prepend(folder)
    return folder


def test_a_method_from_outside_is_used_by_the_command_line(package: Path, tmp_path: Path) -> None:
    lines = [line for line in TOY.split("class Mean")[1].splitlines() if line.strip()]
    assert len(lines) <= 30
    paths = elpv_split(n_train=3, n_functional=1, n_defective=1)
    for place, files in (("normal", paths.train), ("other", [*paths.defective])):
        (tmp_path / place).mkdir()
        for file in files:
            (tmp_path / place / file.name).write_bytes(file.read_bytes())

    def knnspect(*arguments: str) -> str:
        path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH", "")]))
        done = subprocess.run(
            [sys.executable, "-c", "from knnspect.cli import main; main()", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, "COLUMNS": "100"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert 'Doe, "On Means" (2026)' in knnspect("methods")
    assert "--power" in knnspect("fit", "--method", "mean", "--help")
    options = ("--method", "mean", "--power", "3", "--image-size", "64", "--device", "cpu")
    knnspect("fit", "normal", "--output", "model.ks", *options)
    printed = knnspect("predict", "model.ks", "other", "--output", "found", "--maps", "npy")
    assert "power" in knnspect("info", "model.ks")

    loaded = ks.load(tmp_path / "model.ks", device="cpu")
    assert (loaded.method, loaded.get_params()["power"]) == ("mean", 3.0)
    (prediction,) = loaded.predict(paths.defective)
    assert printed.split()[0] == f"{prediction.score:.6g}"
    map_ = np.load(tmp_path / f"found/maps/{paths.defective[0].stem}.npy")
    np.testing.assert_array_equal(map_, prediction.map)


def test_methods_are_listed_ours_first(package: Path) -> None:
    assert methods()[-3:] == ["broken", "mean", "other"]
    ours = methods()[:-3]
    assert ours[:5] == ["anomalydino", "patchcore", "rad", "spade", "superadd"]
    drawing = ours.index("aae")
    assert {"cflow", "deep_svdd", "padim", "simplenet"} <= set(ours[5:drawing])
    assert {"hadgan", "ssim_ae"} <= set(ours[drawing:])
    assert ours[5:drawing] == sorted(ours[5:drawing])
    assert ours[drawing:] == sorted(ours[drawing:])


def test_each_of_ours_names_its_paper() -> None:
    for word in methods():
        paper = get_method(word).paper()
        assert paper.endswith(")"), paper
        assert '"' in paper


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("nope", "method: expected one of anomalydino, patchcore, .*, got 'nope'"),
        ("broken", "its entry point 'toy:no_such' cannot be loaded"),
        ("other", "its entry point 'toy:np' is no subclass of Detector"),
    ],
)
def test_what_is_no_method_is_refused(package: Path, word: str, problem: str) -> None:
    with pytest.raises(ParameterError, match=problem):
        get_method(word)
