"""The networks of timm: which there are, how one is built, what its tensors and its maps are."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "channels_first",
    "create_network",
    "is_architecture",
    "needed_tensors",
    "outline",
    "similar_names",
]


def is_architecture(name: str) -> bool:
    """Return whether timm has a network of exactly this name, with or without one of its tags.

    Names of another kind, such as ``hf-hub:…`` or ``local-dir:…``, with which timm reads its
    settings from elsewhere, are none.

    >>> is_architecture("resnet18"), is_architecture("resnet18.a1_in1k")
    (True, True)
    >>> is_architecture("hf-hub:timm/resnet18.a1_in1k"), is_architecture("resnet18.no_such_tag")
    (False, False)
    """
    import timm

    base = name.partition(".")[0]
    return timm.is_model(base) and (name == base or name in _tagged(base))


def similar_names(name: str, others: Collection[str]) -> list[str]:
    """Return up to three names, of timm or among others, that are spelled much like this one."""
    import timm

    base = name.partition(".")[0]
    tagged = _tagged(base) if timm.is_model(base) else ()
    return difflib.get_close_matches(name, [*timm.list_models(), *others, *tagged], n=3)


def create_network(architecture: str, image_size: tuple[int, int], **options: Any) -> nn.Module:
    """Build a network of timm, with random weights unless the options say otherwise.

    Parameters
    ----------
    architecture : str
        Its name.
    image_size : (int, int)
        Height and width of the input, for networks that fix it.
    **options
        For ``timm.create_model``; ``features_only=True`` for the feature maps of all stages.
    """
    import timm

    config = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    if config is not None and config.fixed_input_size:
        options["img_size"] = image_size
    network: nn.Module = timm.create_model(architecture, **options)
    return network


def outline(
    architecture: str, image_size: tuple[int, int], features_only: bool = True
) -> nn.Module:
    """Build a network whose tensors have names, shapes and types, but no values.

    They take no memory, however large the network is.

    >>> outline("resnet18", (224, 224)).state_dict()["conv1.weight"].shape
    torch.Size([64, 3, 7, 7])
    """
    import torch

    options = {"features_only": True} if features_only else {}
    with torch.device("meta"):
        return create_network(architecture, image_size, **options)


def needed_tensors(tensors: Collection[str]) -> list[str]:
    """Return the names of those tensors of a network that matter when it is frozen."""
    return [name for name in tensors if not name.endswith("num_batches_tracked")]


def channels_first(feature: torch.Tensor, layout: str) -> torch.Tensor:
    """Return a feature map as (n_images, channels, height, width).

    Parameters
    ----------
    feature : tensor of four dimensions
        A map of a network.
    layout : {"NCHW", "NHWC"}
        What the network says of its maps.
    """
    return feature.permute(0, 3, 1, 2) if layout == "NHWC" else feature


def _tagged(base: str) -> Collection[str]:
    """Return the names with tags, which stand for pretrained weights, of a network."""
    import timm

    names: Collection[str] = timm.models.get_arch_pretrained_cfgs(base)
    return names
