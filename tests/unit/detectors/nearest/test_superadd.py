"""SuperADD: a coreset over several blocks of a transformer, learnt at three brightnesses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from networks import random_network, save

import knnspect as ks
from knnspect.data import elpv_split, read_image
from knnspect.detectors.maps import pixel_map

# Random weights see little of what images are of.
pytestmark = pytest.mark.filterwarnings("ignore:.*near-duplicates")

#: A small transformer.
NAME, SIZE = "test_vit", 64


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> ks.Backbone:
    file = tmp_path_factory.mktemp("weights") / f"{NAME}.safetensors"
    weights = save(random_network(NAME).state_dict(), file)
    default = ks.SuperADD().backbone
    return default.set_params(
        name=NAME, levels=(0, 2, -1), image_size=SIZE, weights=weights, device="cpu"
    )


@pytest.fixture(scope="module")
def normal() -> list[Path]:
    return list(elpv_split(n_train=4).train)


@pytest.fixture(scope="module")
def fitted(backbone: ks.Backbone, normal: list[Path]) -> ks.SuperADD:
    return ks.SuperADD(backbone, coreset=1.0).fit(normal)


def test_the_blocks_are_one_row_that_is_compared_by_its_distance(
    fitted: ks.SuperADD, backbone: ks.Backbone, normal: list[Path]
) -> None:
    defective = elpv_split(n_train=4, n_functional=1, n_defective=1).defective[0]
    (prediction,) = fitted.predict([defective])
    assert prediction.neighbors is not None
    assert prediction.placement is not None
    learnt = [read_image(path).astype(np.float64) for path in normal]
    variants = [learnt, *([image * factor for image in learnt] for factor in (0.8, 1.2))]
    images = [np.rint(image).clip(0, 255).astype(np.uint8) for each in variants for image in each]
    levels = backbone.extract([read_image(defective), *images], n_workers=0).pyramid.levels
    rows = np.concatenate([level.astype(np.float64) for level in levels], axis=-1)
    apart = rows[0][:, :, None] - rows[1:].reshape(1, 1, -1, rows.shape[-1])
    expected = np.linalg.norm(apart, axis=-1).min(-1)
    found = np.sqrt(prediction.neighbors.sq_distances[0, ..., 0])
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    divided = fitted.border_.divide(found.astype(np.float64))
    np.testing.assert_allclose(
        prediction.map, pixel_map(divided, prediction.placement, 0.0), rtol=1e-5
    )
    assert prediction.score == prediction.map.max()


def test_each_block_is_searched_on_its_own_if_asked_for(
    backbone: ks.Backbone, normal: list[Path]
) -> None:
    by_block = ks.SuperADD(backbone, coreset=None, fusion="levels", variants=None).fit(normal[:3])
    (prediction,) = by_block.predict(normal[3:])
    assert prediction.neighbors is not None
    sq_distances = []
    for level in backbone.extract([normal[3], *normal[:3]], n_workers=0).pyramid.levels:
        rows = level.astype(np.float64)
        apart = rows[0][:, :, None] - rows[1:].reshape(1, 1, -1, rows.shape[-1])
        sq_distances.append(np.square(apart).sum(-1).min(-1))
    found = prediction.neighbors.sq_distances[0, ..., 0]
    np.testing.assert_allclose(found, np.mean(sq_distances, axis=0), rtol=1e-4)


def test_normal_images_in_another_light_are_normal(
    fitted: ks.SuperADD, backbone: ks.Backbone, normal: list[Path]
) -> None:
    assert fitted.n_images_ == 4
    darker = (read_image(normal[0]) * 0.8).round().astype(np.uint8)
    as_it_is = ks.SuperADD(backbone, coreset=1.0, variants=None).fit(normal)
    assert as_it_is.variants_ is None
    (found,), (without,) = fitted.predict([darker]), as_it_is.predict([darker])
    assert found.score < without.score / 2
    evidence = found.evidence(100, 100)
    assert evidence is not None
    assert evidence.variant == "brightness 0.8"


@pytest.mark.parametrize("variants", [None, ks.Variants(brightness=(0.8, 1.2))])
def test_a_model_predicts_the_same(
    backbone: ks.Backbone, normal: list[Path], variants: ks.Variants | None, tmp_path: Path
) -> None:
    superadd = ks.SuperADD(backbone, coreset=0.1, variants=variants).fit(normal)
    superadd.save(tmp_path / "model.ks")
    loaded = ks.load(tmp_path / "model.ks", device="cpu")
    assert type(loaded) is ks.SuperADD
    assert loaded.variants == variants
    assert loaded.scores(normal).tolist() == superadd.scores(normal).tolist()


def test_the_small_network_has_blocks_at_the_same_depths() -> None:
    for detector in (ks.SuperADD(), ks.SuperADD.from_preset("small")):
        backbone = detector.backbone
        assert timm.is_model_pretrained(str(backbone.name))
        with torch.device("meta"):  # without values, however large it is
            network: Any = timm.create_model(str(backbone.name))
        n_blocks = len(network.blocks)
        assert [(int(level) + 1) / n_blocks for level in backbone.levels] == [0.25, 0.5, 0.75, 1.0]
