"""A folder of solar cells with defective ones among them, and digits by their pixels."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import knnspect as ks
from knnspect.cleaning import Cleaner, Selection
from knnspect.data import elpv_split

pytestmark = pytest.mark.usefixtures("one_thread")

N_NORMAL, N_ODD = 108, 12


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Functional cells with a tenth of defective ones, whose names begin with "odd"."""
    folder = tmp_path_factory.mktemp("dirty")
    split = elpv_split(N_NORMAL, 1, N_ODD, seed=3)
    for file in split.train:
        shutil.copy(file, folder)
    for file in split.defective:
        shutil.copy(file, folder / f"odd {file.name}")
    return folder


@pytest.fixture(scope="module")
def found(dirty: Path) -> Selection:
    return Cleaner(ks.Backbone(image_size=96, device="cpu")).clean(dirty)


def test_few_defective_cells_are_left_of_a_tenth(found: Selection) -> None:
    kept = found.kept
    n_odd = sum(id_.startswith("odd") for id_ in kept)
    assert n_odd / len(kept) < 0.04
    assert (len(kept) - n_odd) / N_NORMAL > 0.5
    assert len(found.images) == N_NORMAL + N_ODD
    assert any(image.id.startswith("odd") for image in found.dropped[:5])


def test_files_in_another_order_are_selected_alike(dirty: Path, found: Selection) -> None:
    files = {file.name: file for file in sorted(dirty.iterdir(), reverse=True)}
    again = Cleaner(ks.Backbone(image_size=96, device="cpu")).clean(files, batch_size=7)
    assert again.kept == found.kept
    assert again.rounds == found.rounds


def test_pixels_describe_small_images() -> None:
    from sklearn.datasets import load_digits

    data, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    places = [*np.flatnonzero(labels == 0)[:90], *rng.choice(np.flatnonzero(labels > 1), 10)]
    images = {
        f"{place:04}": np.uint8(data[place].reshape(8, 8) * 15).repeat(2, 0).repeat(2, 1)
        for place in places
    }
    found = Cleaner(ks.Pixels(8, color="grey", device="cpu"), clusters=5).clean(images)
    odd = {f"{place:04}" for place in places[90:]}
    assert len(odd.intersection(found.kept)) / len(found.kept) < 0.03
    assert len(found.images) == len(images)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"clusters": 1}, ks.ParameterError, "clusters: expected at least 2"),
        ({"clusters": 999}, ks.ParameterError, "clusters: expected at most the number of images"),
        ({"drop": 0.0}, ks.ParameterError, "drop"),
        ({"first_drop": 1}, ks.ParameterError, "first_drop"),
        ({"backbone": ks.Scenes()}, ks.DTypeError, "backbone: expected a Backbone or Pixels"),
    ],
)
def test_what_cannot_be_done_is_refused(
    dirty: Path, values: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"backbone": ks.Pixels(8, device="cpu"), **values}
    with pytest.raises(error, match=message):
        Cleaner(**given).clean(dirty)


def test_images_that_are_all_alike_are_refused() -> None:
    images = np.tile(np.arange(64, dtype=np.uint8).reshape(1, 8, 8), (20, 1, 1))
    with pytest.raises(ks.ImageError, match="all have the same features"):
        Cleaner(ks.Pixels(8, device="cpu")).clean(images)
