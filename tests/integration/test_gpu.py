"""What needs a CUDA device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import knnspect as ks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.fixture(scope="module")
def images() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (7, 96, 96, 3)).astype(np.uint8)


def test_features_on_the_gpu_are_those_of_the_cpu(
    images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
) -> None:
    on_cpu = ks.Backbone(image_size=96, device="cpu").extract(images)
    on_gpu = ks.Backbone(image_size=96, device="cuda").extract(images)
    for cpu, gpu in zip(on_cpu.pyramid.levels, on_gpu.pyramid.levels, strict=True):
        assert np.abs(cpu - gpu).max() <= 1e-3 * np.abs(cpu).max()
    assert np.abs(on_cpu.pooled - on_gpu.pooled).max() <= 1e-3 * np.abs(on_cpu.pooled).max()


def test_features_on_the_gpu_do_not_depend_on_the_batch(
    images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
) -> None:
    backbone = ks.Backbone(image_size=96, device="cuda")
    together = backbone.extract(images, batch_size=4)
    for index in range(len(images)):
        alone = backbone.extract(images[index : index + 1], batch_size=4)
        np.testing.assert_array_equal(alone.pooled[0], together.pooled[index])
        for one, many in zip(alone.pyramid.levels, together.pyramid.levels, strict=True):
            np.testing.assert_array_equal(one[0], many[index])
