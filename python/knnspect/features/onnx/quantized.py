"""A graph whose network computes in integers of 8 bits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.errors import KnnspectError, ParameterError
from knnspect.extras import require
from knnspect.features.onnx.network import IMAGES

__all__ = ["quantized"]

#: Convolutions that go on in float32, from the image on. They have few channels, each of which
#: counts: were they int8, too, features of EfficientNet-Lite0 would differ by twice as much from
#: those in float32, and the network would hardly be faster.
_N_FLOAT = 3


def quantized(graph: bytes, images: Iterable[NDArray[np.float32]]) -> bytes:
    """Return a graph with its weights, and the numbers between its nodes, in int8.

    Each channel of the weights has a scale of its own; of the numbers between nodes each tensor has
    a range, the one that images give; what lies beyond it is cut off. Weights have 7 bits, so that
    processors without instructions for int8 (VNNI) never overflow, and all give the same.

    Parameters
    ----------
    graph : bytes
        Whose input is one image, and is called `IMAGES`.
    images : iterable of ndarray of float32, shape (1, 3, height, width)
        In [0, 1], such as will come.

    Raises
    ------
    MissingPackageError
        If onnx is not installed, by which graphs are written.
    ParameterError
        If onnxruntime cannot quantize the graph.
    """
    require("onnx", for_="the quantization of a network")
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        given, prepared, result = (Path(folder) / f"{name}.onnx" for name in "abc")
        given.write_bytes(graph)
        try:
            quant_pre_process(given, prepared, skip_symbolic_shape=True)
            in_float = _in_float(onnx.load(prepared).graph)
            quantization.quantize_static(
                prepared,
                result,
                _Inputs(images),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
                nodes_to_exclude=in_float,
            )
        except (KnnspectError, MemoryError, OSError):
            raise
        except Exception as error:  # onnxruntime and onnx raise many kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ParameterError(f"onnxruntime cannot quantize this network ({reason})") from error
        return result.read_bytes()


def _in_float(graph: Any) -> list[str]:
    """Return the names of the nodes that are not quantized, of a graph of the package onnx."""
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    norms = [node.name for node in graph.node if node.op_type == "LayerNormalization"]
    # What computes with sizes alone, such as how much is padded, is exact.
    constant = {tensor.name for tensor in graph.initializer}
    sizes: set[str] = set()
    of_sizes = []
    for node in graph.node:
        inputs = [name for name in node.input if name and name not in constant]
        if node.op_type == "Constant":
            constant.update(node.output)
        elif node.op_type == "Shape" or (inputs and sizes.issuperset(inputs)):
            sizes.update(node.output)
            of_sizes.append(node.name)
    return [name for name in (*convolutions[:_N_FLOAT], *norms, *of_sizes) if name]


class _Inputs:
    """Images as onnxruntime asks for them."""

    def __init__(self, images: Iterable[NDArray[np.float32]]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the next input; None at the end."""
        image = next(self._images, None)
        return None if image is None else {IMAGES: image}
