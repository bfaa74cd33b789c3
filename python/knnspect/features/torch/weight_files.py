"""Files of weights: their tensors by name. Nothing else in a file is unpickled, or ever run."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from knnspect.errors import StoreError

__all__ = ["WeightsFile", "read_weights"]

#: Where training scripts put the weights beside other things; averaged weights come first, as in
#: timm.
_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
#: What wrappers of a whole network put before the names of its tensors, in either order.
_WRAPPERS = ("_orig_mod.", "module.", "_orig_mod.")


@dataclass(frozen=True)
class WeightsFile:
    """The tensors of a file.

    Parameters
    ----------
    path : Path
        The file.
    tensors : dict of str to tensor
        Those that can be weights: dense, on the CPU; halves as float32.
    others : dict of str to str
        What the others are, in words, by name.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    others: dict[str, str]


def read_weights(path: Path) -> WeightsFile:
    """Read a ``.safetensors``, ``.pth`` or ``.pt`` file.

    Raises
    ------
    StoreError
        If it cannot be read, or holds more than tensors.
    """
    contents = _read(path)
    for key in _KEYS:
        if isinstance(contents, dict) and isinstance(contents.get(key), dict):
            contents = contents[key]
    if not isinstance(contents, dict):
        raise StoreError(f"{path}: expected tensors by name, got {type(contents).__name__}")
    tensors: dict[str, torch.Tensor] = {}
    others: dict[str, str] = {}
    for name, value in contents.items():
        if not isinstance(name, str):
            raise StoreError(f"{path}: expected tensors by name, one has the name {name!r}")
        for wrapper in _WRAPPERS:
            name = name.removeprefix(wrapper)
        other = _other_kind(value)
        if other is None:
            # Position embeddings are resampled in the type in which they come.
            half = value.dtype in (torch.float16, torch.bfloat16)
            tensors[name] = value.detach().float() if half else value.detach()
        else:
            others[name] = other
    return WeightsFile(path, tensors, others)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kinds of tensors that are refused in words
            return torch.load(path, map_location="cpu", weights_only=True)
    except safetensors.SafetensorError as error:
        raise StoreError(f"{path}: not a readable safetensors file ({error})") from error
    except pickle.UnpicklingError as error:
        raise StoreError(
            f"{path}: not a weights file, or one that holds more than tensors; nothing else is "
            "ever unpickled"
        ) from error
    except Exception as error:  # on damaged files torch's unpickler raises many kinds
        raise StoreError(f"{path}: cannot be read as weights ({_first_line(error)})") from error


def _other_kind(value: Any) -> str | None:
    """Return what a value is if it cannot be a weight, else None."""
    if not isinstance(value, torch.Tensor):
        return f"no tensor but {type(value).__name__}"
    if value.is_nested:
        return "a nested tensor"
    if value.is_quantized:
        return "a quantized tensor"
    if value.layout != torch.strided:
        return f"a sparse tensor ({str(value.layout).removeprefix('torch.')})"
    if value.device.type != "cpu":
        return f"a tensor without values ({value.device.type})"
    halves_and_more = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if value.is_complex() or (value.is_floating_point() and value.dtype not in halves_and_more):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')}"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
