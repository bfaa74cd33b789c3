"""Training images that do not belong are found, and said; none is dropped unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from knnspect import Backbone, PatchCore, Spade
from knnspect.cleaning import ImageCheck, check_images
from knnspect.data import elpv_split


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(image_size=64, patch_size=3, device="cpu")


@pytest.fixture(scope="module")
def cells() -> dict[str, NDArray[np.uint8]]:
    split = elpv_split(n_train=16, n_functional=1, n_defective=1, seed=1)
    return {
        path.stem: np.asarray(Image.open(path).convert("RGB").resize((64, 64)))
        for path in split.train
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cells: dict[str, Any]) -> Path:
    """Solar cells, among them one with a hole, a copy, the next frame, a large and a grey one."""
    folder = tmp_path_factory.mktemp("normal")
    names = list(cells)
    for name, image in cells.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    hole = cells[names[0]].copy()
    hole[16:44, 20:48] = (255, 0, 0)
    Image.fromarray(hole).save(folder / "hole.png")
    (folder / "copy.png").write_bytes((folder / f"{names[1]}.png").read_bytes())
    frame = np.clip(cells[names[2]].astype(int) + 1, 0, 255).astype(np.uint8)
    Image.fromarray(frame).save(folder / "frame.png")
    Image.fromarray(cells[names[3]]).resize((96, 96)).save(folder / "large.png")
    Image.fromarray(cells[names[4]]).convert("L").save(folder / "grey.png")
    return folder


@pytest.fixture(scope="module")
def found(folder: Path, backbone: Backbone) -> ImageCheck:
    return check_images(folder, Spade(backbone), n_odd=5)


def test_an_image_with_a_hole_is_an_outlier(found: ImageCheck) -> None:
    assert found.outliers == ["hole.png"]
    assert found.odd[0].id == "hole.png"
    assert found.odd[0].is_outlier
    row, column = np.unravel_index(found.odd[0].map.argmax(), found.odd[0].map.shape)
    assert 12 <= row < 48
    assert 16 <= column < 52


def test_the_oddest_come_first(found: ImageCheck) -> None:
    assert len(found.odd) == 5
    scores = sorted(found.scores.values(), reverse=True)
    assert [each.score for each in found.odd] == scores[:5]
    assert [each.score > found.limit for each in found.odd] == [e.is_outlier for e in found.odd]


def test_copies_are_told_from_near_duplicates(found: ImageCheck, cells: dict[str, Any]) -> None:
    names = [f"{name}.png" for name in cells]
    assert found.copies == [sorted(["copy.png", names[1]])]
    assert tuple(sorted(("frame.png", names[2]))) in found.near_duplicates
    assert all("copy.png" not in pair for pair in found.near_duplicates)


def test_other_sizes_and_pixels_are_named(found: ImageCheck) -> None:
    assert found.sizes == {(96, 96): ["large.png"]}
    assert found.modes == {"L": ["grey.png"]}


def test_what_to_drop_are_outliers_and_all_but_one_of_copies(
    found: ImageCheck, cells: dict[str, Any]
) -> None:
    second = sorted(["copy.png", f"{list(cells)[1]}.png"])[1]
    assert found.to_drop == sorted(["hole.png", second])
    assert found.n_images == len(cells) + 5


def test_good_images_alone_have_no_outlier(backbone: Backbone, cells: dict[str, Any]) -> None:
    for detector in (Spade(backbone), PatchCore(backbone, coreset=0.2)):
        found = check_images(cells, detector)
        assert found.to_drop == []
        assert found.sizes == {}
        assert found.modes == {}
        assert set(found.scores) == set(cells)
        assert not hasattr(detector, "searched_")


def test_of_few_images_none_is_called_an_outlier(backbone: Backbone, cells: dict[str, Any]) -> None:
    few = dict(list(cells.items())[:6])
    few["hole"] = np.zeros((64, 64, 3), np.uint8)
    found = check_images(few, Spade(backbone))
    assert found.limit == float("inf")
    assert found.outliers == []
    assert found.odd[0].id == "hole"


def test_one_image_has_nothing_to_be_compared_with(
    backbone: Backbone, cells: dict[str, Any]
) -> None:
    found = check_images(dict(list(cells.items())[:1]), Spade(backbone))
    assert (found.n_images, found.scores, found.odd) == (1, {}, [])
