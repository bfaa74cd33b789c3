"""``knnspect check``, and ``fit --without`` what it lists."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import Run
from PIL import Image

import knnspect as ks
from knnspect.data import elpv_split


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Ten solar cells, one of them twice, and one with a hole."""
    folder = tmp_path / "cells"
    folder.mkdir()
    files = elpv_split(n_train=10, n_functional=1, n_defective=0, seed=1).train
    for file in files:
        shutil.copy(file, folder)
    shutil.copy(files[0], folder / "zz copy.png")
    hole = np.array(Image.open(files[1]))
    hole[60:200, 80:220] = 0
    Image.fromarray(hole).save(folder / "hole.png")
    return folder


def test_what_it_lists_is_left_out(run: Run, cells: Path) -> None:
    code, out, err = run("check", cells, "--drop", "drop.txt", "--sheet", "sheet.png")
    assert code == 0
    assert "hole.png" in out
    assert "= zz copy.png" in out
    assert "drop.txt: 2 images" in err
    assert Path("drop.txt").read_text() == "hole.png\nzz copy.png\n"
    with Image.open("sheet.png") as sheet:
        assert sheet.size > (800, 400)
    with Path("drop.txt").open("a") as file:
        file.write("gone.png\n")
    fitted = run("fit", cells, "--without", "drop.txt", "--output", "m.ks", "--image-size", "64")
    assert fitted[0] == 0
    assert (
        "2 of 12 images are left out; 1 that it names are not there, such as gone.png" in fitted[2]
    )
    assert ks.load("m.ks").n_images_ == 10


def test_a_list_that_names_all_or_is_not_there_is_refused(run: Run, cells: Path) -> None:
    Path("all.txt").write_text("".join(f"{file.name}\n" for file in cells.iterdir()))
    code, _, err = run("fit", cells, "--without", "all.txt", "--output", "m.ks")
    assert code == 1
    assert "all.txt: names all images" in err
    code, _, err = run("fit", cells, "--without", "none.txt", "--output", "m.ks")
    assert code == 1
    assert "none.txt: cannot be read" in err
    assert not Path("m.ks").exists()
