"""Maps are timm's own to the bit: stages and blocks, at several sizes, of files with its names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from networks import random_network, save

from knnspect.errors import ParameterError
from knnspect.features import Backbone

pytestmark = pytest.mark.usefixtures("one_thread")

#: Networks whose levels are stages, and sizes that timm was not trained with.
STAGES = {
    "convnext_atto": [(64, 64), (64, 96)],
    "efficientnet_lite0": [(64, 64), (64, 96)],
    "mambaout_femto": [(64, 64), (64, 96)],
    "mobilenetv2_100": [(64, 64), (64, 96)],
    "mobilenetv3_small_050": [(64, 64), (64, 96)],
    "mobilenetv4_conv_small_050": [(64, 64), (64, 96)],
    "regnetx_002": [(64, 64), (96, 64)],
    "resnet18": [(64, 64), (64, 96)],
    "resnetv2_18": [(64, 64), (64, 96)],
    "swin_tiny_patch4_window7_224": [(96, 96), (64, 96)],
    "coatnet_nano_rw_224": [(96, 96)],
    "densenet121": [(64, 64)],
    "edgenext_xx_small": [(64, 64)],
    "hrnet_w18_small": [(64, 64)],
    "mobilevit_xxs": [(64, 64)],
    "swinv2_tiny_window8_256": [(96, 96)],
}
#: Of these timm takes the maps by hooks. They fit no pyramid together.
HOOKED = {"legacy_xception": [(64, 64)], "pit_ti_224": [(224, 224)]}
#: Transformers whose levels are blocks; most have tokens that are of no place: class, distillation
#: and register tokens, in several combinations.
BLOCKS = {
    "deit_tiny_distilled_patch16_224": [(64, 64), (48, 80)],
    "eva02_tiny_patch14_224": [(56, 56), (42, 70)],
    "vit_small_patch14_reg4_dinov2": [(56, 56), (42, 70)],
    "vit_small_patch16_dinov3": [(64, 64), (48, 80)],
    "vit_tiny_patch16_224": [(64, 64), (48, 80)],
    "xcit_nano_12_p16_224": [(64, 64), (48, 80)],
    "test_vit3": [(64, 64), (48, 80)],
}
#: Of these the last norm comes after pooling, so that there is none for maps.
WITHOUT_NORM = {"eva02_tiny_patch14_224"}


def published(name: str, folder: Path) -> Path:
    """Save a network under the names of its tensors."""
    return save(random_network(name).state_dict(), folder / f"{name}.safetensors")


def image(size: tuple[int, int]) -> Any:
    return np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)


def timms(name: str, size: tuple[int, int], file: Path, **options: Any) -> Any:
    """Return the network as timm loads the file for images of a size."""
    config: Any = timm.get_pretrained_cfg(name)
    if config.fixed_input_size:
        options["img_size"] = size
    network = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, **options
    )
    return network.eval().to(memory_format=torch.channels_last)


def prepared(network: Any, size: tuple[int, int]) -> torch.Tensor:
    config = network.pretrained_cfg
    batch = torch.from_numpy(image(size)).permute(2, 0, 1)[None].to(torch.float32) / 255
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return ((batch - mean) / std).contiguous(memory_format=torch.channels_last)


def assert_equal(found: Any, expected: list[Any], where: str) -> None:
    assert len(found) == len(expected)
    for place, (level, wanted) in enumerate(zip(found, expected, strict=True)):
        assert np.isfinite(level).all()
        assert np.array_equal(level, wanted), f"{where}: level {place}"


@pytest.mark.filterwarnings("ignore::UserWarning")  # of timm, which resamples in the test itself
@pytest.mark.parametrize("name", STAGES | HOOKED)
def test_stages_are_those_of_timm_to_the_bit(name: str, tmp_path: Path) -> None:
    file = published(name, tmp_path)
    for size in (STAGES | HOOKED)[name]:
        network = timms(name, size, file, features_only=True)
        with torch.inference_mode():
            maps = network(prepared(network, size))
        last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        expected = [(map_ if last else map_.permute(0, 2, 3, 1)).numpy() for map_ in maps]
        levels = [1] if name in HOOKED else list(range(len(expected)))
        backbone = Backbone(name, levels=levels, image_size=size, weights=file, device="cpu")
        found = backbone.extract([image(size)], n_workers=0)
        assert_equal(found.pyramid.levels, [expected[level] for level in levels], f"{size}")
        mean = expected[-1].astype(np.float64).mean((1, 2))
        np.testing.assert_allclose(found.pooled, mean, rtol=1e-4, atol=1e-5 * np.abs(mean).max())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_those_of_timm_to_the_bit(name: str, tmp_path: Path) -> None:
    file = published(name, tmp_path)
    for size, norm in zip(BLOCKS[name], (False, name not in WITHOUT_NORM), strict=True):
        network = timms(name, size, file)
        with torch.inference_mode():
            maps = network.forward_intermediates(
                prepared(network, size), norm=norm, intermediates_only=True
            )
        patch = network.feature_info[0]["reduction"]
        expected = [map_.permute(0, 2, 3, 1).numpy() for map_ in maps]
        assert {level.shape[1:3] for level in expected} == {(size[0] // patch, size[1] // patch)}
        backbone = Backbone(
            name, levels=range(len(maps)), image_size=size, weights=file, norm=norm, device="cpu"
        )
        found = backbone.extract([image(size)], n_workers=0)
        assert_equal(found.pyramid.levels, expected, f"{size}, norm={norm}")
    # Some of them, one counted from the end, and without running those behind them.
    settings, tensors = backbone.state()
    some = Backbone.from_state({**settings, "levels": [2, -3]}, tensors, "cpu")
    (part,) = some.iterate([image(size)], n_workers=0, pooled=False)
    assert_equal(part.pyramid.levels, [expected[2], expected[-3]], "some")


@pytest.mark.parametrize(
    ("name", "norm"),
    [("test_vit", False), ("test_vit", True), ("deit_tiny_distilled_patch16_224", True)],
)
def test_pooled_features_are_what_they_are_said_to_be(
    name: str, norm: bool, tmp_path: Path
) -> None:
    size = (48, 80)
    torch.manual_seed(0)
    network: Any = (
        timm.create_model(name, img_size=size).eval().to(memory_format=torch.channels_last)
    )
    file = tmp_path / "w.safetensors"
    save(network.state_dict(), file)
    with torch.inference_mode():
        ((map_, tokens),) = network.forward_intermediates(
            prepared(network, size),
            indices=1,
            norm=norm,
            return_prefix_tokens=True,
            intermediates_only=True,
        )
    assert tokens.shape[1] == network.num_prefix_tokens > 0
    expected = {
        "mean": map_.mean((2, 3)).numpy(),
        "max": map_.amax((2, 3)).numpy(),
        "cls": tokens[:, 0].numpy(),
    }
    for pooled, wanted in expected.items():
        options: Any = {"norm": norm, "pooled": pooled, "device": "cpu"}
        backbone = Backbone(name, (1,), size, file, **options)
        found = backbone.extract([image(size)], n_workers=0).pooled
        spread = 1e-5 * np.abs(wanted).max() if pooled == "mean" else 0
        np.testing.assert_allclose(found, wanted, rtol=0, atol=spread)


def test_a_network_without_a_class_token_says_so(tmp_path: Path) -> None:
    for name in ("test_vit3", "test_efficientnet"):
        weights = tmp_path / f"{name}.safetensors"
        save(timm.create_model(name).state_dict(), weights)
        backbone = Backbone(name, (1,), 64, weights, pooled="cls", device="cpu")
        with pytest.raises(ParameterError, match=f'pooled: "cls" needs a class token.*{name}'):
            _ = backbone.source


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("test_vit", {"levels": (0, 6)}, "levels: test_vit has the blocks 0 to 5, got 6"),
        ("test_vit", {"levels": (-7,)}, "levels: test_vit has the blocks 0 to 5, got -7"),
        (
            "test_vit",
            {"image_size": (64, 90)},
            "multiples of 16, the patch of test_vit, got 64 x 90; the nearest are 64 x 80 and 64 x",
        ),
        ("test_vit", {"image_size": 9}, "got 9 x 9; the nearest are 16 x 16$"),
        ("test_vit2", {"norm": True}, "norm: test_vit2 has no final norm for its maps"),
        ("test_convnext", {"norm": True}, "norm: test_convnext has no final norm for its maps"),
        ("test_vit_relpos", {"resize": "shorter"}, "resize: .*test_vit_relpos takes one size only"),
    ],
)
def test_what_a_network_does_not_have_is_named(
    name: str, parameters: dict[str, Any], message: str, tmp_path: Path
) -> None:
    weights = tmp_path / "w.safetensors"
    save(timm.create_model(name).state_dict(), weights)
    given = {"levels": (0, 1), "image_size": 64, **parameters}
    with pytest.raises(ParameterError, match=message):
        _ = Backbone(name, weights=weights, device="cpu", **given).source


def test_a_model_of_before_has_the_last_blocks_that_it_had(tmp_path: Path) -> None:
    size = (64, 64)
    torch.manual_seed(0)
    network: Any = timm.create_model("test_vit", features_only=True, img_size=size)
    tensors = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
    settings = {  # as earlier versions wrote them
        "name": "test_vit",
        "architecture": "test_vit",
        "levels": [0, 2],
        "image_size": list(size),
        "resize": "stretch",
        "patch_size": 1,
        "source": "file w.safetensors",
    }
    backbone = Backbone.from_state(settings, tensors, "cpu")
    with torch.inference_mode():
        maps = network.eval()(prepared(network, size))
    found = backbone.extract([image(size)], n_workers=0)
    for level, wanted in zip(found.pyramid.levels, (maps[0], maps[2]), strict=True):
        np.testing.assert_allclose(level, wanted.permute(0, 2, 3, 1).numpy(), rtol=0, atol=1e-6)
    assert backbone.levels == (3, 5)
    again = Backbone.from_state(*backbone.state(), "cpu")
    assert again.levels == (3, 5)
    assert np.array_equal(again.extract([image(size)], n_workers=0).pooled, found.pooled)


def test_settings_that_have_their_defaults_are_left_out_of_models() -> None:
    settings, _ = Backbone(image_size=64, device="cpu").state()
    assert set(settings) == {
        *("name", "architecture", "levels", "image_size", "resize", "patch_size", "source")
    }


def test_half_precision_is_for_cuda_which_is_said() -> None:
    images = [image((64, 64))]
    expected = Backbone(image_size=64, device="cpu").extract(images)
    half = Backbone(image_size=64, precision="float16", device="cpu")
    with pytest.warns(UserWarning, match='precision: "float16" is for CUDA; on cpu') as caught:
        found = half.extract(images)
    half.extract(images)  # said once: warnings are errors here
    assert len(caught) == 1
    assert np.array_equal(found.pooled, expected.pooled)
    assert half.state()[0]["precision"] == "float16"
