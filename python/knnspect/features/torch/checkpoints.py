"""Tensors under the names that timm and hubs publish, loaded as timm itself loads them.

Published files name the tensors of a whole network, in the way of those who trained it; some fit
another image size. timm has a filter for each family of networks, which renames them and resamples
position embeddings; it applies the filter to pretrained weights. So the tensors are given to timm
as pretrained weights, and it is noted which tensors of the network are filled from them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any

import timm
import torch
from torch import nn

from knnspect.errors import StoreError
from knnspect.features.torch.architectures import Blueprint, needed_tensors
from knnspect.features.torch.weight_files import WeightsFile

__all__ = ["load_published"]

#: The tensors that were filled from a file, with what they were filled from, by their `id`.
_Filled = dict[int, tuple[torch.Tensor, torch.Tensor]]
_filled: ContextVar[_Filled] = ContextVar("_filled")


def load_published(blueprint: Blueprint, file: WeightsFile, own: Iterable[str]) -> nn.Module:
    """Build a network that returns feature maps, with the weights of a file.

    Parameters
    ----------
    blueprint : Blueprint
        The network.
    file : WeightsFile
        Its tensors, which may be named as in the whole network, as timm's filter expects them, as
        in a network that returns feature maps, or with one more word before all names. What the
        network does not have is passed over.
    own : iterable of str
        How a network that returns feature maps names its tensors.

    Raises
    ------
    StoreError
        If a tensor is missing, or does not fit.
    """
    whole = blueprint.outline(features_only=False).state_dict()
    published = _published_names(own, whole)
    tensors = file.tensors
    forms = [tensors, {published.get(name, name): tensors[name] for name in tensors}]
    if len({name.partition(".")[0] for name in tensors}) == 1:
        forms.append({name.partition(".")[2]: tensors[name] for name in tensors})
    problem = "it has no tensors"
    for place, form in enumerate(forms):
        if form and (place == 0 or form.keys() != tensors.keys()):
            try:
                network, filled = _load(blueprint, form)
            except Exception as error:  # timm's filters raise many kinds on what is not for them
                problem = _misfit(error, form, whole) or (
                    f"it cannot be loaded into {blueprint.architecture} ({_first_line(error)})"
                )
                continue
            missing, wrong = _unfilled(network, filled)
            if wrong:
                name, dtype = next(iter(wrong.items()))
                name = published.get(name, name)
                raise StoreError(f"{file.path}: {name} has {dtype}, expected real numbers")
            if not missing:
                return network
            problem = _of_missing([published.get(name, name) for name in missing])
    for name, kind in file.others.items():
        if name in published or name in whole:
            problem = f"{name} is {kind}; expected a dense tensor of real numbers"
            break
    raise StoreError(f"{file.path}: {problem}")


def _load(blueprint: Blueprint, tensors: Mapping[str, torch.Tensor]) -> tuple[nn.Module, _Filled]:
    """Have timm build a network and load tensors; also return what was filled from them."""
    config = timm.get_pretrained_cfg(blueprint.architecture) or timm.models.PretrainedCfg()
    given = {name: tensor.as_subclass(_FileTensor) for name, tensor in tensors.items()}
    overlay: dict[str, Any] = {"state_dict": given, "classifier": config.classifier or "head"}
    options: dict[str, Any] = {}
    if not config.num_classes:
        # Weights of as many classes as the network has, here none, would have to be exactly the
        # network's. A classifier in the file is to be passed over.
        overlay["num_classes"], options["num_classes"] = 1, 0
    filled: _Filled = {}
    token = _filled.set(filled)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PyTorch on how timm resamples
            network = blueprint.create(pretrained=True, pretrained_cfg_overlay=overlay, **options)
    finally:
        _filled.reset(token)
    for module in network.modules():  # they keep timm's settings, in which the tensors are now
        for attribute in ("pretrained_cfg", "default_cfg"):
            settings = getattr(module, attribute, None)
            if isinstance(settings, dict):
                settings.pop("state_dict", None)
    return network, filled


class _FileTensor(torch.Tensor):
    """A tensor of a file. What is made of it is one, too; what it is copied into is noted."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.copy_:
            _filled.get()[id(args[0])] = args[0], args[1]
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> _FileTensor:
        """Return itself: timm copies its settings, in which the tensors are, several times."""
        return self


def _unfilled(network: nn.Module, filled: _Filled) -> tuple[list[str], dict[str, torch.dtype]]:
    """Return which needed tensors were not filled, and which were with other than real numbers."""
    state = network.state_dict(keep_vars=True)
    missing, wrong = [], {}
    for name in needed_tensors(state):
        tensor = state[name]
        if id(tensor) not in filled:
            missing.append(name)
        elif tensor.is_floating_point() > filled[id(tensor)][1].is_floating_point():
            wrong[name] = filled[id(tensor)][1].dtype
    return missing, wrong


def _published_names(own: Iterable[str], whole: Iterable[str]) -> dict[str, str]:
    """Return the names in the whole network of the tensors of one that returns feature maps.

    timm writes ``stages_0.conv.weight`` or ``model.stages.0.conv.weight`` there.
    """
    by_key = {name.replace(".", "_"): name for name in whole}
    names = {}
    for name in own:
        inner = name.removeprefix("model.").removeprefix("body.")
        for form in (name, inner):
            if form.replace(".", "_") in by_key:
                names[name] = by_key[form.replace(".", "_")]
    return names


def _misfit(
    error: Exception, tensors: Mapping[str, torch.Tensor], whole: Mapping[str, torch.Tensor]
) -> str | None:
    """Return which tensor has another shape than it should, if that is what is wrong."""
    said = re.search(
        r"size mismatch for (\S+): .*? torch\.Size\(\[(.*?)\]\) .*? torch\.Size\(\[(.*?)\]\)",
        str(error),
    )
    if said:
        name, found, expected = said.groups()
        return f"{name} should have shape ({expected}), it has ({found})"
    for name in tensors:
        if name in whole and tensors[name].shape != whole[name].shape:
            found, expected = tuple(tensors[name].shape), tuple(whole[name].shape)
            return f"{name} should have shape {expected}, it has {found}"
    return None


def _of_missing(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"the weights of {', '.join(names[:3])}{more} are missing"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
