"""The blocks of a transformer: the map of any of them, and the class token."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

__all__ = ["Blocks"]


class Blocks:
    """Runs a transformer no farther than the blocks whose maps are needed.

    A map has the tokens of patches alone: class, register and distillation tokens, which belong to
    no place, are left out of it by timm.

    Parameters
    ----------
    network : FeatureGetterNet
        timm's network, which returns the maps of all of its blocks.
    norm : bool
        Whether maps and the class token go through the network's final norm.
    """

    def __init__(self, network: nn.Module, norm: bool) -> None:
        self._network: Any = network.model
        self._options: dict[str, Any] = {
            "norm": norm,
            "output_fmt": network.output_fmt,
            "intermediates_only": True,
            "stop_early": True,
        }

    @property
    def has_class_token(self) -> bool:
        """Whether the network has a class token in its blocks, first of all tokens."""
        options = inspect.signature(self._network.forward_intermediates).parameters
        return (
            "return_prefix_tokens" in options
            and getattr(self._network, "cls_token", None) is not None
            and getattr(self._network, "num_prefix_tokens", 0) > 0
        )

    def __call__(
        self, batch: torch.Tensor, wanted: list[int], class_token: bool
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Return the maps of some blocks, and the class token of the last of these if asked for."""
        if not class_token:
            maps = self._network.forward_intermediates(batch, indices=wanted, **self._options)
            return list(maps), None
        both = self._network.forward_intermediates(
            batch, indices=wanted, return_prefix_tokens=True, **self._options
        )
        return [map_ for map_, _ in both], both[-1][1][:, 0]
