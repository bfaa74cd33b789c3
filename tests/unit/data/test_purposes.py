"""The folder of a dataset is not learnt from, and its masks are not judged."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import knnspect as ks
from knnspect.bench import fitted_case
from knnspect.data import open_to_judge, open_to_learn
from knnspect.errors import DatasetWarning, ImageError

LAYOUT = ("train/good", "test/good", "test/cut", "ground_truth/cut")


def make(root: Path, *folders: str) -> Path:
    rng = np.random.default_rng(0)
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in ("0.png", "1.png"):
            Image.fromarray(rng.integers(0, 255, (64, 64), "u1")).save(root / folder / name)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path / "cells", *LAYOUT)


@pytest.mark.parametrize(
    "folders",
    [LAYOUT, LAYOUT[:3], (*LAYOUT[:1], *LAYOUT[3:]), LAYOUT[2:], ("Train/Good", "TEST/cut")],
)
def test_a_dataset_is_not_learnt_from(tmp_path: Path, folders: tuple[str, ...]) -> None:
    root = make(tmp_path / "a/cells", *folders)
    place = next((name for name in folders if name.casefold() == "train/good"), "train")
    message = rf"cells: expected normal images, got a dataset .*such as {root / place}$"
    for images in (root, str(root), tmp_path / "a", tmp_path):
        with pytest.raises(ImageError, match=message):
            open_to_learn(images)


def test_no_detector_learns_from_a_dataset(root: Path, tmp_path: Path) -> None:
    backbone = ks.Backbone(image_size=64, device="cpu")
    for detector in (ks.Spade(backbone), ks.PatchCore(backbone), ks.CFlow(backbone)):
        with pytest.raises(ImageError, match="got a dataset"):
            detector.fit(root)
    with pytest.raises(ImageError, match="got a dataset"):
        ks.Spade(backbone).fit(root, folder=tmp_path / "features")
    assert not (tmp_path / "features").exists()
    with pytest.raises(ImageError, match="got a dataset"):
        fitted_case(ks.Spade(backbone), root)


def test_masks_are_not_judged(root: Path, tmp_path: Path) -> None:
    message = rf"cells: expected images to judge, got a dataset with its masks.*{root / 'test'}$"
    for images in (root, tmp_path):
        with pytest.raises(ImageError, match=message):
            open_to_judge(images)
    for purpose in (open_to_judge, open_to_learn):
        with pytest.raises(ImageError, match="ground_truth: expected images, got the masks"):
            purpose(root / "ground_truth")


@pytest.mark.parametrize("kind", [ks.Spade, ks.PatchCore, ks.SimpleNet])
def test_no_detector_judges_masks(root: Path, kind: type[ks.Detector]) -> None:
    backbone = ks.Backbone(image_size=64, device="cpu")
    options: dict[str, Any] = {"image_neighbors": 2} if kind is ks.Spade else {}
    if kind is ks.SimpleNet:
        options = {"max_epochs": 1}
    detector = kind(backbone, **options).fit(root / "train/good")
    with pytest.raises(ImageError, match="masks"):
        detector.predict(root)
    assert len(detector.predict(root / "test")) == 4


def test_all_that_is_no_mask_may_be_judged(tmp_path: Path) -> None:
    root = make(tmp_path / "cells", *LAYOUT[:3])
    assert [open_to_judge(place).n_images for place in (root, root / "test")] == [6, 4]


@pytest.mark.parametrize(
    "folders", [("train/a", "train/b"), ("ground_truth/a",), ("testing/a", "training/b"), ("test",)]
)
def test_names_alone_are_no_dataset(tmp_path: Path, folders: tuple[str, ...]) -> None:
    make(tmp_path, *folders)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for purpose in (open_to_learn, open_to_judge):
            assert purpose(tmp_path).n_images == 2 * len(folders)
            assert purpose(np.zeros((3, 8, 8), "u1")).n_images == 3


def test_defects_beside_good_images_are_not_learnt_without_a_word(root: Path) -> None:
    with pytest.warns(DatasetWarning, match=r"test: images in cut are taken for normal.* in good"):
        assert open_to_learn(root / "test").n_images == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_to_learn(root / "train").n_images == 2
        assert open_to_judge(root / "test").n_images == 4
