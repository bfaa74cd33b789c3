"""The layout of MVTec AD, built from real images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knnspect.data import MVTecDataset, elpv_split, read_mask
from knnspect.errors import ImageError, ParameterError


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


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone: expected a folder with train/good.*nothing there"):
        MVTecDataset(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match=r"file: expected a folder with train/good.*got a file"):
        MVTecDataset(tmp_path / "file")


@pytest.mark.parametrize("folder", ["train/good", "train", "test"])
def test_missing_folder(root: Path, folder: str) -> None:
    shutil.rmtree(root / folder)
    there = r"got no folder in .*train" if folder == "train/good" else r"got .*license\.txt"
    with pytest.raises(ImageError, match=rf"{folder}: no such.*expected train/good.*{there}"):
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


@pytest.mark.parametrize("folder", ["ground_truth", "ground_truth/crack"])
def test_masks_may_be_missing(root: Path, folder: str) -> None:
    shutil.rmtree(root / folder)
    dataset = MVTecDataset(root)
    masks = {image.path.name: image.mask for image in dataset.test if image.is_defective}
    assert len(masks) == 4
    assert masks["004.png"] is masks["005.png"] is None
    assert (masks["006.png"] is None) == (folder == "ground_truth")


def test_one_mask_may_be_missing(root: Path) -> None:
    (root / "ground_truth/crack/005_mask.png").unlink()
    dataset = MVTecDataset(root)
    assert [image.mask is None for image in dataset.test] == [False, False, False, True, True]
    assert dataset.unmatched == []


def test_masks_that_are_called_otherwise_are_noticed(root: Path) -> None:
    odd = root / "ground_truth/crack/mask-of-005.png"
    (root / "ground_truth/crack/005_mask.png").rename(odd)
    assert MVTecDataset(root).unmatched == [odd]


@pytest.mark.parametrize(
    "name",
    ["005_mask.bmp", "005_mask.PNG", "005_MASK.png", "005.TIF", "005_gt.png", "005_GT.tiff"],
)
def test_masks_have_any_ending_in_any_case(root: Path, name: str) -> None:
    old = root / "ground_truth/crack/005_mask.png"
    with Image.open(old) as mask:
        mask.save(root / "ground_truth/crack" / name)
    old.unlink()
    image = MVTecDataset(root).test[3]
    assert (image.path.name, image.mask) == ("005.png", root / "ground_truth/crack" / name)
    assert image.mask is not None
    assert read_mask(image.mask).sum() == 200


def test_a_copy_of_the_image_beside_its_mask_is_not_the_mask(root: Path) -> None:
    shutil.copy(root / "test/crack/005.png", root / "ground_truth/crack/005.png")
    assert MVTecDataset(root).test[3].mask == root / "ground_truth/crack/005_mask.png"


def test_two_masks_of_one_image_are_refused(root: Path) -> None:
    mask_of(root / "ground_truth/crack/005_mask.bmp")
    message = r"crack/005\.png: expected one mask, got 005_mask\.bmp and 005_mask\.png in"
    with pytest.raises(ImageError, match=message):
        MVTecDataset(root)


def test_masks_in_a_folder_of_the_image_s_name(root: Path) -> None:
    (root / "ground_truth/crack/005_mask.png").unlink()
    mask_of(root / "ground_truth/crack/005/000.png")
    mask_of(root / "ground_truth/crack/005/001.png")
    assert MVTecDataset(root).test[3].mask == root / "ground_truth/crack/005"


def test_folders_may_be_written_in_another_case(root: Path) -> None:
    for old, new in (
        ("train/good", "train/Good"),
        ("test/good", "test/GOOD"),
        ("ground_truth/crack", "ground_truth/Crack"),
        ("ground_truth", "Ground_Truth"),
        ("train", "Train"),
        ("test", "Test"),
    ):
        (root / old).rename(root / new)
    dataset = MVTecDataset(root)
    assert len(dataset.train) == 3
    assert [image.is_defective for image in dataset.test] == [False, *[True] * 4]
    assert all(image.mask for image in dataset.test[1:])


class TestOtherNamesOfNormalImages:
    def test_are_given(self, root: Path) -> None:
        (root / "train/good").rename(root / "train/ok")
        (root / "test/good").rename(root / "test/OK")
        dataset = MVTecDataset(root, good="ok")
        assert len(dataset.train) == 3
        assert [image.is_defective for image in dataset.test] == [False, *[True] * 4]

    def test_may_differ_between_train_and_test(self, root: Path) -> None:
        (root / "test/good").rename(root / "test/ok")
        dataset = MVTecDataset(root, good=["good", "ok"])
        assert [image.defect for image in dataset.test if not image.is_defective] == ["ok"]

    def test_are_advised_where_there_is_none_to_learn_from(self, root: Path) -> None:
        (root / "train/good").rename(root / "train/ok")
        with pytest.raises(ImageError, match=r"got ok/ in .*train \(good='ok', or --good ok\)"):
            MVTecDataset(root)

    def test_are_advised_where_normal_images_would_be_taken_for_defective(self, root: Path) -> None:
        (root / "test/good").rename(root / "test/ok")
        message = r"called good, got a spot, crack, ok; ok has no masks.*or --good good,ok\)"
        with pytest.raises(ImageError, match=message):
            MVTecDataset(root)

    def test_are_not_needed_where_all_are_defective(self, root: Path) -> None:
        shutil.rmtree(root / "test/good")
        assert all(image.is_defective for image in MVTecDataset(root).test)

    @pytest.mark.parametrize("good", ["", [], ["good", ""]])
    def test_are_not_empty(self, root: Path, good: str | list[str]) -> None:
        with pytest.raises(ParameterError, match="good: expected the name"):
            MVTecDataset(root, good)
