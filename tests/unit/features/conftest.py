"""Real images and the real weights, for the tests of the backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import pytest
import torch

from knnspect.data import elpv_split
from knnspect.features import Backbone
from knnspect.features.weights import resolve_weights

Tensors: TypeAlias = Mapping[str, torch.Tensor]


@pytest.fixture(scope="session")
def images() -> list[Path]:
    return elpv_split(n_train=17, n_functional=0, n_defective=0).train


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    """The default network at a small size, with every level."""
    return Backbone(levels=(0, 1, 2, 3, 4), image_size=64, device="cpu")


@pytest.fixture(scope="session")
def packaged_file() -> Path:
    file = resolve_weights("efficientnet_lite0", "package")[1]
    assert file is not None
    return file


@pytest.fixture(scope="session")
def packaged(packaged_file: Path) -> Tensors:
    """The tensors of the weights package, under the package's names."""
    tensors: Tensors = torch.load(packaged_file, weights_only=True)
    return tensors


@pytest.fixture(scope="session")
def renamed(packaged: Tensors) -> Tensors:
    """The same under timm's names."""
    import timm

    names = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    return dict(zip(names, packaged.values(), strict=True))
