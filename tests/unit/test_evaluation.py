"""Evaluation on a small data set in MVTec layout: real images, a painted defect."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from knnspect import (
    Backbone,
    DatasetWarning,
    DeepSvdd,
    ImageError,
    ParameterError,
    Prediction,
    Spade,
    __version__,
    metrics,
)
from knnspect.data import MVTecDataset, TestImage, elpv_split
from knnspect.evaluation import (
    DecisionEvaluation,
    Evaluation,
    KindEvaluation,
    evaluate,
    peak_memory_mb,
)
from knnspect.parameters import learnt

SIZE = 160  # four normal images have the 100,000 pixels that AUPIMO needs


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
            row, column = 50 + 15 * (index % 4), 100 - 13 * (index % 4)
            spot = (rows - row) ** 2 + (columns - column) ** 2 <= 18**2
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


#: One for all tests, as its network is loaded once.
BACKBONE = Backbone(image_size=96, device="cpu")


OF_IMAGES = [
    "image_auroc",
    "image_average_precision",
    "image_f1_max",
    "image_f1_max_threshold",
    "map_max_auroc",
]
OF_PIXELS = [
    "pixel_auroc",
    "pixel_average_precision",
    "pixel_f1_max",
    "pixel_f1_max_threshold",
]
AUPIMO = ["aupimo", "aupimo_median"]
ALL = {*OF_IMAGES, *OF_PIXELS, "aupro", "aupro_05", *AUPIMO}


def spade() -> Spade:
    return Spade(BACKBONE, image_neighbors=5)


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
        *OF_IMAGES,
        *OF_PIXELS,
        "aupro",
        "aupro_05",
        "aupimo",
        "aupimo_median",
        "aupimo_by_image",
        "kinds",
        "decisions",
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
    image_auroc, map_max_auroc, pixel_auroc, aupro = areas_of(evaluation)
    assert image_auroc is not None
    assert 0 <= image_auroc <= 1
    assert pixel_auroc is not None
    assert 0.95 < pixel_auroc <= 1
    assert map_max_auroc is not None
    assert 0.9 < map_max_auroc <= 1
    assert aupro is not None
    assert 0.7 < aupro <= 1


def test_predictions_are_those_of_a_detector_that_never_saw_a_test_image(
    dataset: Path, result: tuple[Evaluation, list[Prediction]]
) -> None:
    files = MVTecDataset(dataset)
    expected = spade().fit(files.train).predict([image.path for image in files.test])
    for found, wanted in zip(result[1], expected, strict=True):
        assert found.id == wanted.id
        assert found.score == wanted.score
        assert np.array_equal(found.map, wanted.map)


def mask_of(image: TestImage) -> NDArray[np.bool_]:
    if image.mask is None:
        return np.zeros((SIZE, SIZE), bool)
    return np.asarray(Image.open(image.mask)) > 0


def test_figures_are_those_of_the_scores_and_maps(
    dataset: Path, result: tuple[Evaluation, list[Prediction]]
) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    files, (evaluation, predictions) = MVTecDataset(dataset), result
    truth = [image.is_defective for image in files.test]
    scores = [p.score for p in predictions]
    assert evaluation.image_auroc == pytest.approx(roc_auc_score(truth, scores))
    assert evaluation.image_average_precision == pytest.approx(
        average_precision_score(truth, scores)
    )
    best = metrics.f1_max(truth, scores)
    assert (evaluation.image_f1_max, evaluation.image_f1_max_threshold) == best
    assert evaluation.map_max_auroc == pytest.approx(
        roc_auc_score(truth, [p.map.max() for p in predictions])
    )
    masks, maps = [mask_of(image) for image in files.test], [p.map for p in predictions]
    is_defective = np.concatenate([mask.ravel() for mask in masks])
    pixels = np.concatenate([map_.ravel() for map_ in maps])
    assert evaluation.pixel_auroc == pytest.approx(roc_auc_score(is_defective, pixels))
    assert evaluation.pixel_average_precision == pytest.approx(
        average_precision_score(is_defective, pixels)
    )
    best = metrics.pixel_f1_max(masks, maps)
    assert (evaluation.pixel_f1_max, evaluation.pixel_f1_max_threshold) == best
    assert evaluation.aupro == metrics.aupro(masks, maps)
    assert evaluation.aupro_05 == metrics.aupro(masks, maps, max_fpr=0.05)
    overlaps = metrics.aupimo(masks, maps)
    assert evaluation.aupimo == pytest.approx(np.nanmean(overlaps))
    assert evaluation.aupimo_median == pytest.approx(np.nanmedian(overlaps))
    assert evaluation.aupimo_by_image == {
        image.path.relative_to(dataset).as_posix(): overlap
        for image, overlap in zip(files.test, overlaps, strict=True)
        if image.is_defective
    }


def test_of_a_single_kind_the_figures_are_those_of_the_whole(
    result: tuple[Evaluation, list[Prediction]],
) -> None:
    evaluation, _ = result
    assert evaluation.kinds == {
        "spot": KindEvaluation(
            images=4,
            image_auroc=evaluation.image_auroc,
            pixel_auroc=evaluation.pixel_auroc,
            aupro=evaluation.aupro,
            aupro_05=evaluation.aupro_05,
            aupimo=evaluation.aupimo,
        )
    }


def test_decisions_are_those_of_the_predictions(
    dataset: Path, result: tuple[Evaluation, list[Prediction]]
) -> None:
    from sklearn.metrics import f1_score

    files, (evaluation, predictions) = MVTecDataset(dataset), result
    found = evaluation.decisions
    assert found.false_alarm_rate == pytest.approx(1 / 11), "the smallest of ten normal images"
    assert {p.threshold for p in predictions} == {found.threshold}
    assert {p.pixel_threshold for p in predictions} == {found.pixel_threshold}
    assert found.guarantee is not None
    assert "10 normal images left out one by one" in found.guarantee
    called = [p.is_anomalous for p in predictions]
    truth = [image.is_defective for image in files.test]
    for share, flag in ((found.false_alarms, False), (found.detections, True)):
        own = [c for c, t in zip(called, truth, strict=True) if t == flag]
        assert share == metrics.rate(sum(own), len(own))
    assert found.kinds == {"spot": found.detections}
    assert found.image_f1 == f1_score(truth, called)
    masks = np.concatenate([mask_of(image).ravel() for image in files.test])
    marked = np.concatenate([p.mask.ravel() for p in predictions])
    assert found.pixel_f1 == pytest.approx(f1_score(masks, marked))
    assert found.undefined == {}


def test_without_a_calibration_there_are_no_decisions_and_it_is_said_why(dataset: Path) -> None:
    single = MVTecDataset(dataset)
    single.train = single.train[:1]
    evaluation, _ = evaluate(Spade(BACKBONE, image_neighbors=1), single)
    found = evaluation.decisions
    assert found == DecisionEvaluation(undefined=found.undefined)
    reason = "the detector has no calibration: the model has none"
    assert all(why.startswith(reason) for why in found.undefined.values())
    assert {"false_alarms", "detections", "image_f1"} < set(found.undefined)
    assert evaluation.pixel_auroc is not None
    assert set(evaluation.to_dict()["decisions"]) >= {"threshold", "undefined"}


@pytest.fixture
def copied(dataset: Path, tmp_path: Path) -> Path:
    shutil.copytree(dataset, tmp_path / "copy")
    return tmp_path / "copy"


def masks_of(root: Path) -> list[Path]:
    return sorted((root / "ground_truth/spot").iterdir())


def first_mask(root: Path) -> Path:
    return masks_of(root)[0]


def test_an_unreadable_mask_is_named_before_the_work(copied: Path) -> None:
    first_mask(copied).write_text("no mask")
    detector = spade()
    with pytest.raises(ImageError, match=first_mask(copied).name):
        evaluate(detector, MVTecDataset(copied))
    assert not hasattr(detector, "gallery_")


def test_a_mask_of_another_size_is_named(copied: Path) -> None:
    Image.new("L", (SIZE, SIZE - 1), 255).save(first_mask(copied))
    with pytest.raises(ImageError, match=rf"{first_mask(copied).name}.*\(160, 160\).*\(159, 160\)"):
        evaluate(spade(), MVTecDataset(copied))


class Recorder(Spade):
    """A Spade that knows what had been said before it was fitted."""

    caught: list[warnings.WarningMessage] = learnt()

    def fit(self, *arguments: Any, **options: Any) -> Recorder:
        self.said_before = [str(warning.message) for warning in self.caught]
        return super().fit(*arguments, **options)


def evaluated(root: Path) -> tuple[Evaluation, list[str]]:
    """Evaluate; return the figures, and what was said, all of it before the work."""
    detector = Recorder(BACKBONE, image_neighbors=5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        detector.caught = caught
        evaluation, _ = evaluate(detector, MVTecDataset(root))
    said = [str(warning.message) for warning in caught]
    assert all(issubclass(warning.category, DatasetWarning) for warning in caught)
    assert said == detector.said_before == evaluation.notes
    figures = evaluation.to_dict()
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert evaluation.undefined == {
        name: reason
        for name, reason in evaluation.undefined.items()
        if getattr(evaluation, name) is None
    }
    return evaluation, said


def areas_of(evaluation: Evaluation) -> list[float | None]:
    return [
        evaluation.image_auroc,
        evaluation.map_max_auroc,
        evaluation.pixel_auroc,
        evaluation.aupro,
    ]


class TestWhatIsNotDefined:
    """Is named before the work; the rest is given."""

    def test_without_normal_test_images(
        self, copied: Path, result: tuple[Evaluation, list[Prediction]]
    ) -> None:
        shutil.rmtree(copied / "test/good")
        evaluation, said = evaluated(copied)
        assert set(evaluation.undefined) == {*OF_IMAGES, *AUPIMO}
        decisions = evaluation.decisions
        assert decisions.false_alarms is None
        assert decisions.image_f1 is None
        assert set(decisions.undefined) == {"false_alarms", "image_f1"}
        assert decisions.detections is not None
        (words,) = said
        assert (
            "image_auroc, image_average_precision, image_f1_max, map_max_auroc and aupimo are not "
            "defined: no test image is normal"
        ) in words
        maps = [p.map for p in result[1] if "/spot/" in p.id]
        masks = [np.asarray(Image.open(file)) > 0 for file in masks_of(copied)]
        assert evaluation.pixel_auroc == metrics.pixel_auroc(masks, maps)
        assert evaluation.aupro == metrics.aupro(masks, maps)

    def test_without_defective_test_images(self, copied: Path) -> None:
        shutil.rmtree(copied / "test/spot")
        evaluation, said = evaluated(copied)
        assert evaluation.undefined == dict.fromkeys(ALL, "no test image is defective")
        (words,) = said
        assert "pixel_auroc" in words
        assert "image_auroc" in words
        assert evaluation.test_images == 4
        assert (evaluation.kinds, evaluation.aupimo_by_image) == ({}, {})

    @pytest.mark.parametrize("gone", ["ground_truth", "ground_truth/spot"])
    def test_without_masks(
        self, copied: Path, gone: str, result: tuple[Evaluation, list[Prediction]]
    ) -> None:
        shutil.rmtree(copied / gone)
        evaluation, said = evaluated(copied)
        assert areas_of(evaluation) == [*areas_of(result[0])[:2], None, None]
        assert set(evaluation.undefined) == {*OF_PIXELS, "aupro", "aupro_05", *AUPIMO}
        (words,) = said
        assert (
            "pixel_auroc, pixel_average_precision, pixel_f1_max, aupro, aupro_05 and aupimo are "
            "not defined: 4 of 4 defective images have no mask"
        ) in words
        spot = evaluation.kinds["spot"]
        assert (spot.image_auroc, spot.pixel_auroc) == (evaluation.image_auroc, None)
        assert spot.undefined["aupro"] == evaluation.undefined["aupro"]

    def test_with_black_masks(
        self, copied: Path, result: tuple[Evaluation, list[Prediction]]
    ) -> None:
        for mask in masks_of(copied):
            Image.new("L", (SIZE, SIZE)).save(mask)
        evaluation, said = evaluated(copied)
        assert areas_of(evaluation) == [*areas_of(result[0])[:2], None, None]
        (words,) = said
        assert "are not defined: 4 of 4 masks mark no pixel" in words
        assert masks_of(copied)[0].name in words

    def test_with_masks_of_all_pixels_and_no_normal_image(self, copied: Path) -> None:
        shutil.rmtree(copied / "test/good")
        for mask in masks_of(copied):
            Image.new("L", (SIZE, SIZE), 255).save(mask)
        evaluation, _ = evaluated(copied)
        assert set(evaluation.undefined) == ALL
        assert "every pixel" in evaluation.undefined["aupro"]

    def test_with_too_few_pixels_of_normal_images(self, copied: Path) -> None:
        sorted((copied / "test/good").iterdir())[0].unlink()
        evaluation, said = evaluated(copied)
        assert set(evaluation.undefined) == set(AUPIMO)
        (words,) = said
        assert words.endswith(
            "aupimo is not defined: the normal test images have 76,800 pixels together, expected "
            "at least 100,000"
        )
        assert evaluation.aupimo_by_image == {}
        assert set(evaluation.kinds["spot"].undefined) == {"aupimo"}
        assert evaluation.aupro_05 is not None


class TestKinds:
    """Of defects; normal images count for each."""

    @pytest.fixture
    def kinds(self, copied: Path) -> Path:
        """Half of the spots are blots."""
        for parent in ("test", "ground_truth"):
            (copied / parent / "blot").mkdir()
            for file in sorted((copied / parent / "spot").iterdir())[:2]:
                file.rename(copied / parent / "blot" / file.name)
        return copied

    def test_have_the_figures_of_a_dataset_of_this_kind(
        self, kinds: Path, result: tuple[Evaluation, list[Prediction]]
    ) -> None:
        evaluation, predictions = evaluate(spade(), MVTecDataset(kinds))
        assert areas_of(evaluation) == pytest.approx(areas_of(result[0]))
        assert evaluation.aupimo == pytest.approx(result[0].aupimo)
        assert list(evaluation.kinds) == ["blot", "spot"]
        files = MVTecDataset(kinds).test
        for kind, found in evaluation.kinds.items():
            chosen = [i for i, image in enumerate(files) if image.defect in (kind, "good")]
            masks = [mask_of(files[i]) for i in chosen]
            maps = [predictions[i].map for i in chosen]
            truth = [files[i].is_defective for i in chosen]
            assert (found.images, found.undefined) == (2, {})
            assert found.image_auroc == metrics.auroc(truth, [predictions[i].score for i in chosen])
            assert found.pixel_auroc == metrics.pixel_auroc(masks, maps)
            assert found.aupro == pytest.approx(metrics.aupro(masks, maps))
            assert found.aupro_05 == pytest.approx(metrics.aupro(masks, maps, max_fpr=0.05))
            assert found.aupimo == pytest.approx(np.nanmean(metrics.aupimo(masks, maps)))
        figures = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
        assert list(figures["kinds"]["blot"]) == [
            "images",
            "image_auroc",
            "pixel_auroc",
            "aupro",
            "aupro_05",
            "aupimo",
        ]

    def test_without_masks_are_named_and_the_others_have_their_figures(self, kinds: Path) -> None:
        whole = evaluate(spade(), MVTecDataset(kinds))[0].kinds
        shutil.rmtree(kinds / "ground_truth/blot")
        evaluation, said = evaluated(kinds)
        assert evaluation.undefined == {}
        assert "2 of 4 defective images have no mask" in said[0]
        assert said[1].endswith(
            "figures of pixels are not defined for blot: no image there has a mask that marks a "
            "pixel"
        )
        assert evaluation.kinds["spot"] == whole["spot"]
        blot = evaluation.kinds["blot"]
        assert blot.image_auroc == whole["blot"].image_auroc
        reason = "no image has a mask that marks a pixel"
        assert blot.undefined == dict.fromkeys(
            ["pixel_auroc", "aupro", "aupro_05", "aupimo"], reason
        )
        assert blot.pixel_auroc is blot.aupro is blot.aupro_05 is blot.aupimo is None

    def test_all_of_whose_pixels_are_defective_are_named(self, kinds: Path) -> None:
        shutil.rmtree(kinds / "test/good")
        for mask in (kinds / "ground_truth/blot").iterdir():
            Image.new("L", (SIZE, SIZE), 255).save(mask)
        evaluation, _ = evaluated(kinds)
        assert evaluation.pixel_auroc is not None
        assert evaluation.kinds["spot"].pixel_auroc is not None
        assert "every pixel" in evaluation.kinds["blot"].undefined["pixel_auroc"]
        assert evaluation.kinds["blot"].undefined["image_auroc"] == "no test image is normal"


class TestSomeMasks:
    """Images that are defective, it is not known where, are left out of figures of pixels."""

    @pytest.mark.parametrize("how", ["missing", "black", "called otherwise"])
    def test_are_enough(
        self, copied: Path, how: str, result: tuple[Evaluation, list[Prediction]]
    ) -> None:
        first = masks_of(copied)[0]
        if how == "black":
            Image.new("L", (SIZE, SIZE)).save(first)
        else:
            first.rename(first.with_name("mask-1.png" if how == "called otherwise" else ".hidden"))
        evaluation, said = evaluated(copied)
        assert areas_of(evaluation)[:2] == areas_of(result[0])[:2]
        assert evaluation.undefined == {}
        (words,) = said
        assert "figures of pixels leave these images out" in words
        named = {"missing": "/spot/", "black": first.name, "called otherwise": "mask-1.png"}[how]
        assert named in words
        files = MVTecDataset(copied).test
        known = [i for i, image in enumerate(files) if image.mask not in (first, None)]
        known += [i for i, image in enumerate(files) if not image.is_defective]
        masks = [
            np.zeros((SIZE, SIZE), bool)
            if (mask := files[i].mask) is None
            else np.asarray(Image.open(mask)) > 0
            for i in known
        ]
        maps = [result[1][i].map for i in known]
        assert len(known) == 7
        assert evaluation.pixel_auroc == metrics.pixel_auroc(masks, maps)
        assert evaluation.aupro == metrics.aupro(masks, maps)


def test_masks_that_were_a_jpeg_give_the_figures_of_what_was_drawn(
    copied: Path, result: tuple[Evaluation, list[Prediction]]
) -> None:
    for mask in masks_of(copied):
        again = io.BytesIO()
        Image.open(mask).save(again, "JPEG", quality=75)
        Image.open(again).save(mask)
    evaluation, said = evaluated(copied)
    (words,) = said
    assert masks_of(copied)[0].name in words
    assert "at least half" in words
    assert "(so are 3 others of 4)" in words
    assert areas_of(evaluation) == pytest.approx(areas_of(result[0]), abs=1e-3)


def test_several_masks_of_an_image_are_joined(
    copied: Path, result: tuple[Evaluation, list[Prediction]]
) -> None:
    for file in masks_of(copied):
        mask = np.array(Image.open(file))
        folder = file.with_name(file.stem.removesuffix("_mask"))
        folder.mkdir()
        top = np.arange(SIZE)[:, None] < 80
        for name, part in (("000", top), ("001", ~top)):
            Image.fromarray(np.where(part, mask, 0).astype("u1")).save(folder / f"{name}.png")
        file.unlink()
    evaluation, said = evaluated(copied)
    assert said == []
    assert areas_of(evaluation) == areas_of(result[0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_the_memory_is_the_most_that_the_process_has_had() -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    assert peak_memory_mb() == pytest.approx(kib * 1024 / 1e6, rel=0.05)


def test_defects_that_are_tested_are_not_learnt_from(tmp_path: Path) -> None:
    split = elpv_split(n_train=3, n_functional=2, n_defective=2)
    parts = {"train/good": split.train, "test/good": split.functional, "test/bad": split.defective}
    for part, files in parts.items():
        (tmp_path / part).mkdir(parents=True)
        for file in files:
            shutil.copy(file, tmp_path / part)
    backbone = Backbone(levels=(2, 3), image_size=64, device="cpu")
    detector = DeepSvdd(backbone, defects=tmp_path / "test/bad")
    with pytest.raises(ParameterError, match=r"is the test image .*, too: expected images"):
        evaluate(detector, MVTecDataset(tmp_path))
