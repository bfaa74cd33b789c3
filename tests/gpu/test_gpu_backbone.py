"""Features on a GPU; of a network of random weights, which needs no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import knnspect as ks
from knnspect import FeaturePyramid
from knnspect.backends.torch import TorchBackend

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.fixture(scope="module")
def images() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (7, 96, 96, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(timm.create_model("resnet18", pretrained=False).state_dict(), path)
    return path


def backbone_on(device: str, weights: Path) -> ks.Backbone:
    return ks.Backbone("resnet18", levels=(1, 2, 3), image_size=96, weights=weights, device=device)


def test_features_on_the_gpu_are_those_of_the_cpu(
    images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], weights: Path
) -> None:
    on_cpu = backbone_on("cpu", weights).extract(images)
    on_gpu = backbone_on("cuda", weights).extract(images)
    for cpu, gpu in zip(on_cpu.pyramid.levels, on_gpu.pyramid.levels, strict=True):
        assert np.abs(cpu - gpu).max() <= 1e-3 * np.abs(cpu).max()
    assert np.abs(on_cpu.pooled - on_gpu.pooled).max() <= 1e-3 * np.abs(on_cpu.pooled).max()


def test_features_stay_on_the_gpu_until_arrays_are_asked_for(
    images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], weights: Path
) -> None:
    backbone = backbone_on("cuda", weights)
    gallery = ks.Gallery()
    gallery.add(backbone.extract(images[:4]).pyramid)
    for features in backbone.iterate(images[4:], batch_size=2):
        pyramid = features.pyramid
        assert pyramid.is_on_device
        found = TorchBackend("cuda").search_tensors(gallery.prepare(pyramid, 3))
        expected = gallery.search(FeaturePyramid(pyramid.levels), 3)
        np.testing.assert_array_equal(found.image_index.cpu().numpy(), expected.image_index)
        np.testing.assert_array_equal(found.cells.cpu().numpy(), expected.cells)
        for backend in ("rust", "torch:cuda"):
            again = gallery.search(pyramid, 3, backend=backend)
            np.testing.assert_array_equal(again.cells, expected.cells)
        for part, level in zip(pyramid[-1].levels, pyramid.levels, strict=True):
            np.testing.assert_array_equal(part, level[-1:])
    assert not backbone.extract(images).pyramid.is_on_device
    with torch.inference_mode():
        pyramid.arrays[1][0, 0, 0, 0] = torch.nan
    with pytest.raises(ks.ImageError, match="query image 0, level 1"):
        gallery.prepare(pyramid)


def test_features_on_the_gpu_do_not_depend_on_the_batch(
    images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], weights: Path
) -> None:
    backbone = backbone_on("cuda", weights)
    together = backbone.extract(images, batch_size=4)
    for index in range(len(images)):
        alone = backbone.extract(images[index : index + 1], batch_size=4)
        np.testing.assert_array_equal(alone.pooled[0], together.pooled[index])
        for one, many in zip(alone.pyramid.levels, together.pyramid.levels, strict=True):
            np.testing.assert_array_equal(one[0], many[index])


def test_half_precision_gives_nearly_the_same_features(
    images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], weights: Path
) -> None:
    whole = backbone_on("cuda", weights)
    half = ks.Backbone(**{**whole.get_params(), "precision": "float16"})
    expected, found = whole.extract(images), half.extract(images)
    for level, wanted in zip(found.pyramid.levels, expected.pyramid.levels, strict=True):
        assert level.dtype == np.float32
        difference = np.abs(level - wanted).max() / np.abs(wanted).max()
        assert 0 < difference < 2e-2
    assert found.pooled.dtype == np.float32


def test_images_of_different_shapes_come_in_order(
    images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], weights: Path
) -> None:
    mixed = [image[: 96 if index % 2 else 48] for index, image in enumerate(images)]
    backbone = ks.Backbone(
        "resnet18", (1, 2), 64, weights, resize="shorter", patch_size=1, device="cuda"
    )
    parts = list(backbone.iterate(mixed, batch_size=4))
    assert [id_ for part in parts for id_ in part.ids] == [f"{i:06d}" for i in range(len(mixed))]
    for part in parts:
        (alone,) = backbone.iterate([mixed[int(part.ids[0])]], batch_size=4)
        for level, wanted in zip(part.pyramid.levels, alone.pyramid.levels, strict=True):
            assert np.abs(level[0] - wanted[0]).max() <= 1e-3 * np.abs(wanted).max()
