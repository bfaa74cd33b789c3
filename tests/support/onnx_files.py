"""ONNX files: networks of the package rapidocr, networks of timm, and small graphs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.metadata import distribution
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from onnx import TensorProto, helper, numpy_helper

__all__ = ["ocr_network", "small_graph", "write_network"]


def ocr_network(kind: str) -> Path:
    """Return a network of the package rapidocr, which is not imported: "det", "rec" or "cls"."""
    package = distribution("rapidocr")
    (found,) = (
        file for file in package.files or () if file.suffix == ".onnx" and f"_{kind}_" in file.name
    )
    return Path(str(package.locate_file(found)))


def write_network(
    network: torch.nn.Module, size: tuple[int, int] | None, path: Path, n_outputs: int
) -> Path:
    """Export a network that takes images of one size, or of any."""
    any_size = {0: "n", 2: "height", 3: "width"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the way of exporting is old, and needs no more packages
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, *(size or (64, 64))),),
            str(path),
            opset_version=17,
            input_names=["x"],
            output_names=[f"out{i}" for i in range(n_outputs)],
            dynamic_axes=None if size else {"x": any_size},
            dynamo=False,
        )
    return path


def small_graph(
    shape: Sequence[int | str] = ("n", 3, "height", "width"),
    kind: int = TensorProto.FLOAT,
    n_channels: int = 3,
) -> Any:
    """Return a graph of three convolutions: "a" and "b" at stride 2, "c" at stride 4."""
    generator = torch.Generator().manual_seed(0)
    channels = (n_channels, 4, 5, 6)
    weights = [
        torch.rand((after, before, 3, 3), generator=generator) - 0.5
        for before, after in pairwise(channels)
    ]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    nodes = [
        helper.make_node(
            "Conv", [x, f"w{x}"], [y], strides=[s, s], pads=[1, 1, 1, 1], kernel_shape=[3, 3]
        )
        for x, y, s in (("x", "a", 2), ("a", "b", 1), ("b", "c", 2))
    ]
    graph = helper.make_graph(
        [*nodes, helper.make_node("ReduceMean", ["c"], ["mean"], axes=[2, 3], keepdims=0)],
        "small",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info("mean", kind, None)],
        [
            numpy_helper.from_array(weight.numpy().astype(dtype), f"w{name}")
            for name, weight in zip("xab", weights, strict=True)
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
