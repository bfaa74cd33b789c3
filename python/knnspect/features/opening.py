"""From the parameters of a backbone to its network, which is timm's or that of an ONNX file."""

from __future__ import annotations

import os

from knnspect.errors import ParameterError
from knnspect.features.constraints import are_names
from knnspect.features.network import Network, NetworkSettings
from knnspect.features.tiled import TiledNetwork, settings_of_tiles

__all__ = ["is_onnx_file", "opened"]


def is_onnx_file(name: object) -> bool:
    """Return whether the name of a network is the path of an ONNX file.

    >>> is_onnx_file("models/Network.ONNX"), is_onnx_file("resnet18")
    (True, False)
    """
    return isinstance(name, str) and name.lower().endswith(".onnx")


def opened(settings: NetworkSettings, weights: str | os.PathLike[str]) -> Network:
    """Return the network that parameters describe, ready to run.

    Raises
    ------
    ParameterError, DTypeError
        If a parameter lies outside its values, or is none of such a network.
    StoreError
        If file or weights cannot be read, or do not fit.
    MissingPackageError
        If what runs the network is not installed.
    """
    if settings.tile is not None:
        tiled = TiledNetwork(opened(settings_of_tiles(settings), weights), settings)
        tiled.warn()
        return tiled
    if is_onnx_file(settings.name):
        if weights != "auto":
            raise ParameterError(
                f"weights: those of {settings.name} are in it; expected 'auto', got {weights!r}",
                parameter="weights",
            )
        from knnspect.features.onnx.file_network import OnnxFileNetwork

        return OnnxFileNetwork(settings)
    _check_none_of_onnx(settings)
    from knnspect.features.torch.network import TorchNetwork
    from knnspect.features.torch.weights import resolve_weights

    architecture, file, source = resolve_weights(settings.name, weights)
    return TorchNetwork(settings, architecture, source, file)


def _check_none_of_onnx(settings: NetworkSettings) -> None:
    """Raise a ParameterError for what only ONNX files need."""
    if are_names(settings.levels):
        raise ParameterError(
            f"levels: names of tensors are for ONNX files; expected whole numbers for the network "
            f"{settings.name!r} of timm, got {', '.join(map(str, settings.levels))}",
            parameter="levels",
        )
    for name, default in (("mean", None), ("std", None), ("layout", None), ("color_order", "rgb")):
        if getattr(settings, name) != default:
            raise ParameterError(
                f"{name}: is for ONNX files, whose names end in .onnx; timm knows that of "
                f"{settings.name!r}",
                parameter=name,
            )
