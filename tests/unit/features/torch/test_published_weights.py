"""Files as timm and hubs publish them load as in timm: names of the whole network, any size."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from networks import random_network, save

import knnspect as ks
from knnspect.errors import StoreError
from knnspect.features import Backbone

pytestmark = pytest.mark.usefixtures("one_thread")

#: Those that name their tensors otherwise once they return feature maps, in each of timm's ways.
RENAMED = {
    "convnext_atto": (0, 1, 2),
    "pit_ti_224": (1,),
    "swin_tiny_patch4_window7_224": (0, 1, 2),
    "vit_tiny_patch16_224": (9, 10, 11),
}
#: The size of the images, which is not always the one that timm has position embeddings or windows
#: for by default.
SIZES = {
    "convnext_atto": 64,
    "pit_ti_224": 224,
    "resnet18": 64,
    "swin_tiny_patch4_window7_224": 96,
    "vit_tiny_patch16_224": 80,
}


def image(size: int) -> Any:
    return np.random.default_rng(0).integers(0, 255, (size, size, 3)).astype(np.uint8)


def maps_of_timm(network: Any, size: int) -> list[Any]:
    """Return the maps that timm's own network gives for the image, with the channels last."""
    network = network.eval().to(memory_format=torch.channels_last)
    config = network.pretrained_cfg
    batch = torch.from_numpy(image(size)).permute(2, 0, 1)[None].to(torch.float32) / 255
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    batch = ((batch - mean) / std).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        maps = network(batch)
    last = getattr(network, "output_fmt", "NCHW") == "NHWC"
    return [(map_ if last else map_.permute(0, 2, 3, 1)).numpy() for map_ in maps]


def sized(name: str, size: int) -> dict[str, Any]:
    config: Any = timm.get_pretrained_cfg(name)
    return {"img_size": size} if config.fixed_input_size else {}


def extract(name: str, size: int, weights: Path, levels: tuple[int, ...]) -> list[Any]:
    backbone = Backbone(name, levels=levels, image_size=size, weights=weights, device="cpu")
    return list(backbone.extract([image(size)], n_workers=0).pyramid.levels)


@pytest.mark.parametrize("name", RENAMED)
def test_a_file_of_a_network_that_returns_maps_still_loads(name: str, tmp_path: Path) -> None:
    size = SIZES[name]
    network = random_network(name, features_only=True, **sized(name, size))
    file = save(network.state_dict(), tmp_path / "maps.safetensors")
    expected = maps_of_timm(network, size)
    # Of a transformer timm gives the last three of twelve blocks.
    first = 9 if name.startswith("vit") else 0
    for level, found in zip(RENAMED[name], extract(name, size, file, RENAMED[name]), strict=True):
        assert np.array_equal(found, expected[level - first])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_a_file_of_a_network_that_returns_maps_loads_at_another_size(
    name: str, tmp_path: Path
) -> None:
    whole = random_network(name)
    published = save(whole.state_dict(), tmp_path / "whole.safetensors")
    maps: Any = timm.create_model(
        name, features_only=True, pretrained=True, pretrained_cfg_overlay={"file": str(published)}
    )
    file = save(maps.state_dict(), tmp_path / "maps.safetensors")
    size = SIZES[name]
    found, expected = (extract(name, size, weights, (0, 2)) for weights in (file, published))
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a, b)


