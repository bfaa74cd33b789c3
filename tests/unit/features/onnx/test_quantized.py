"""Graphs that compute in int8: features near those of float32, and what cannot be quantized."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from base_environment import link_base
from networks import random_network, save
from PIL import Image

import knnspect as ks
from knnspect.errors import ImageError, ParameterError, StoreError
from knnspect.exporting import export, quantize

pytestmark = pytest.mark.usefixtures("one_thread")

#: Of six blocks.
VIT = "test_vit"


def images(n: int = 3) -> Any:
    """Smooth ones, as random pixels leave nothing to be found."""
    waves = np.linspace(0, 9, 64)
    shapes = [np.sin(waves * (i + 1))[:, None] * np.cos(waves / (i + 1)) for i in range(n)]
    return np.stack([(127 * shape + 128).astype(np.uint8) for shape in shapes])


def fitted(**given: Any) -> ks.Spade:
    backbone = ks.Backbone(image_size=64, device="cpu", **given)
    return ks.Spade(backbone, image_neighbors=1).fit(images())


@pytest.fixture(scope="module")
def small() -> ks.Spade:
    return export(fitted(levels=(1, 2)))


def transformer(folder: Path) -> dict[str, Any]:
    weights = save(random_network(VIT).state_dict(), folder / "vit.safetensors")
    return {"name": VIT, "levels": (2,), "weights": weights, "unit": True, "norm": True}


@pytest.mark.parametrize("kind", ["convolutional", "transformer"])
def test_features_are_rounded_and_their_own_everywhere(kind: str, tmp_path: Path) -> None:
    given = {"levels": (1, 2)} if kind == "convolutional" else transformer(tmp_path)
    detector = export(fitted(**given))
    other = quantize(detector, images())
    one, two = (each.backbone.extract(images()) for each in (detector, other))
    for expected, found in zip(one.pyramid.levels, two.pyramid.levels, strict=True):
        difference = np.linalg.norm(expected - found) / np.linalg.norm(expected)
        assert 1e-3 < difference < 0.25
    other.save(tmp_path / "int8.ks")
    again = ks.load(tmp_path / "int8.ks").backbone
    for same in (again, pickle.loads(pickle.dumps(again))):
        np.testing.assert_array_equal(same.extract(images()).pooled, two.pooled)
    assert again.fingerprint() == other.backbone.fingerprint()
    assert again.fingerprint() != detector.backbone.fingerprint()


def test_inputs_may_have_several_sizes() -> None:
    detector = export(fitted(levels=(1, 2), resize="shorter"))
    several = [np.tile(images(1)[0], tiles) for tiles in ((1, 1), (1, 2), (3, 1))]
    other = quantize(detector, several)
    pairs = zip(*(one.backbone.iterate(several) for one in (detector, other)), strict=True)
    for one, two in pairs:
        for expected, found in zip(one.pyramid.levels, two.pyramid.levels, strict=True):
            assert found.shape == expected.shape
            assert np.linalg.norm(expected - found) < 0.25 * np.linalg.norm(expected)


def test_the_exported_detector_stays_as_it_was(small: ks.Spade) -> None:
    before = small.backbone.fingerprint()
    assert small.uncalibrated == ""
    assert "one that was quantized" in quantize(small, images()).uncalibrated
    assert small.uncalibrated == ""
    assert small.backbone.fingerprint() == before


def test_what_is_no_graph_in_float32_is_named(small: ks.Spade) -> None:
    with pytest.raises(ParameterError, match="expected one that was exported, its network is PyT"):
        quantize(fitted(levels=(1,)), images())
    with pytest.raises(ParameterError, match="computes in int8 already"):
        quantize(quantize(small, images()), images())


def test_images_that_cannot_be_used_are_named(small: ks.Spade, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"bad\.png"):
        quantize(small, tmp_path)
    left_out = []
    with pytest.raises(ImageError, match="none can be used to find the ranges"):
        quantize(small, tmp_path, skip_bad=lambda id_, _: left_out.append(id_))
    assert left_out == ["bad.png"]


def test_of_many_images_evenly_spaced_ones_give_the_ranges(small: ks.Spade, tmp_path: Path) -> None:
    paths = []
    for number in range(128):
        paths.append(tmp_path / f"{number:03d}.png")
        if number % 32 == 0:
            Image.fromarray(images(1)[0]).save(paths[-1])
        else:
            paths[-1].write_bytes(b"no image")
    left_out: list[str] = []
    quantize(small, paths, skip_bad=lambda id_, _: left_out.append(id_))
    expected = [path.name for path in paths[::2] if int(path.stem) % 32]
    assert [Path(id_).name for id_ in left_out] == expected


def test_a_type_of_a_newer_version_is_named(small: ks.Spade) -> None:
    settings, tensors = small.backbone.state()
    with pytest.raises(StoreError, match="quantized: expected int8, got 'int4'"):
        ks.Backbone.from_state({**settings, "quantized": "int4"}, tensors)


def test_without_onnx_what_it_needs_is_said(small: ks.Spade, tmp_path: Path) -> None:
    link_base(tmp_path, "onnx")
    small.save(tmp_path / "small.ks")
    code = """
import sys
import numpy as np
import knnspect as ks
from knnspect.exporting import quantize
try:
    quantize(ks.load(sys.argv[1]), np.zeros((1, 64, 64, 3), np.uint8))
except ks.MissingPackageError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, tmp_path / "small.ks"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip().endswith(
        'needs onnx, which is not installed: pip install "knnspect[export]"'
    ), done.stderr
