"""The command line with hyperspectral scenes: learnt from, judged, evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from command_line import Run
from numpy.typing import NDArray
from PIL import Image
from spectral_scene import mixed_scene

import knnspect as ks

QUICK = ("--method", "hadgan", "--max-epochs", 2, "--width", 8, "--device", "cpu")


@pytest.fixture(scope="module")
def scene() -> NDArray[np.float32]:
    return mixed_scene(0, side=24)[0]


def test_a_scene_is_learnt_from_and_judged(
    run: Run, scene: NDArray[np.float32], tmp_path: Path
) -> None:
    np.save(tmp_path / "scene.npy", scene)
    code, out, errors = run("fit", "scene.npy", "--output", "model.ks", *QUICK)
    assert (code, "learnt from 1 images" in out) == (0, True), errors
    predict = ("predict", "model.ks", "scene.npy", "--output", "found", "--maps", "npy")
    code, out, errors = run(*predict)
    assert code == 0, errors
    (found,) = ks.load("model.ks").predict(scene)
    assert out.splitlines()[0] == f"{found.score:.6g}\tscene.npy"
    (map_,) = (tmp_path / "found" / "maps").rglob("*.npy")
    np.testing.assert_array_equal(np.load(map_), found.map)
    (overlay,) = (tmp_path / "found" / "overlays").rglob("*.png")
    assert Image.open(overlay).size[0] >= 24
    np.save(tmp_path / "scene.npy", scene[..., :7])
    code, _, errors = run("predict", "model.ks", "scene.npy", "--output", "other")
    assert code == 1
    assert "scene.npy: expected 30 bands, as the model has learnt, got 7" in " ".join(
        errors.split()
    )


def test_a_folder_of_scenes_is_learnt_from_and_judged(
    run: Run, scene: NDArray[np.float32], tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "good").mkdir(exist_ok=True)
        np.save(tmp_path / "good" / f"{name}.npy", np.roll(scene, ord(name), axis=0))
    code, _, errors = run("fit", "good", "--output", "model.ks", *QUICK)
    assert code == 0, errors
    code, out, errors = run("predict", "model.ks", "good", "--output", "found")
    assert code == 0, errors
    assert [line.split("\t")[1] for line in out.splitlines()] == ["a.npy", "b.npy", "c.npy"]


def test_multi_band_tiff_files_are_evaluated(
    run: Run, scene: NDArray[np.float32], tmp_path: Path
) -> None:
    bands: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
    is_odd = np.zeros((24, 24), bool)
    is_odd[5, 6] = is_odd[14, 3] = True
    odd = scene.copy()
    odd[is_odd] += np.random.default_rng(0).normal(scale=0.5, size=30).astype(np.float32)
    for name, values in (
        ("train/good/0", scene),
        ("test/good/1", scene[::-1]),
        ("test/odd/0", odd),
    ):
        file = tmp_path / "set" / f"{name}.tif"
        file.parent.mkdir(parents=True)
        tifffile.imwrite(file, values, **bands)
    (tmp_path / "set/ground_truth/odd").mkdir(parents=True)
    Image.fromarray(is_odd).save(tmp_path / "set/ground_truth/odd/0_mask.png")
    code, _, errors = run("evaluate", "set", "--json", "figures.json", *QUICK)
    assert code == 0, errors
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["pixel_auroc"] > 0.95
