"""AnomalyDINO against its definition, worked out anew in float64, with random weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import random_network, save
from numpy.typing import NDArray

import knnspect as ks
from knnspect.cli import main
from knnspect.data import elpv_split, read_image
from knnspect.detectors.maps import pixel_map

# Random weights see little of what images are of.
pytestmark = pytest.mark.filterwarnings("ignore:.*near-duplicates")

#: A small transformer.
NAME, SIZE = "test_vit", 64


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / f"{NAME}.safetensors"
    return save(random_network(NAME).state_dict(), file)


@pytest.fixture(scope="module")
def settings(weights: Path) -> dict[str, Any]:
    """What the default backbone is replaced by."""
    small = {"name": NAME, "image_size": SIZE, "weights": weights, "device": "cpu"}
    return {f"backbone__{name}": value for name, value in small.items()}


@pytest.fixture(scope="module")
def cells() -> dict[str, Path]:
    split = elpv_split(n_train=4, n_functional=1, n_defective=2)
    return {path.name: path for path in (*split.train, *split.functional, *split.defective)}


@pytest.fixture(scope="module")
def normal(cells: dict[str, Path]) -> list[Path]:
    return list(cells.values())[:4]


@pytest.fixture(scope="module")
def others(cells: dict[str, Path]) -> list[Path]:
    return list(cells.values())[4:]


@pytest.fixture(scope="module")
def fitted(settings: dict[str, Any], normal: list[Path]) -> ks.AnomalyDINO:
    return ks.AnomalyDINO().set_params(**settings, top=0.2).fit(normal)


def angles(backbone: ks.Backbone, query: Path, normal: list[Path]) -> NDArray[np.float64]:
    """Return 1 - cos of each cell of an image to the nearest cell of others."""
    plain = ks.Backbone(**{**backbone.get_params(), "unit": False})
    level = plain.extract([query, *normal], n_workers=0).pyramid.levels[0].astype(np.float64)
    level /= np.linalg.norm(level, axis=-1, keepdims=True)
    found: NDArray[np.float64] = 1 - level[0] @ level[1:].reshape(-1, level.shape[-1]).T
    return np.asarray(found.min(-1))


def test_scores_and_maps_are_those_of_its_definition(
    fitted: ks.AnomalyDINO, normal: list[Path], others: list[Path]
) -> None:
    for path, prediction in zip(others, fitted.predict(others), strict=True):
        assert prediction.neighbors is not None
        assert prediction.placement is not None
        expected = angles(fitted.backbone, path, normal)
        np.testing.assert_allclose(
            prediction.neighbors.sq_distances[0, ..., 0] / 2, expected, atol=1e-6
        )
        divided = fitted.border_.divide(expected)
        assert divided.size == 16
        assert prediction.score == pytest.approx(np.sort(divided, axis=None)[-3:].mean(), rel=1e-3)
        map_ = pixel_map(divided, prediction.placement, 4.0)
        np.testing.assert_allclose(prediction.map, map_, atol=1e-5)


def test_the_score_may_be_that_of_the_map(fitted: ks.AnomalyDINO, others: list[Path]) -> None:
    by_map = ks.AnomalyDINO.from_preset("few-shot").set_params(score="map")
    assert by_map.score == "map"
    expected = [float(prediction.map.max()) for prediction in fitted.predict(others)]
    fitted.set_params(score="map")
    assert fitted.scores(others).tolist() == expected
    fitted.set_params(score="image")
    assert (fitted.scores(others) != expected).all()


def test_one_cell_is_taken_where_a_hundredth_is_none(
    fitted: ks.AnomalyDINO, others: list[Path]
) -> None:
    assert ks.AnomalyDINO().top == 0.01
    fitted.set_params(top=0.01)
    (prediction,) = fitted.predict(others[:1])
    fitted.set_params(top=0.2)
    assert prediction.neighbors is not None
    largest = fitted.border_.divide(prediction.neighbors.sq_distances[0, ..., 0] / 2.0).max()
    assert prediction.score == pytest.approx(largest, rel=1e-6)


def test_images_of_other_shapes_are_judged(fitted: ks.AnomalyDINO, others: list[Path]) -> None:
    wide = np.concatenate([read_image(others[0]), read_image(others[1])], axis=1)
    (prediction,) = fitted.predict([wide])
    assert prediction.map.shape == wide.shape[:2]
    assert prediction.neighbors is not None
    assert prediction.neighbors.sq_distances.shape[1:3] == (4, 8)


def test_few_images_are_learnt_turned(
    settings: dict[str, Any], fitted: ks.AnomalyDINO, normal: list[Path]
) -> None:
    few = ks.AnomalyDINO.from_preset("few-shot", **settings).fit(normal[:1])
    assert few.n_images_ == 1
    assert few.variants_ == ks.Variants(rotations=8)
    turned = np.rot90(read_image(normal[0]), 1)
    (found,), (without,) = few.predict([turned]), fitted.predict([turned])
    assert found.score < without.score / 5
    evidence = found.evidence(100, 100)
    assert evidence is not None
    assert evidence.image == str(normal[0])
    assert evidence.variant in ("rotated 90", "rotated 270")


def test_a_model_predicts_the_same(
    fitted: ks.AnomalyDINO, others: list[Path], tmp_path: Path
) -> None:
    fitted.save(tmp_path / "model.ks")
    loaded = ks.load(tmp_path / "model.ks", device="cpu")
    assert type(loaded) is ks.AnomalyDINO
    for found, expected in zip(loaded.predict(others), fitted.predict(others), strict=True):
        assert found.score == expected.score
        np.testing.assert_array_equal(found.map, expected.map)


def test_the_command_line_knows_it(
    weights: Path,
    normal: list[Path],
    others: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    for name, paths in (("normal", normal), ("others", others)):
        Path(name).mkdir()
        for path in paths:
            Path(name, path.name).write_bytes(path.read_bytes())

    def knnspect(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["knnspect", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        assert not code, err
        return str(out)

    assert 'Damm et al., "AnomalyDINO:' in knnspect("methods")
    small = ("--backbone", NAME, "--weights", weights, "--image-size", SIZE, "--device", "cpu")
    options = ("--method", "anomalydino", "--preset", "few-shot", *small)
    knnspect("fit", "normal", "--output", "model.ks", *options)
    printed = knnspect("predict", "model.ks", "others", "--output", "found")
    loaded = ks.load("model.ks", device="cpu")
    assert loaded == ks.AnomalyDINO.from_preset("few-shot").set_params(backbone=loaded.backbone)
    expected = sorted(f"{score:.6g}" for score in loaded.scores("others"))
    assert sorted(line.split("\t")[0] for line in printed.splitlines()) == expected
    said = " ".join(knnspect("info", "model.ks").replace("│", " ").split())
    for part in ("holds anomalydino", "backbone unit True", "4, each in 8 variants"):
        assert part in said


def test_weights_that_cannot_be_fetched_are_named(
    normal: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    # What the user asked for is not reached from here: the hub of timm looks into an empty folder.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ks.StoreError, match="weights: timm cannot give those of vit_small_patch14"):
        ks.AnomalyDINO().set_params(backbone__device="cpu").fit(normal)
