"""Evaluation on a small data set in MVTec layout: real images, a painted defect."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from knnspect import Backbone, ImageError, Prediction, Spade, __version__
from knnspect.data import MVTecDataset, elpv_split
from knnspect.evaluation import Evaluation, evaluate, peak_memory_mb

SIZE = 96


def write_dataset(root: Path, n_train: int = 10, n_good: int = 4, n_spot: int = 4) -> None:
    """Cells, some with a dark spot and its mask."""
    split = elpv_split(n_train=n_train, n_functional=n_good + n_spot)
    folders = ["train/good"] * n_train + ["test/good"] * n_good + ["test/spot"] * n_spot
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for index, (path, folder) in enumerate(
        zip([*split.train, *split.functional], folders, strict=True)
    ):
        pixels = np.array(Image.open(path).convert("L").resize((SIZE, SIZE)))
        if folder == "test/spot":
            row, column = 30 + 9 * (index % 4), 60 - 8 * (index % 4)
            spot = (rows - row) ** 2 + (columns - column) ** 2 <= 11**2
            pixels[spot] = 0
            mask = root / "ground_truth/spot" / f"{path.stem}_mask.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.where(spot, 255, 0).astype(np.uint8)).save(mask)
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / folder / path.name)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cells")
    write_dataset(root)
    return root


def spade(**parameters: Any) -> Spade:
    backbone = Backbone(image_size=SIZE, device="cpu")
    return Spade(backbone, **{"image_neighbors": 5, **parameters})


@pytest.fixture(scope="module")
def result(dataset: Path) -> tuple[Evaluation, list[Prediction]]:
    return evaluate(spade(), MVTecDataset(dataset))


def test_the_figures_are_those_that_the_documentation_lists(
    result: tuple[Evaluation, list[Prediction]],
) -> None:
    figures = result[0].to_dict()
    assert list(figures) == [
        "method",
        "backbone",
        "train_images",
        "test_images",
        "image_auroc",
        "map_max_auroc",
        "pixel_auroc",
        "aupro",
        "seconds",
        "peak_memory_mb",
        "version",
    ]
    stages = ["features", "gallery", "retrieval", "matching", "total"]
    assert list(figures["seconds"]) == stages
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_they_say_what_was_done(result: tuple[Evaluation, list[Prediction]]) -> None:
    evaluation, _ = result
    assert (evaluation.method, evaluation.backbone) == ("spade", "efficientnet_lite0")
    assert (evaluation.train_images, evaluation.test_images) == (10, 8)
    assert evaluation.version == __version__
    stages = dict(evaluation.seconds)
    total = stages.pop("total")
    assert all(seconds > 0 for seconds in stages.values())
    assert sum(stages.values()) <= total
    assert 50 < evaluation.peak_memory_mb < 100_000


def test_the_spots_are_found(result: tuple[Evaluation, list[Prediction]]) -> None:
    evaluation, _ = result
    areas = [evaluation.image_auroc, evaluation.map_max_auroc, evaluation.aupro]
    assert all(0 <= area <= 1 for area in areas)
    assert 0.95 < evaluation.pixel_auroc <= 1
    assert evaluation.map_max_auroc > 0.9
    assert evaluation.aupro > 0.7


def test_predictions_are_those_of_a_detector_that_never_saw_a_test_image(
    dataset: Path, result: tuple[Evaluation, list[Prediction]]
) -> None:
    files = MVTecDataset(dataset)
    expected = spade().fit(files.train).predict([image.path for image in files.test])
    for found, wanted in zip(result[1], expected, strict=True):
        assert found.id == wanted.id
        assert found.score == wanted.score
        assert np.array_equal(found.map, wanted.map)


def test_areas_are_those_of_the_scores_and_maps(
    dataset: Path, result: tuple[Evaluation, list[Prediction]]
) -> None:
    from sklearn.metrics import roc_auc_score

    files, (evaluation, predictions) = MVTecDataset(dataset), result
    truth = [image.is_defective for image in files.test]
    assert evaluation.image_auroc == pytest.approx(
        roc_auc_score(truth, [p.score for p in predictions])
    )
    assert evaluation.map_max_auroc == pytest.approx(
        roc_auc_score(truth, [p.map.max() for p in predictions])
    )
    masks = [
        np.zeros((SIZE, SIZE), bool)
        if image.mask is None
        else np.asarray(Image.open(image.mask)) > 0
        for image in files.test
    ]
    pixels = np.concatenate([p.map.ravel() for p in predictions])
    assert evaluation.pixel_auroc == pytest.approx(
        roc_auc_score(np.concatenate([mask.ravel() for mask in masks]), pixels)
    )


@pytest.fixture
def copied(dataset: Path, tmp_path: Path) -> Path:
    shutil.copytree(dataset, tmp_path / "copy")
    return tmp_path / "copy"


def first_mask(root: Path) -> Path:
    return min((root / "ground_truth/spot").iterdir())


def test_a_missing_mask_is_named(copied: Path) -> None:
    mask = first_mask(copied)
    mask.unlink()
    with pytest.raises(ImageError, match=mask.name):
        evaluate(spade(), MVTecDataset(copied))


def test_an_unreadable_mask_is_named_before_the_work(copied: Path) -> None:
    first_mask(copied).write_text("no mask")
    detector = spade()
    with pytest.raises(ImageError, match=first_mask(copied).name):
        evaluate(detector, MVTecDataset(copied))
    assert not hasattr(detector, "gallery_")


def test_a_mask_of_another_size_is_named(copied: Path) -> None:
    Image.new("L", (SIZE, SIZE - 1), 255).save(first_mask(copied))
    with pytest.raises(ImageError, match=rf"{first_mask(copied).name}.*\(96, 96\).*\(95, 96\)"):
        evaluate(spade(), MVTecDataset(copied))


@pytest.mark.parametrize(("gone", "kind"), [("spot", "defective"), ("good", "normal")])
def test_test_images_of_one_kind_are_refused_before_the_work(
    copied: Path, gone: str, kind: str
) -> None:
    shutil.rmtree(copied / "test" / gone)
    detector = spade()
    with pytest.raises(ImageError, match=kind):
        evaluate(detector, MVTecDataset(copied))
    assert not hasattr(detector, "gallery_")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_the_memory_is_the_most_that_the_process_has_had() -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    assert peak_memory_mb() == pytest.approx(kib * 1024 / 1e6, rel=0.05)
