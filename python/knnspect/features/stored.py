"""A backbone as settings and tensors: what is in models, and in pickles."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from knnspect.data import ImageReader
from knnspect.errors import ParameterError, StoreError
from knnspect.features.constraints import Name
from knnspect.features.network import Network, NetworkSettings
from knnspect.features.tiled import TiledNetwork

if TYPE_CHECKING:
    from knnspect.features.onnx.file_network import OnnxFileNetwork
    from knnspect.features.onnx.network import OnnxNetwork
    from knnspect.features.torch.network import TorchNetwork

__all__ = [
    "DEFAULTS",
    "ONNX_FORMATS",
    "check_device",
    "digest_of",
    "exported",
    "pack",
    "quantized",
    "unpack",
]

#: Formats of networks that onnxruntime runs: those that were exported, and ONNX files of others.
ONNX_FORMATS = ("onnx", "onnx-file")
#: Settings that are left out where they have these values, as earlier versions did not know them.
#: `blocks` says how many a transformer has; without it, levels are those of its last three;
#: `quantized`, in which type an ONNX graph computes, where that is not float32.
DEFAULTS: dict[str, Any] = {
    "white": None,
    "unit": False,
    "norm": False,
    "pooled": "mean",
    "precision": "float32",
    "blocks": None,
    "quantized": None,
    "multiple": 1,
    "tile": None,
    "overlap": 64,
}


#: What only ONNX files of others have.
_OF_ONNX_FILES = ("mean", "std", "layout", "color_order")


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


def exported(
    settings: dict[str, Any], tensors: dict[str, NDArray[Any]]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return a backbone whose network is an ONNX graph, of one whose network is PyTorch's.

    Raises
    ------
    ParameterError
        If it cannot be exported, or its network is an ONNX graph already.
    MissingPackageError
        If PyTorch, timm, onnx or onnxruntime is not installed.
    """
    if "format" in settings:
        raise ParameterError("backbone: its network is an ONNX graph already")
    from knnspect.features.onnx import network as onnx
    from knnspect.features.torch.onnx_graph import onnx_graph

    settings = {name: value for name, value in settings.items() if name != "precision"}
    _, network = _unpack_torch(_of_tiles(settings), tensors, "cpu")
    names = [onnx.level_name(place) for place in range(len(network.levels))]
    graph = onnx_graph(network, onnx.IMAGES, names, onnx.POOLED_FEATURES)
    geometry = network.geometry
    about = {
        "format": "onnx",
        "interpolation": geometry.interpolation,
        "multiple": geometry.multiple,
    }
    return settings | about, onnx.tensors_of(graph)


