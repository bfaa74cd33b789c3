"""The networks of timm: which there are, how one is built, what its tensors and its maps are."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import timm
import torch
from timm.models._features import FeatureGetterNet
from torch import nn

from knnspect.errors import ParameterError

__all__ = [
    "Blueprint",
    "channels_first",
    "is_architecture",
    "needed_tensors",
    "offer_all_blocks",
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
    base = name.partition(".")[0]
    return timm.is_model(base) and (name == base or name in _tagged(base))


def similar_names(name: str, others: Collection[str]) -> list[str]:
    """Return up to three names, of timm or among others, that are spelled much like this one."""
    base = name.partition(".")[0]
    tagged = _tagged(base) if timm.is_model(base) else ()
    return difflib.get_close_matches(name, [*timm.list_models(), *others, *tagged], n=3)


@dataclass(frozen=True)
class Blueprint:
    """What network timm is to build: one that returns feature maps.

    Parameters
    ----------
    architecture : str
        timm's name of it.
    image_size : (int, int)
        Height and width of the input, for networks that fix it.
    norm : bool, default False
        The network's final norm is applied to its maps.
    any_size : bool, default False
        A network that fixes the size of its input takes others, too: it resamples its position
        embeddings whenever it runs.

    Examples
    --------
    >>> plan = Blueprint("resnet18", (224, 224)).outline()
    >>> plan.state_dict()["conv1.weight"].shape, plan.feature_info.reduction()
    (torch.Size([64, 3, 7, 7]), [2, 4, 8, 16, 32])
    """

    architecture: str
    image_size: tuple[int, int]
    norm: bool = False
    any_size: bool = False

    def create(self, **options: Any) -> nn.Module:
        """Build the network, with random weights unless the options for timm say otherwise.

        Raises
        ------
        ParameterError
            If it has no final norm, or takes images of one size only, but is asked for other.
        Exception
            Of many kinds, from timm.
        """
        if self.norm:
            if not _may_have_norm(replace(self, norm=False)):
                raise self._no_norm()
            options["feature_cls"] = partial(FeatureGetterNet, norm=True)
        network = self._create(features_only=True, **options)
        if self.norm and not _has_parameters(getattr(network.model, "norm", None)):
            raise self._no_norm()
        return network

    def outline(self, features_only: bool = True) -> nn.Module:
        """Build the network with names, shapes and types of its tensors, but without values.

        They take no memory, however large the network is.

        Parameters
        ----------
        features_only : bool, default True
            False: the whole network, with its classifier.
        """
        with torch.device("meta"):
            return self.create() if features_only else self._create()

    def _create(self, **options: Any) -> nn.Module:
        config = timm.get_pretrained_cfg(self.architecture, allow_unregistered=True)
        if config is not None and config.fixed_input_size:
            size = {"dynamic_img_size": True} if self.any_size else {"img_size": self.image_size}
            options |= size
        try:
            network: nn.Module = timm.create_model(self.architecture, **options)
        except TypeError as error:
            if "dynamic_img_size" in options and "dynamic_img_size" in str(error):
                raise ParameterError(
                    f'resize: "shorter", "own" and tiles need a network that takes inputs of any '
                    f"size, {self.architecture} takes one size only"
                ) from error
            raise
        return network

    def _no_norm(self) -> ParameterError:
        return ParameterError(f"norm: {self.architecture} has no final norm for its maps")


@lru_cache(maxsize=16)
def _may_have_norm(blueprint: Blueprint) -> bool:
    """Return whether timm takes the maps from a method of the network, which can apply a norm."""
    return isinstance(blueprint.outline(), FeatureGetterNet)


def offer_all_blocks(network: nn.Module) -> list[int] | None:
    """Have a transformer return the maps of all of its blocks, of which timm offers the last ones.

    Parameters
    ----------
    network : torch.nn.Module
        As `Blueprint.create` returns it.

    Returns
    -------
    list of int or None
        The blocks that it offered before; None, and nothing is changed, for networks whose maps are
        those of stages.
    """
    if not isinstance(network, FeatureGetterNet):
        return None
    getter: Any = network
    info = getter.feature_info
    n_blocks = len(info.info)
    offered = [n_blocks + block if block < 0 else block for block in getter.out_indices]
    if len(offered) == n_blocks or len({block["reduction"] for block in info.info}) > 1:
        return None
    getter.out_indices = list(range(n_blocks))
    getter.feature_info = info.from_other(tuple(range(n_blocks)))
    return offered


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
    names: Collection[str] = timm.models.get_arch_pretrained_cfgs(base)
    return names


def _has_parameters(module: nn.Module | None) -> bool:
    return module is not None and next(module.parameters(), None) is not None
