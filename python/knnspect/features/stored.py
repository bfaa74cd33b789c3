"""A backbone as settings and tensors: what is in models, and in pickles."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.data import ImageReader
from knnspect.errors import StoreError
from knnspect.features.network import Network, NetworkSettings

__all__ = ["DEFAULTS", "digest_of", "pack", "unpack"]

#: Settings that are left out where they have these values, as earlier versions did not know them.
#: `blocks` says how many a transformer has; without it, levels are those of its last three.
DEFAULTS: dict[str, Any] = {
    "white": None,
    "unit": False,
    "norm": False,
    "pooled": "mean",
    "precision": "float32",
    "blocks": None,
}


def pack(
    name: str, network: Network, white: int | None
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the settings of a backbone, JSON-compatible, and its tensors."""
    settings = {"name": name, **network.settings(), "white": white}
    kept = {
        key: value
        for key, value in settings.items()
        if key not in DEFAULTS or value != DEFAULTS[key]
    }
    return kept, network.tensors()


def digest_of(settings: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Return the settings with a SHA-256 of the tensors, wherever these came from."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    kept = {name: value for name, value in settings.items() if name != "source"}
    return {**kept, "weights": digest.hexdigest()}


def unpack(
    settings: dict[str, Any], tensors: dict[str, NDArray[Any]], device: str | None
) -> tuple[dict[str, Any], Network]:
    """Return the parameters of a backbone and its network; the opposite of `pack`.

    Raises
    ------
    StoreError
        If the settings are not those of a backbone, or the tensors not those of its network.
    ParameterError, DTypeError
        If the device cannot be used.
    MissingPackageError
        If PyTorch or timm is not installed.
    """
    from knnspect.features.torch.network import TorchNetwork, check_device
    from knnspect.features.torch.weights import as_tensor, check_name

    check_device(device)
    try:
        check_name(settings["name"])
        known = DEFAULTS | settings
        given = {
            "name": settings["name"],
            "image_size": tuple(settings["image_size"]),
            "resize": settings["resize"],
            "patch_size": settings["patch_size"],
            "device": device,
            "unit": known["unit"],
            "norm": known["norm"],
            "pooled": known["pooled"],
            "precision": known["precision"],
        }
        white = ImageReader(known["white"]).white
        levels = tuple(settings["levels"])
        network = TorchNetwork(
            NetworkSettings(**given, levels=levels, counts_offered=known["blocks"] is None),
            str(settings["architecture"]),
            str(settings["source"]),
            {name: as_tensor(array) for name, array in tensors.items()},
        )
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise StoreError(f"the stored backbone cannot be used: {reason}") from error
    return {**given, "levels": tuple(network.levels), "white": white}, network