def quantized(
    settings: dict[str, Any],
    tensors: dict[str, NDArray[Any]],
    images: Iterable[NDArray[np.float32]],
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return a backbone whose graph computes in int8, of one that `exported` returned.

    Parameters
    ----------
    settings, tensors
        Of the backbone.
    images : iterable of ndarray of float32, shape (1, 3, height, width)
        Prepared; they give the ranges of the numbers in the graph.

    Raises
    ------
    ParameterError
        If its network is no ONNX graph, computes in int8 already, or cannot be quantized.
    MissingPackageError
        If onnx or onnxruntime is not installed.
    """
    if settings.get("format") != "onnx":
        whose = "that of an ONNX file" if "format" in settings else "PyTorch's"
        raise ParameterError(f"backbone: expected one that was exported, its network is {whose}")
    if "quantized" in settings:
        raise ParameterError("backbone: its network computes in int8 already")
    from knnspect.features.onnx import network as onnx
    from knnspect.features.onnx import quantized as int8

    graph = int8.quantized(onnx.graph_of(tensors), images)
    return settings | {"quantized": "int8"}, onnx.tensors_of(graph)


def check_device(settings: object, device: str | None) -> None:
    """Raise a ParameterError or DTypeError if a stored backbone cannot run on a device."""
    if device is None:
        return
    if isinstance(settings, dict) and settings.get("format") in ONNX_FORMATS:
        from knnspect.features.onnx import session

        session.check_device(device)
    else:
        from knnspect.features.torch.network import check_device

        check_device(device)


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
        If what runs the network is not installed: PyTorch and timm, or onnxruntime.
    """
    check_device(settings, device)
    network: Network
    try:
        kind = settings.get("format", "torch")
        if kind not in _UNPACK:
            raise ValueError(
                f"format: expected {', '.join(_UNPACK)}, got {kind!r}, which a newer version may "
                "know"
            )
        given, network = _UNPACK[kind](_of_tiles(settings), tensors, device)
        if settings.get("tile") is not None:
            given = _given(settings, device) | {
                name: given[name] for name in _OF_ONNX_FILES if name in given
            }
            asked = NetworkSettings(**given, levels=settings["levels"])
            network = TiledNetwork(network, asked)
        white = ImageReader(settings.get("white")).white
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise StoreError(f"the stored backbone cannot be used: {reason}") from error
    return {**given, "levels": tuple(network.levels), "white": white}, network


def _of_tiles(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the network that sees the tiles; of others without tiles their own."""
    if settings.get("tile") is None:
        return settings
    return settings | {"resize": "own", "patch_size": 1, "unit": False, "tile": None}


def _unpack_torch(
    settings: dict[str, Any], tensors: dict[str, NDArray[Any]], device: str | None
) -> tuple[dict[str, Any], TorchNetwork]:
    from knnspect.features.torch.network import TorchNetwork
    from knnspect.features.torch.weights import as_tensor, check_name

    check_name(settings["name"])
    given = _given(settings, device)
    levels, counts_offered = tuple(settings["levels"]), settings.get("blocks") is None
    return given, TorchNetwork(
        NetworkSettings(**given, levels=levels, counts_offered=counts_offered),
        str(settings["architecture"]),
        str(settings["source"]),
        {name: as_tensor(array) for name, array in tensors.items()},
    )


def _unpack_onnx(
    settings: dict[str, Any], tensors: dict[str, NDArray[Any]], device: str | None
) -> tuple[dict[str, Any], OnnxNetwork]:
    from knnspect.features.onnx.network import OnnxNetwork

    Name().check("name", settings["name"])
    given = _given(settings, device)
    asked = NetworkSettings(**given, levels=tuple(settings["levels"]))
    return given, OnnxNetwork(asked, settings, tensors)


def _unpack_onnx_file(
    settings: dict[str, Any], tensors: dict[str, NDArray[Any]], device: str | None
) -> tuple[dict[str, Any], OnnxFileNetwork]:
    from knnspect.features.onnx.file_network import OnnxFileNetwork

    Name().check("name", settings["name"])
    given = _given(settings, device) | {
        "mean": tuple(settings["mean"]),
        "std": tuple(settings["std"]),
        "layout": settings["layout"],
        "color_order": settings["color_order"],
    }
    asked = NetworkSettings(**given, levels=tuple(settings["levels"]))
    return given, OnnxFileNetwork.from_stored(asked, settings, tensors)


#: By the format: networks of timm, those that were exported, and those of ONNX files.
_UNPACK: dict[str, Callable[..., tuple[dict[str, Any], Network]]] = {
    "torch": _unpack_torch,
    "onnx": _unpack_onnx,
    "onnx-file": _unpack_onnx_file,
}


def _given(settings: dict[str, Any], device: str | None) -> dict[str, Any]:
    """Return the parameters of a backbone, but for its levels and how it reads images."""
    known = DEFAULTS | settings
    return {
        "name": settings["name"],
        "image_size": tuple(settings["image_size"]),
        "resize": settings["resize"],
        "patch_size": settings["patch_size"],
        "device": device,
        "unit": known["unit"],
        "norm": known["norm"],
        "pooled": known["pooled"],
        "precision": known["precision"],
        "tile": known["tile"],
        "overlap": known["overlap"],
    }
