"""How maps are laid out is what timm says, also where a map is as high as it has channels."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import knnspect as ks
from knnspect.errors import ParameterError
from knnspect.features.torch.architectures import channels_first

#: Networks with a level that is as high as it has channels, and one of another size: channels last,
#: in each way in which timm gives maps.
CASES = [
    ("swin_tiny_patch4_window7_224", 0, 384),
    ("mambaout_femto", 0, 192),
    ("mambaout_femto", 0, 64),
    ("efficientnet_lite0", 0, 32),
    ("efficientnet_lite0", 0, 64),
    ("resnet18", 0, 128),
    ("vit_tiny_patch16_224", 1, 64),
    ("hrnet_w18_small", 0, 128),
    ("legacy_xception", 0, 128),
]


@pytest.mark.parametrize(("name", "level", "size"), CASES)
def test_maps_have_rows_columns_and_channels_where_timm_has_them(
    name: str, level: int, size: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config: Any = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {"img_size": size} if config.fixed_input_size else {}
    if name.startswith("vit"):
        options["out_indices"] = range(12)  # all blocks
    network: Any = timm.create_model(name, features_only=True, **options).eval()
    tensors = {key: value.clone() for key, value in network.state_dict().items()}
    save_file(tensors, tmp_path / "w.safetensors")
    backbone = ks.Backbone(
        name, levels=(level,), image_size=size, weights=tmp_path / "w.safetensors", device="cpu"
    )
    images = [np.random.default_rng(0).integers(0, 255, (size, size, 3)).astype(np.uint8)]
    loaded: Any = backbone._load()
    batch = (torch.from_numpy(loaded.geometry.prepare(images[0]))[None] - loaded.mean) / loaded.std
    with torch.inference_mode():
        theirs = network(batch)[level]
    channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
    expected = (theirs if channels_last else theirs.permute(0, 2, 3, 1)).numpy()
    spread = 1e-5 * np.abs(expected).max()

    whole = backbone.extract(images, n_workers=0).pyramid.levels[0]
    np.testing.assert_allclose(whole, expected, rtol=0, atol=spread)
    for _ in range(2):  # the first run without pooled features looks where the network can end
        (part,) = backbone.iterate(images, n_workers=0, pooled=False)
        np.testing.assert_array_equal(part.pyramid.levels[0], whole)


def test_channels_first_moves_channels_only_where_they_are_last() -> None:
    square = torch.arange(2 * 3 * 3 * 3).view(2, 3, 3, 3)
    assert torch.equal(channels_first(square, "NHWC"), square.permute(0, 3, 1, 2))
    assert torch.equal(channels_first(square, "NCHW"), square)


def test_another_layout_than_the_network_says_is_an_error() -> None:
    backbone = ks.Backbone(levels=(1,), image_size=64, device="cpu")
    network: Any = backbone._load()
    network.layout = "NHWC"
    with pytest.raises(ParameterError, match=r"level 4 should be a map of 320 channels as NHWC"):
        backbone.extract(np.zeros((1, 64, 64, 3), np.uint8))


def test_a_size_that_a_network_cannot_take_is_named(tmp_path: Path) -> None:
    network: Any = timm.create_model("halonet26t", features_only=True)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    weights = tmp_path / "w.safetensors"
    backbone = ks.Backbone("halonet26t", levels=(1,), image_size=64, weights=weights)
    for pooled in (True, False):
        with pytest.raises(ParameterError, match="image_size: halonet26t fails on 64 x 64 pixels"):
            list(backbone.iterate(np.zeros((1, 64, 64, 3), np.uint8), pooled=pooled))


def test_threads_do_not_mix_the_maps_of_networks_that_keep_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network: Any = timm.create_model("legacy_xception", features_only=True)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    weights = tmp_path / "w.safetensors"
    backbone = ks.Backbone("legacy_xception", levels=(1,), image_size=64, weights=weights)
    images = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3)).astype(np.uint8)
    expected = backbone.extract(images).pyramid.levels[0]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(10):
            found = backbone.extract(images[[index]], n_workers=0).pyramid.levels[0]
            if not np.array_equal(found[0], expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
