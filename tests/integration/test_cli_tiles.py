"""Large images in tiles on the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run
from PIL import Image
from skimage import data

import knnspect as ks

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*near-duplicates"),
]

NETWORK = ("--levels", "0,1", "--image-size", "64", "--device", "cpu")
SMALL = ("--method", "patchcore", "--coreset", "200", *NETWORK)
TILES = ("--tile", "64", "--overlap", "16")


@pytest.fixture(scope="module")
def walls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts of a wall in the layout of MVTec AD; in two of the tests a brick is black."""
    root = tmp_path_factory.mktemp("walls")
    brick: Any = data.brick
    wall = brick()
    for number in range(10):
        kind = "train/good" if number < 6 else "test/good" if number < 8 else "test/hole"
        image = wall[20 * number : 20 * number + 120, 30 * number : 30 * number + 181].copy()
        mask = np.zeros(image.shape, np.uint8)
        mask[56:68, 90:110] = 255
        if "hole" in kind:
            image[mask > 0] = 0
            truth = root / "ground_truth/hole"
            truth.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(truth / f"{number}_mask.png")
        (root / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / kind / f"{number}.png")
    return root


def test_a_model_is_fitted_judges_and_is_evaluated(run: Run, walls: Path) -> None:
    code, _, errors = run("fit", walls / "train/good", "--output", "m.ks", *SMALL, *TILES)
    assert code == 0, errors
    backbone = ks.load("m.ks").backbone
    assert isinstance(backbone, ks.Backbone)
    assert (backbone.tile, backbone.overlap, backbone.resize) == (64, 16, "own")
    _, said, _ = run("info", "m.ks")
    assert "tile" in said
    code, said, errors = run("predict", "m.ks", walls / "test", "--output", "out", "--report")
    assert code == 0, errors
    with (Path("out") / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if "hole" in row["id"]:
            assert 50 <= int(row["row"]) <= 74
            assert 84 <= int(row["column"]) <= 116
    code, said, errors = run("evaluate", walls, "--json", "e.json", *SMALL, *TILES)
    assert code == 0, errors
    figures = json.loads(Path("e.json").read_text())
    assert figures["pixel_auroc"] > 0.9


def test_tiles_that_cannot_be_are_said(run: Run, walls: Path) -> None:
    for given, message in (
        (("--tile", "62"), "tile: expected a multiple of 4"),
        (("--tile", "64", "--overlap", "32"), "overlap: expected less than half of the tile"),
        (("--tile", "many"), "--tile: expected a whole number or none, got 'many'"),
        (("--tile", "64", "--overlap", "16", "--resize", "crop"), "which is one tile"),
        (("--overlap", "32"), "overlap: is that of tiles"),
    ):
        code, _, errors = run("fit", walls / "train/good", "--output", "m.ks", *SMALL, *given)
        assert code in (1, 2), given
        assert message in " ".join(errors.split()), errors
        assert not Path("m.ks").exists()
