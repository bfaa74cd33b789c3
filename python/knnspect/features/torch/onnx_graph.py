"""A network as an ONNX graph: all that lies between prepared images and features."""

from __future__ import annotations

import inspect
import io
import warnings
from typing import Any

import timm
import torch
from torch import nn

from knnspect.errors import ParameterError
from knnspect.extras import require
from knnspect.features.network import ANY_SIZE, in_words
from knnspect.features.torch.network import TorchNetwork
from knnspect.forked import fork_safe

__all__ = ["onnx_graph"]

#: The version of ONNX's operators that graphs use: all onnxruntimes of the last years have it.
_OPSET = 17


@fork_safe
def onnx_graph(network: TorchNetwork, image: str, levels: list[str], pooled: str) -> bytes:
    """Return the graph of a network, with batch normalization folded into its convolutions.

    Its input is one image, (1, 3, height, width) in [0, 1], of any size with ``resize="shorter"``
    or ``"own"`` and in tiles; its outputs are the levels of the network, (1, height, width,
    channels), and its pooled features, (1, n).

    Parameters
    ----------
    network : TorchNetwork
        On the CPU, in float32.
    image, levels, pooled : str, list of str, str
        What the input and the outputs are to be called.

    Raises
    ------
    ParameterError
        If PyTorch cannot export the network, or not for inputs of any size.
    MissingPackageError
        If onnx is not installed, with which PyTorch writes graphs.
    """
    require("onnx", for_="the export of a network")
    geometry = network.geometry
    options: dict[str, Any] = {"opset_version": _OPSET}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        options["dynamo"] = False  # the newer way needs further packages, and gives the same graph
    height, width = geometry.image_size
    if geometry.resize in ANY_SIZE:
        config = timm.get_pretrained_cfg(network.architecture)
        if config is not None and config.fixed_input_size:
            raise ParameterError(
                f"resize: {in_words(geometry.resize)} cannot be exported with "
                f"{network.architecture}: for each size of its input it resamples its position "
                "embeddings, by a filter that graphs do not have; expected "
                '"stretch", "crop" or "pad"',
                parameter="resize",
            )
        # Sides that differ, as no size is to be taken for another, or for a constant.
        width = height + geometry.multiple
        options["dynamic_axes"] = {
            image: {2: "height", 3: "width"},
            **{level: {1: f"{level}_height", 2: f"{level}_width"} for level in levels},
        }
    file: Any = io.BytesIO()
    example = torch.rand((1, 3, height, width), generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        # Of branches and numbers that are constant for one size of input, and of the older way.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                _Features(network).eval(),
                (example,),
                file,
                input_names=[image],
                output_names=[*levels, pooled],
                **options,
            )
        except (ParameterError, MemoryError):
            raise
        except Exception as error:  # PyTorch raises many kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ParameterError(
                f"name: PyTorch cannot export {network.architecture} as an ONNX graph ({reason})",
                parameter="name",
            ) from error
    graph: bytes = file.getvalue()
    return graph


class _Features(nn.Module):
    """What a network gives of an image, as `TorchNetwork.forward` does."""

    def __init__(self, network: TorchNetwork) -> None:
        super().__init__()
        self.module, self._network = network.module, network

    def forward(self, batch: torch.Tensor) -> list[torch.Tensor]:
        levels, pooled = self._network.features(batch, 1, True)
        assert pooled is not None  # noqa: S101 - they were asked for
        return [*(level.permute(0, 2, 3, 1) for level in levels), pooled]
