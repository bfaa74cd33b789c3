"""Rows of norm 1: the direction of what a cell of a level has, whatever its length."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import random_network, save
from numpy.typing import NDArray

import knnspect as ks
from knnspect.cli.options import build_detector
from knnspect.features.torch.network import unit_rows

pytestmark = pytest.mark.usefixtures("one_thread")

#: A transformer of a few kilobytes, and its sizes.
NAME, SIZE = "test_vit", 64


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / f"{NAME}.safetensors"
    return save(random_network(NAME).state_dict(), file)


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (3, SIZE, SIZE, 3)).astype(np.uint8)


def backbone(weights: Path, **options: Any) -> ks.Backbone:
    given: dict[str, Any] = {"levels": (1, -1), "norm": True, "device": "cpu", **options}
    return ks.Backbone(NAME, image_size=SIZE, weights=weights, **given)


def divided(level: NDArray[np.float32]) -> NDArray[np.float64]:
    exact = level.astype(np.float64)
    return np.asarray(exact / np.linalg.norm(exact, axis=-1, keepdims=True))


@pytest.mark.parametrize("patch_size", [1, 3])
def test_each_cell_of_each_level_is_divided_by_its_norm_after_averaging(
    weights: Path, pictures: NDArray[np.uint8], patch_size: int
) -> None:
    plain = backbone(weights, patch_size=patch_size).extract(pictures, n_workers=0)
    found = backbone(weights, patch_size=patch_size, unit=True).extract(pictures, n_workers=0)
    assert len(found.pyramid.levels) == 2
    for level, before in zip(found.pyramid.levels, plain.pyramid.levels, strict=True):
        assert level.dtype == np.float32
        assert not np.allclose(before, level, atol=0.1), "they were not of norm 1 before"
        np.testing.assert_allclose(level, divided(before), rtol=0, atol=3e-7)
    assert np.array_equal(found.pooled, plain.pooled)


def test_of_a_convolutional_network_they_are_as_well(pictures: NDArray[np.uint8]) -> None:
    options: Any = {"levels": (1, 2), "image_size": SIZE, "patch_size": 3, "device": "cpu"}
    plain = ks.Backbone(**options).extract(pictures, n_workers=0)
    found = ks.Backbone(**options, unit=True).extract(pictures, n_workers=0)
    for level, before in zip(found.pyramid.levels, plain.pyramid.levels, strict=True):
        np.testing.assert_allclose(level, divided(before), rtol=0, atol=3e-7)
        assert level.flags.c_contiguous


def test_zeros_stay_zeros_and_sizes_do_not_matter() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [3e-30, 4e-30], [-3e30, 4e30]])
    expected = [[0.6, 0.8], [0.0, 0.0], [0.6, 0.8], [-0.6, 0.8]]
    found = unit_rows(rows.T[None, :, :, None])[0, :, :, 0].T
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_hidden(bad: float) -> None:
    found = unit_rows(torch.tensor([1.0, bad])[None, :, None, None])
    assert not torch.isfinite(found).all()


def test_squared_distances_are_those_of_angles(weights: Path, pictures: NDArray[np.uint8]) -> None:
    network = backbone(weights, levels=(-1,), unit=True)
    patchcore = ks.PatchCore(network, coreset=None).fit(pictures[:2])
    (prediction,) = patchcore.predict(pictures[2:])
    assert prediction.neighbors is not None
    plain = backbone(weights, levels=(-1,)).extract(pictures, n_workers=0).pyramid.levels[0]
    rows = divided(plain).reshape(3, -1, plain.shape[-1])
    cosines = rows[2] @ np.concatenate(rows[:2]).T
    nearest = (2 - 2 * cosines).min(1)
    np.testing.assert_allclose(prediction.neighbors.sq_distances.ravel(), nearest, atol=1e-5)


def test_they_are_a_setting_of_models_copies_and_the_command_line(
    weights: Path, pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    network = backbone(weights, unit=True)
    assert copy.deepcopy(network) == network != backbone(weights)
    assert network.fingerprint() != backbone(weights).fingerprint()
    patchcore = ks.PatchCore(network, coreset=0.5).fit(pictures[:2])
    patchcore.save(tmp_path / "model.ks")
    loaded = ks.load(tmp_path / "model.ks", device="cpu")
    assert isinstance(loaded.backbone, ks.Backbone)
    assert loaded.backbone.unit is True
    expected, found = patchcore.predict(pictures), loaded.predict(pictures)
    assert [one.score for one in found] == [one.score for one in expected]

    # Files of earlier versions do not have it.
    settings, tensors = network.state()
    assert settings.pop("unit") is True
    assert ks.Backbone.from_state(settings, tensors, "cpu").unit is False
    with pytest.raises(ks.StoreError, match="unit: expected True or False, got int"):
        ks.Backbone.from_state({**settings, "unit": 1}, tensors, "cpu")

    built = build_detector(ks.PatchCore, {"unit": "true"})
    assert isinstance(built.backbone, ks.Backbone)
    assert built.backbone.unit is True
