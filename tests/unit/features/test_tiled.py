"""Tiles of a large image make the pyramid that the whole image has, where they can."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from networks import random_network, save
from numpy.typing import NDArray
from onnx_files import small_graph
from skimage import data

import knnspect as ks
from knnspect.errors import ParameterError
from knnspect.exporting import export, onnx_backbone, quantize
from knnspect.features.tiled import TiledNetwork

pytestmark = pytest.mark.usefixtures("one_thread")

#: Of level 0, 1 and 2 of the default network: stride, and what it depends on beyond a cell.
STRIDES, REACH = (2, 4, 8), (4, 12, 40)
VIT = "vit_tiny_patch16_224"


def picture(height: int, width: int, kind: str = "colour") -> Any:
    """Return a part of a photograph: of 8 bits and colours, grey, or of 16 bits."""
    coffee: Any = data.coffee  # which has no types
    image = coffee()[40 : 40 + height, 30 : 30 + width]
    if kind == "16 bit":
        return image.astype(np.uint16) * 256 + np.arange(width, dtype=np.uint16)[:, None] % 256
    return image[..., 0] if kind == "grey" else image


def backbones(levels: tuple[int, ...], tile: int, overlap: int, **more: Any) -> list[ks.Backbone]:
    """Return backbones that see an image as a whole, and in tiles."""
    given: dict[str, Any] = {"levels": levels, "device": "cpu", "image_size": 64, **more}
    whole = {"resize": "own", **given}
    return [ks.Backbone(**whole), ks.Backbone(tile=tile, overlap=overlap, **given)]


def differences(one: ks.Features, other: ks.Features) -> list[NDArray[np.float32]]:
    """Return how much the cells of each level differ, as a share of its largest feature."""
    assert one.pyramid.shapes == other.pyramid.shapes
    pairs = zip(one.pyramid.levels, other.pyramid.levels, strict=True)
    return [np.abs(a - b)[0].max(axis=-1) / np.abs(a).max() for a, b in pairs]


CASES: list[tuple[tuple[int, ...], int, int, tuple[int, int]]] = [
    ((0,), 32, 8, (70, 101)),
    ((1,), 64, 24, (64, 200)),
    ((0, 1), 80, 24, (203, 150)),
    ((1, 2), 168, 80, (170, 300)),
    ((1, 2), 176, 80, (320, 180)),
]


@pytest.mark.parametrize("kind", ["colour", "16 bit"])
@pytest.mark.parametrize(("levels", "tile", "overlap", "size"), CASES)
def test_with_enough_overlap_they_are_the_whole_image(
    levels: tuple[int, ...], tile: int, overlap: int, size: tuple[int, int], kind: str
) -> None:
    assert overlap >= 2 * REACH[levels[-1]]
    found = [each.extract([picture(*size, kind)]) for each in backbones(levels, tile, overlap)]
    for difference in differences(*found):
        assert difference.max() < 2e-6
    # They went as tiles: pooled features are the means over these.
    assert np.abs(found[0].pooled - found[1].pooled).max() > 1e-3


@pytest.mark.parametrize("patch_size", [1, 3])
def test_with_less_only_cells_near_the_edges_of_tiles_differ(patch_size: int) -> None:
    """And averages are taken after stitching: no cell beside an edge lacks its neighbours."""
    tile, overlap, (height, width) = 64, 8, (64, 176)
    whole, tiled = backbones((0, 1), tile, overlap, patch_size=patch_size)
    found = differences(*(each.extract([picture(height, width)]) for each in (whole, tiled)))
    for difference, stride, reach in zip(found, STRIDES, REACH, strict=False):
        # Edges lie at 56 and 112: there a cell is taken from the next tile.
        middles = (np.arange(difference.shape[1]) + 0.5) * stride
        far = np.abs(middles[:, None] - [60, 116]).min(axis=1)
        beyond = reach - overlap / 2 + stride * (0.5 + patch_size // 2)
        assert difference[:, far > beyond].max() < 2e-6
        assert (difference[:, far <= beyond].max() > 1e-3) == (reach > overlap / 2)


def test_reach_is_how_far_a_changed_pixel_is_seen() -> None:
    whole, tiled = backbones((0, 1, 2), 256, 64)
    assert tiled.reach == list(REACH)
    image = picture(128, 128)
    other = image.copy()
    other[:64] = 255 - other[:64]
    found = differences(whole.extract([image]), whole.extract([other]))
    for difference, stride, reach in zip(found, STRIDES, REACH, strict=True):
        changed = difference.max(axis=1) > 0
        assert not changed[(64 + reach) // stride :].any()
        assert changed[: 64 // stride + 1].all()
    with pytest.raises(ParameterError, match="reach: is measured with a tile"):
        _ = whole.reach


def test_small_images_go_as_a_whole() -> None:
    found = [each.extract([picture(60, 48)]) for each in backbones((0, 1), 64, 16)]
    for one, other in zip(found[0].pyramid.levels, found[1].pyramid.levels, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found[0].pooled, found[1].pooled)


def test_features_do_not_depend_on_the_batch_nor_on_threads() -> None:
    _, tiled = backbones((0, 1), 64, 16)
    sizes = [(100, 80), (64, 64), (100, 80), (50, 130)]
    images = [picture(*size, "grey") for size in sizes]
    for batch_size, n_workers in ((1, 0), (3, 2)):
        parts = list(tiled.iterate(images, batch_size, n_workers))
        assert [part.ids for part in parts] == [[f"{i:06d}"] for i in range(4)]
        assert [part.sizes[0] for part in parts] == sizes
        for part, image in zip(parts, images, strict=True):
            alone = tiled.extract([image])
            for one, other in zip(part.pyramid.levels, alone.pyramid.levels, strict=True):
                np.testing.assert_array_equal(one, other)
            np.testing.assert_array_equal(part.pooled, alone.pooled)


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad", "shorter"])
def test_resized_images_go_in_tiles_too(resize: Any) -> None:
    given: dict[str, Any] = {"image_size": 96, "resize": resize, "unit": True, "patch_size": 3}
    whole, tiled = backbones((0, 1), 64, 24, **given)
    image = picture(200, 260)
    one, other = whole.extract([image]), tiled.extract([image])
    assert one.placements == other.placements
    assert max(difference.max() for difference in differences(one, other)) < 2e-6
    norms = np.square(other.pyramid.levels[1]).sum(axis=-1)
    np.testing.assert_allclose(norms, 1, atol=1e-5)


def test_pooled_features_are_those_of_the_tiles() -> None:
    image = picture(64, 112)
    for pooled, join in (("mean", lambda a, b: (a + b) / 2), ("max", np.maximum)):
        whole, tiled = backbones((0, 1), 64, 16, pooled=pooled)
        halves = whole.extract([image[:, :64], image[:, 48:]]).pooled
        np.testing.assert_allclose(tiled.extract([image]).pooled[0], join(*halves), rtol=1e-5)


def test_models_and_pickles_keep_them() -> None:
    _, tiled = backbones((0, 1), 64, 16, patch_size=3, unit=True)
    expected = tiled.extract([picture(100, 150)])
    settings, tensors = tiled.state()
    assert (settings["tile"], settings["overlap"], settings["resize"]) == (64, 16, "own")
    for other in (
        ks.Backbone.from_state(settings, tensors, "cpu"),
        pickle.loads(pickle.dumps(tiled)),
        copy.deepcopy(tiled),
    ):
        assert (other.tile, other.overlap, other.patch_size) == (64, 16, 3)
        found = other.extract([picture(100, 150)])
        for one, wanted in zip(found.pyramid.levels, expected.pyramid.levels, strict=True):
            np.testing.assert_array_equal(one, wanted)
    assert "tile" not in ks.Backbone(device="cpu").state()[0]


def test_exported_networks_take_tiles() -> None:
    _, tiled = backbones((0, 1), 64, 16, patch_size=3, unit=True, pooled="max")
    exported = onnx_backbone(tiled)
    assert exported.reach == tiled.reach
    for size in ((100, 150), (40, 70)):
        one, other = (each.extract([picture(*size)]) for each in (tiled, exported))
        assert max(difference.max() for difference in differences(one, other)) < 1e-5
        np.testing.assert_allclose(one.pooled, other.pooled, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*near-duplicates")
def test_a_quantized_network_takes_them() -> None:
    images = {f"{n}": picture(100, 150 - n) for n in range(3)}
    _, tiled = backbones((0, 1), 64, 16)
    detector = export(ks.PatchCore(tiled, coreset=50).fit({k: picture(100, 150) for k in "ab"}))
    found = quantize(detector, images)
    network = found.backbone._load()
    assert isinstance(network, TiledNetwork)
    assert network.settings()["quantized"] == "int8"
    assert network.reach is not None
    assert max(network.reach) <= REACH[1]
    assert found.predict(images)[0].map.shape == (100, 150)


def test_onnx_files_take_them(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    onnx.save(small_graph(), path)
    given: dict[str, Any] = {"name": path, "levels": ("b", "c"), "image_size": 64}
    whole, tiled = ks.Backbone(**given, resize="own"), ks.Backbone(**given, tile=32, overlap=12)
    assert tiled.reach == [4, 8]
    image = picture(90, 130)
    one, other = whole.extract([image]), tiled.extract([image])
    assert differences(one, other)[0].max() < 2e-6
    again = ks.Backbone.from_state(*tiled.state(), "cpu")
    assert (again.tile, again.overlap) == (32, 12)
    np.testing.assert_array_equal(again.extract([image]).pooled, other.pooled)
    onnx.save(small_graph((1, 3, 64, 64)), path)
    with pytest.raises(ParameterError, match=r'"own", also in tiles, needs a network that takes'):
        ks.Backbone(**given, tile=32, overlap=12).extract([image])


def test_a_network_that_sees_its_whole_input_is_warned_of(tmp_path: Path) -> None:
    file = save(random_network(VIT).state_dict(), tmp_path / "vit.safetensors")
    given: dict[str, Any] = {"weights": file, "image_size": 64, "device": "cpu"}
    tiled = ks.Backbone(VIT, (2, 5), **given, tile=64, overlap=16)
    with pytest.warns(UserWarning, match=r"tile: each cell of this network depends on its whole"):
        found = tiled.extract([picture(64, 112)])
    assert tiled.reach is None
    # Tiles are images of their own: those of this one meet in its middle.
    alone = ks.Backbone(VIT, (2, 5), **given, resize="own").extract([picture(64, 64)])
    assert found.pyramid.shapes == [(4, 7, 192)] * 2
    last, of_tile = (each.pyramid.levels[1][0, :, :3] for each in (found, alone))
    np.testing.assert_array_equal(last, of_tile)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ks.Backbone.from_state(*tiled.state(), "cpu").extract([picture(64, 64)])
    with pytest.raises(ParameterError, match=r'resize: "own", also in tiles, cannot be exported'):
        onnx_backbone(tiled)
    with pytest.raises(ParameterError, match=r'pooled: "cls" is that of a whole image'):
        ks.Backbone(VIT, (5,), **given, tile=64, overlap=16, pooled="cls").extract([picture(9, 9)])


def test_a_tile_smaller_than_the_receptive_field_is_warned_of() -> None:
    _, tiled = backbones((1, 2), 64, 16)
    with pytest.warns(
        UserWarning, match="tile: expected at least 88 pixels, the receptive field of the levels, "
    ):
        tiled.extract([picture(64, 64)])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tile": 60}, "tile: expected a multiple of 8, .*got 60; the nearest are 56 and 64"),
        ({"tile": 128, "overlap": 20}, "overlap: expected a multiple of 8, .*got 20"),
        ({"tile": 128}, "overlap: expected less than half of the tile, 64 pixels, got 64"),
        ({"overlap": 16}, "overlap: is that of tiles; expected a tile, too, got tile=None"),
        (
            {"tile": 128, "overlap": 16, "resize": "crop"},
            'tile: with resize="crop" images become 64 x 64 pixels, which is one tile',
        ),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    backbone = ks.Backbone(levels=(1, 2), image_size=64, device="cpu", **given)
    with pytest.raises(ParameterError, match=message):
        backbone.extract([picture(64, 64)])


def test_half_precision_says_that_it_is_for_cuda() -> None:
    _, tiled = backbones((0, 1), 64, 16, precision="float16")
    with pytest.warns(UserWarning, match='precision: "float16" is for CUDA'):
        found = tiled.extract([picture(64, 100)])
    assert found.pyramid.levels[0].dtype == np.float32


class OnTensors:
    """A network whose maps are tensors of PyTorch, as they are on a GPU."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def forward(self, images: Any, batch_size: int, pooled: bool = True) -> Any:
        pyramid, vectors = self._network.forward(images, batch_size, pooled)
        return ks.FeaturePyramid([torch.from_numpy(level) for level in pyramid.levels]), vectors


def test_tensors_are_stitched_where_they_are() -> None:
    _, tiled = backbones((0, 1), 64, 16, patch_size=3, unit=True)
    image = tiled.geometry.prepare(picture(100, 150))
    network = tiled._load()
    assert isinstance(network, TiledNetwork)
    expected, vectors = network.forward([image], 1)
    network.network = OnTensors(network.network)
    found, others = network.forward([image], 1)
    assert all(isinstance(level, torch.Tensor) for level in found.arrays)
    for one, other in zip(found.levels, expected.levels, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(others, vectors)
