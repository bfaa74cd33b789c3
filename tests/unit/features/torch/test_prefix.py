"""Networks that are run only as far as needed give the same maps, to the bit."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import knnspect as ks
from knnspect.features.torch.prefix import Prefix


def images(n: int = 2, size: int = 64) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 255, (n, size, size, 3)).astype("u1")


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("efficientnet_lite0", (1, 2, 3)),
        ("efficientnet_lite0", (0,)),
        ("efficientnet_lite0", (4,)),
        ("resnet18", (1, 3)),
        ("mobilenetv3_small_050", (1, 2)),
        ("convnext_atto", (0, 1, 2)),
        ("densenet121", (1, 2)),
    ],
)
def test_levels_are_the_same_without_pooled_features(
    name: str, levels: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Networks of which there are no weights here get random ones.
    if name != "efficientnet_lite0":
        import timm

        create = timm.create_model
        monkeypatch.setattr(
            timm,
            "create_model",
            lambda *args, **kwargs: create(*args, **{**kwargs, "pretrained": False}),
        )
    backbone = ks.Backbone(name, levels=levels, image_size=64, weights="auto")
    whole = list(backbone.iterate(images()))
    for _ in range(2):  # the first run looks for the end
        part = list(backbone.iterate(images(), pooled=False))
        assert part[0].pooled.shape == (2, 0)
        for one, other in zip(whole[0].pyramid.levels, part[0].pyramid.levels, strict=True):
            np.testing.assert_array_equal(one, other)


def test_later_stages_are_not_run() -> None:
    backbone = ks.Backbone(levels=(1, 2), image_size=64)
    list(backbone.iterate(images(), pooled=False))
    network: Any = backbone._load()
    assert network.prefix.is_shorter
    runs = []
    network.module.blocks[6].register_forward_hook(lambda *_: runs.append(1))
    list(backbone.iterate(images(), pooled=False))
    assert runs == []
    list(backbone.iterate(images()))
    assert len(runs) == 2


class InPlace(nn.Module):
    """Changes its first map after it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, batch: torch.Tensor) -> list[torch.Tensor]:
        first = self.first(batch * 2)
        return [first, self.second(first)]


class Made(nn.Module):
    """Has a map that no module gives."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ReLU()

    def forward(self, batch: torch.Tensor) -> list[torch.Tensor]:
        return [self.first(batch) + 1, self.first(batch)]


@pytest.mark.parametrize(("module", "shorter"), [(InPlace(), True), (Made(), False)])
def test_maps_that_change_or_that_no_module_gives_are_right(
    module: nn.Module, shorter: bool
) -> None:
    prefix = Prefix(module, [0])
    batch = torch.tensor([[-1.0, 1.0]])
    for _ in range(2):
        assert torch.equal(prefix(batch)[0], module(batch)[0])
    assert prefix.is_shorter is shorter


def test_threads_do_not_end_each_other() -> None:
    backbone = ks.Backbone(levels=(1, 2), image_size=64)
    expected = backbone.extract(images())
    list(backbone.iterate(images(), pooled=False))
    wrong: list[str] = []

    def work(pooled: bool) -> None:
        for _ in range(10):
            for found in backbone.iterate(images(), pooled=pooled):
                same = all(map(np.array_equal, found.pyramid.levels, expected.pyramid.levels))
                if not same or (pooled and not np.array_equal(found.pooled, expected.pooled)):
                    wrong.append(f"pooled={pooled}")

    threads = [threading.Thread(target=work, args=(pooled,)) for pooled in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