WRAPPINGS: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "module": lambda t: {f"module.{name}": tensor for name, tensor in t.items()},
    "compiled": lambda t: {"model": {f"_orig_mod.module.{name}": x for name, x in t.items()}},
    "lightning": lambda t: {
        "state_dict": {f"model.{name}": x for name, x in t.items()},
        "epoch": 3,
    },
    "averaged": lambda t: {
        "state_dict": {name: torch.zeros_like(tensor) for name, tensor in t.items()},
        "state_dict_ema": t,
    },
    "backbone": lambda t: {"model": {f"backbone.{name}": x for name, x in t.items()}},
    "other head": lambda t: {**t, "head.fc.weight": torch.zeros(7, 5), "head.other": torch.ones(2)},
    "no head": lambda t: {name: x for name, x in t.items() if not name.startswith("head.fc")},
    "double": lambda t: {name: tensor.double() for name, tensor in t.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_the_wrappings_in_which_hubs_publish_are_taken_off(wrapping: str, tmp_path: Path) -> None:
    tensors = random_network("test_convnext").state_dict()
    plain = extract("test_convnext", 32, save(tensors, tmp_path / "w.safetensors"), (0, 3))
    torch.save(WRAPPINGS[wrapping](tensors), tmp_path / "w.pth")
    for a, b in zip(extract("test_convnext", 32, tmp_path / "w.pth", (0, 3)), plain, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_halves_are_converted(dtype: torch.dtype, ending: str, tmp_path: Path) -> None:
    tensors = random_network("test_vit").state_dict()
    halves = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    file = tmp_path / f"half.{ending}"
    torch.save(halves, file) if ending == "pth" else save(halves, file)
    back = {name: tensor.float() for name, tensor in halves.items()}
    found = extract("test_vit", 96, file, (0,))
    expected = extract("test_vit", 96, save(back, tmp_path / "w.safetensors"), (0,))
    assert np.array_equal(found[0], expected[0])


@pytest.mark.parametrize(
    ("name", "dropped", "said"),
    [
        ("convnext_atto", ["stages.0.blocks.0.norm.weight"], r"stages\.0\.blocks\.0\.norm\.weight"),
        ("vit_tiny_patch16_224", ["cls_token"], "cls_token"),
        ("resnet18", ["layer4.1.bn2.running_var"], r"layer4\.1\.bn2\.running_var"),
    ],
)
def test_a_missing_tensor_is_named_as_in_the_whole_network(
    name: str, dropped: list[str], said: str, tmp_path: Path
) -> None:
    tensors = {n: t for n, t in random_network(name).state_dict().items() if n not in dropped}
    file = save(tensors, tmp_path / "part.safetensors")
    with pytest.raises(StoreError, match=rf"part\.safetensors: the weights of .*{said}.* missing"):
        extract(name, SIZES[name], file, (0,))


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    tensors = random_network("convnext_atto").state_dict()
    tensors["stages.1.blocks.0.norm.bias"] = torch.zeros(3)
    file = save(tensors, tmp_path / "w.safetensors")
    with pytest.raises(StoreError, match=r"w\.safetensors: stages\S*norm\.bias .*\(80\).*\(3\)"):
        extract("convnext_atto", 32, file, (0,))


def test_weights_of_another_family_are_refused(tmp_path: Path) -> None:
    file = save(random_network("resnet18").state_dict(), tmp_path / "w.safetensors")
    for name in ("convnext_atto", "vit_tiny_patch16_224"):
        with pytest.raises(StoreError, match=r"w\.safetensors: "):
            extract(name, SIZES[name], file, (0,))


def test_the_network_does_not_keep_the_tensors_of_the_file(tmp_path: Path) -> None:
    file = save(random_network("convnext_atto").state_dict(), tmp_path / "w.safetensors")
    backbone = Backbone("convnext_atto", levels=(0,), image_size=32, weights=file, device="cpu")
    network: Any = backbone._load()
    for module in network.module.modules():
        assert "state_dict" not in (getattr(module, "pretrained_cfg", None) or {})
        assert "state_dict" not in (getattr(module, "default_cfg", None) or {})


@pytest.mark.parametrize("name", RENAMED)
def test_a_model_keeps_its_backbone_to_the_bit(name: str, tmp_path: Path) -> None:
    size = SIZES[name]
    file = tmp_path / "model.safetensors"
    maps = random_network(name, features_only=True, **sized(name, size))
    save(maps.state_dict(), file)
    levels = RENAMED[name][:2]
    backbone = Backbone(name, levels=levels, image_size=size, weights=file, device="cpu")
    images = [np.roll(image(size), shift, 0) for shift in (0, 9, 30)]
    spade = ks.Spade(backbone, image_neighbors=2).fit(images[:2])
    spade.save(tmp_path / "model.ks")
    file.unlink()
    (expected,), (found,) = (
        spade.predict(images[2:]),
        ks.load(tmp_path / "model.ks").predict(images[2:]),
    )
    assert found.score == expected.score
    assert np.array_equal(found.map, expected.map)
    again = pickle.loads(pickle.dumps(backbone))
    assert np.array_equal(again.extract(images).pooled, backbone.extract(images).pooled)
