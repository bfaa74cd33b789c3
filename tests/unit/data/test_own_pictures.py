"""Overlays that knnspect wrote are no images, wherever they lie among images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knnspect.data import list_images, open_images
from knnspect.detectors import Prediction
from knnspect.errors import ImageError, ReadingWarning
from knnspect.report import ResultsFolder, save_png

PIXELS = np.full((20, 30, 3), 90, np.uint8)


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(path)
    return path


def results(folder: Path, is_finished: bool = True) -> None:
    """Results as `predict` writes them; unfinished if it was interrupted."""
    folder_of_results = ResultsFolder(folder, 1.0)
    for id_ in ("a.png", "deep/b.jpg"):
        folder_of_results.add(Prediction(id_, 1.0, np.eye(20, 30, dtype="f4")), PIXELS)
    if is_finished:
        folder_of_results.finish({})


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images, one of them in a folder that is called like ours."""
    picture(tmp_path / "images/a.png")
    picture(tmp_path / "images/overlays/their own.png")
    return tmp_path / "images"


THEIRS = ["a.png", "overlays/their own.png"]


def ids(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in list_images(folder)]


def test_other_pictures_are_images(images: Path) -> None:
    assert ids(images) == THEIRS


@pytest.mark.parametrize("place", [".", "results", "deep/results"])
@pytest.mark.parametrize("is_finished", [True, False])
def test_overlays_are_left_out_and_said_so(images: Path, place: str, is_finished: bool) -> None:
    if place == ".":
        shutil.rmtree(images / "overlays")
    results(images / place, is_finished)
    words = rf"images: left out 2 pictures that knnspect wrote, in .*{place.strip('.')}/overlays$"
    with pytest.warns(ReadingWarning, match=words):
        assert ids(images) == (THEIRS[:1] if place == "." else THEIRS)


def test_overlays_of_earlier_versions_are_known_by_the_table_beside_them(images: Path) -> None:
    results(images / "results")
    for file in (images / "results/overlays").rglob("*.png"):
        picture(file)  # without a mark
    with pytest.warns(ReadingWarning, match="left out 2 pictures"):
        assert ids(images) == THEIRS
    (images / "results/scores.csv").write_text("id,score\n")
    assert len(ids(images)) == 4


def test_links_to_overlays_are_followed(images: Path, tmp_path: Path) -> None:
    results(tmp_path / "results")
    (images / "linked").symlink_to(tmp_path / "results/overlays")
    (images / "b.png").symlink_to(tmp_path / "results/overlays/a.png")
    with pytest.warns(ReadingWarning, match="left out 3 pictures"):
        assert ids(images) == THEIRS


def test_a_contact_sheet_is_left_out(images: Path) -> None:
    save_png(PIXELS, images / "contact_sheet.png")
    with pytest.warns(ReadingWarning, match="left out 1 picture that"):
        assert ids(images) == THEIRS
    picture(images / "contact_sheet.png")
    assert len(ids(images)) == 3


def test_overlays_alone_are_refused(tmp_path: Path) -> None:
    results(tmp_path / "results")
    for place in ("results", "results/overlays", "results/overlays/deep"):
        with pytest.raises(
            ImageError, match=r"expected images, got . pictures? that knnspect wrote"
        ):
            list_images(tmp_path / place)
    with pytest.raises(ImageError, match=r"a\.png: expected an image, got 1 picture that knnspect"):
        open_images(tmp_path / "results/overlays/a.png")


def test_a_picture_that_is_given_by_name_in_a_list_is_what_is_asked_for(tmp_path: Path) -> None:
    results(tmp_path / "results")
    (item,) = open_images([tmp_path / "results/overlays/a.png"])
    assert item.load().shape == (20, 30, 3)
