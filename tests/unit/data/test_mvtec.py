"""The layout of MVTec AD, built from real images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knnspect.data import MVTecDataset, elpv_split, read_mask
from knnspect.errors import ImageError


def mask_of(path: Path, size: tuple[int, int] = (300, 300)) -> Path:
    mask = np.zeros(size, np.uint8)
    mask[10:20, 30:50] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A category of 3 normal images and 1 + 2 + 2 to be scored."""
    split = elpv_split(3, 1, 4)
    root = tmp_path / "cells"
    places = [
        *(("train/good", path) for path in split.train),
        ("test/good", split.functional[0]),
        *(("test/crack", path) for path in split.defective[:2]),
        *(("test/a spot", path) for path in split.defective[2:]),
    ]
    for n, (place, path) in enumerate(places):
        (root / place).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, root / place / f"{n:03d}.png")
    mask_of(root / "ground_truth/crack/004_mask.png")
    mask_of(root / "ground_truth/crack/005_mask.png")
    mask_of(root / "ground_truth/a spot/006.png")
    mask_of(root / "ground_truth/a spot/007.png")
    (root / "license.txt").write_text("x")
    return root


def test_layout(root: Path) -> None:
    dataset = MVTecDataset(str(root))
    assert dataset.root == root
    assert dataset.train == [root / f"train/good/00{i}.png" for i in range(3)]
    assert [image.path.relative_to(root).as_posix() for image in dataset.test] == [
        "test/a spot/006.png",
        "test/a spot/007.png",
        "test/crack/004.png",
        "test/crack/005.png",
        "test/good/003.png",
    ]
    assert [image.defect for image in dataset.test] == ["a spot"] * 2 + ["crack"] * 2 + ["good"]
    assert [image.is_defective for image in dataset.test] == [True] * 4 + [False]
    assert dataset.test[0].mask == root / "ground_truth/a spot/006.png"
    assert dataset.test[2].mask == root / "ground_truth/crack/004_mask.png"
    assert dataset.test[4].mask is None
    assert "3 train, 5 test images" in repr(dataset)


def test_hidden_files_are_left_out(root: Path) -> None:
    (root / "test/.cache").mkdir()
    (root / "test/crack/.DS_Store").touch()
    (root / "test/crack/Thumbs.db").touch()
    assert len(MVTecDataset(root).test) == 5


def test_mask(root: Path) -> None:
    mask = read_mask(root / "ground_truth/crack/004_mask.png", size=(300, 300))
    assert mask.dtype == np.bool_
    assert mask.shape == (300, 300)
    assert mask.sum() == 200
    assert mask[10:20, 30:50].all()


def test_any_grey_counts(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1, 128, 255]], np.uint8)).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").tolist() == [[False, True, True, True]]


def test_mask_of_another_size(tmp_path: Path) -> None:
    path = mask_of(tmp_path / "a_mask.png", (200, 100))
    message = r"a_mask\.png: expected a mask of .*\(100, 200\).*got \(200, 100\)"
    with pytest.raises(ImageError, match=message):
        read_mask(path, size=(100, 200))
    with pytest.raises(ImageError, match=r"gone\.png: expected"):
        read_mask(tmp_path / "gone.png")


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone: expected a folder with train/good.*nothing there"):
        MVTecDataset(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match=r"file: expected a folder with train/good.*got a file"):
        MVTecDataset(tmp_path / "file")


@pytest.mark.parametrize("folder", ["train/good", "test", "ground_truth", "ground_truth/crack"])
def test_missing_folder(root: Path, folder: str) -> None:
    shutil.rmtree(root / folder)
    with pytest.raises(ImageError, match=rf"{folder}.*expected train/good.*got .*license\.txt"):
        MVTecDataset(root)


def test_empty_folders(root: Path) -> None:
    shutil.rmtree(root / "test/crack")
    (root / "test/crack").mkdir()
    with pytest.raises(ImageError, match="crack: expected images, got none"):
        MVTecDataset(root)
    shutil.rmtree(root / "test")
    (root / "test").mkdir()
    with pytest.raises(ImageError, match="expected folders test/<defect>, got none"):
        MVTecDataset(root)


def test_missing_mask(root: Path) -> None:
    (root / "ground_truth/crack/005_mask.png").unlink()
    with pytest.raises(ImageError, match=r"005\.png: expected its mask 005_mask\.png or 005\.png"):
        MVTecDataset(root)
