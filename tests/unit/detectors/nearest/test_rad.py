"""RAD against its definition, over a transformer with random weights in a local file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import random_network, save
from numpy.typing import NDArray

import knnspect as ks
from knnspect import Backbone, Features, Rad
from knnspect.testing.oracle import within

Array = NDArray[Any]

K = 3


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = random_network("vit_tiny_patch16_224", img_size=96)
    return save(network.state_dict(), tmp_path_factory.mktemp("weights") / "vit.safetensors")


@pytest.fixture(scope="module")
def backbone(weights: Path) -> Backbone:
    return (
        Rad()
        .set_params(
            backbone__name="vit_tiny_patch16_224",
            backbone__weights=weights,
            backbone__image_size=96,
            backbone__device="cpu",
        )
        .backbone
    )


@pytest.fixture(scope="module")
def images() -> Array:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 12, 12, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return images.astype("u1")


@pytest.fixture(scope="module")
def detector(backbone: Backbone, images: Array) -> Rad:
    return Rad(backbone, image_neighbors=K).fit(images[:6])


def cosine_distances(features: list[Features], window: int) -> Array:
    """The mean over blocks of the distance to the nearest cell nearby: (cells,)."""
    query, normal = (one.pyramid.levels for one in features)
    near = within(window, [(6, 6)])
    found = []
    for own, others in zip(query, normal, strict=True):
        a = own.reshape(36, -1).astype(np.float64)
        b = others.reshape(len(others), 36, -1).astype(np.float64)
        a, b = (one / np.linalg.norm(one, axis=-1, keepdims=True) for one in (a, b))
        far = 1 - np.einsum("qc,ngc->qng", a, b)
        far[~np.broadcast_to(near[:, None], far.shape)] = np.inf
        found.append(far.min(axis=(1, 2)))
    mean: Array = np.mean(found, axis=0)
    return mean


def test_its_defaults_are_those_of_the_paper() -> None:
    rad = Rad()
    assert (rad.image_neighbors, rad.window, rad.fusion) == (150, 1, "levels")
    assert (rad.score, rad.top, rad.pixel_neighbors) == ("top", 0.01, 1)
    assert (rad.backbone.levels, rad.backbone.pooled) == ((3, 6, 9, 11), "cls")
    assert rad.backbone.norm
    assert rad.backbone.unit


def test_cells_are_compared_by_cosines_near_their_place_block_by_block(
    backbone: Backbone, images: Array, detector: Rad
) -> None:
    (prediction,) = detector.predict(images[6:])
    chosen = [int(id_) for id_, _ in prediction.images]
    features = backbone.extract(images)
    far = np.square(features.pooled[:6] - features.pooled[6]).sum(axis=1)
    assert chosen == np.argsort(far)[:K].tolist()

    of_query, of_normal = backbone.extract(images[6:]), backbone.extract(images[chosen])
    expected = 2 * cosine_distances([of_query, of_normal], 1).reshape(6, 6)
    assert prediction.neighbors is not None
    found = prediction.neighbors.sq_distances[0, ..., 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert (found > 1.02 * 2 * cosine_distances([of_query, of_normal], 6).reshape(6, 6)).any()


def test_it_scores_by_the_top_of_the_map(detector: Rad, images: Array) -> None:
    (prediction,) = detector.predict(images[6:])
    n_top = round(0.01 * prediction.map.size)
    expected = np.sort(prediction.map, axis=None)[-n_top:].mean()
    assert prediction.score == pytest.approx(expected)


def test_a_model_is_a_rad_again(detector: Rad, images: Array, tmp_path: Path) -> None:
    detector.save(tmp_path / "model.ks")
    loaded = ks.load(tmp_path / "model.ks")
    assert type(loaded) is Rad
    np.testing.assert_array_equal(
        loaded.predict(images[6:])[0].map, detector.predict(images[6:])[0].map
    )
    evidence = loaded.predict(images[6:])[0].evidence(40, 50)
    assert evidence is not None
    assert int(evidence.image) < 6
