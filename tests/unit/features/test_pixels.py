"""Pixels as features: what comes out is the image, at one size."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import knnspect as ks
from knnspect.errors import DTypeError, ParameterError, StoreError


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)


def test_an_image_of_the_size_comes_out_as_it_is(image: NDArray[np.uint8]) -> None:
    features = ks.Pixels((40, 30)).extract(image[None])
    assert features.pyramid.shapes == [(40, 30, 3)]
    np.testing.assert_allclose(features.pyramid.levels[0][0], image / 255, atol=1e-6)
    np.testing.assert_allclose(features.pooled[0], image.mean((0, 1)) / 255, rtol=1e-5)


def test_grey_is_that_of_pillow(image: NDArray[np.uint8]) -> None:
    features = ks.Pixels((40, 30), color="grey").extract(image[None])
    expected = np.asarray(Image.fromarray(image).convert("L")) / 255
    np.testing.assert_allclose(features.pyramid.levels[0][0, ..., 0], expected, atol=1 / 255)
    white = ks.Pixels(28, color="grey").extract(np.full((1, 9, 9), 255, np.uint8))
    assert 0.999999 < white.pyramid.levels[0].min() <= white.pyramid.levels[0].max() <= 1


def test_pixels_do_not_depend_on_the_batch(image: NDArray[np.uint8]) -> None:
    images = np.stack([image, image[::-1], image[:, ::-1]])
    pixels = ks.Pixels(28, color="grey")
    together = pixels.extract(images).pyramid.levels[0]
    alone = [pixels.extract(one[None]).pyramid.levels[0][0] for one in images]
    np.testing.assert_array_equal(together, np.stack(alone))


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_they_come_back_as_they_were(resize: Any, image: NDArray[np.uint8]) -> None:
    pixels = ks.Pixels((32, 24), color="grey", resize=resize, white=255)
    settings, tensors = pixels.state()
    assert tensors == {}
    again = ks.Pixels.from_state(settings, tensors)
    assert again == pixels
    assert again.fingerprint() == pixels.fingerprint()
    for other in (again, copy.deepcopy(pixels), pickle.loads(pickle.dumps(pixels))):
        np.testing.assert_array_equal(
            other.extract(image[None]).pyramid.levels[0],
            pixels.extract(image[None]).pyramid.levels[0],
        )


def test_settings_change_the_fingerprint() -> None:
    first = ks.Pixels(32).fingerprint()
    for other in (ks.Pixels(28), ks.Pixels(32, color="grey"), ks.Pixels(32, resize="pad")):
        assert other.fingerprint() != first


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"color": "cmyk"}, "color: expected one of"),
        ({"image_size": [0, 4]}, "image_size"),
        ({"image_size": 5}, "iterable"),
        ({"resize": "shorter"}, "resize: expected one of"),
        ({"color": None}, "color"),
        ({"white": -1}, "white"),
    ],
)
def test_settings_of_something_else_are_refused(changed: dict[str, Any], message: str) -> None:
    settings, _ = ks.Pixels(32).state()
    with pytest.raises(StoreError, match=f"the stored pixels cannot be used: .*{message}"):
        ks.Pixels.from_state({**settings, **changed}, {})
    with pytest.raises(StoreError, match="'color' is missing"):
        ks.Pixels.from_state({k: v for k, v in settings.items() if k != "color"}, {})
    with pytest.raises(StoreError, match="expected no tensors, got 1"):
        ks.Pixels.from_state(settings, {"weight": np.zeros(3, np.float32)})


def test_methods_take_what_they_work_on(image: NDArray[np.uint8], tmp_path: Path) -> None:
    with pytest.raises(DTypeError, match="backbone: expected a Backbone, got Pixels"):
        ks.Spade(ks.Pixels(32)).fit(image[None])  # type: ignore[arg-type]
    with pytest.raises(DTypeError, match="backbone: expected a Pixels, got Backbone"):
        ks.SSIMAE(ks.Backbone(image_size=32)).fit(image[None])  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="device: 'abacus'"):
        ks.SSIMAE(ks.Pixels(32, device="abacus")).fit(np.stack([image, image[::-1]]))


def test_a_method_without_a_backbone_is_not_exported(image: NDArray[np.uint8]) -> None:
    from knnspect.exporting import export

    ssim_ae = ks.SSIMAE(ks.Pixels(32, device="cpu"), max_epochs=1, width=4)
    ssim_ae.fit(np.stack([image, image[::-1], image[:, ::-1]]))
    with pytest.raises(ParameterError, match="SSIMAE has no backbone that could be exported"):
        export(ssim_ae)
