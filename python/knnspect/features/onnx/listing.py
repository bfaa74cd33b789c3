"""What an ONNX file of others takes and gives, and which of its tensors can be levels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from knnspect.errors import ParameterError, StoreError
from knnspect.features.onnx.file import OnnxFile, read_onnx
from knnspect.features.onnx.image_input import DTYPES, ImageInput, dtype_of, image_input
from knnspect.features.onnx.maps import layout_of
from knnspect.features.onnx.session import Session

__all__ = ["Listing", "Map", "listing"]

#: The side of the image for which shapes are listed, if a network takes any.
_SIDE = 224


@dataclass(frozen=True)
class Map:
    """A tensor that can be a level: its name, its operator, and (rows, columns, channels)."""

    name: str
    operator: str
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Listing:
    """What a file takes and gives.

    Parameters
    ----------
    input, outputs : str
        In words.
    image_size : (int, int)
        Height and width of the image for which the shapes of maps are.
    maps : tuple of Map
        What can be a level, in the order of the graph.
    """

    input: str
    outputs: str
    image_size: tuple[int, int]
    maps: tuple[Map, ...]


def listing(path: str | os.PathLike[str]) -> Listing:
    """Find out what an ONNX file takes and gives, and which of its tensors can be levels.

    An image goes through it, of 224 x 224 pixels if it takes any.

    Parameters
    ----------
    path : str or path-like
        The file.

    Raises
    ------
    StoreError
        If it cannot be read or run.
    ParameterError
        If it does not take one colour image.
    """
    file = read_onnx(path)
    try:
        session = Session(file.with_outputs(list(file.tensors)), "cpu")
    except StoreError as error:
        raise StoreError(f"{file.path}: {error}") from error
    takes = image_input(file.name, session, None)
    height, width = takes.sizes
    size = (height or _SIDE, width or _SIDE)
    return Listing(
        _in_words(session.inputs),
        _in_words({name: session.outputs[name] for name in file.outputs}),
        size,
        tuple(_maps(file, session, takes, size)),
    )


def _maps(
    file: OnnxFile, session: Session, takes: ImageInput, size: tuple[int, int]
) -> Iterator[Map]:
    names = [name for name in file.tensors if dtype_of(session.outputs[name][0]) in DTYPES]
    image = np.full((3, *size), 0.5, np.float32)
    for name, tensor in zip(names, session.run(names, takes.fed(image)), strict=True):
        is_first = file.is_channels_first(name)
        try:
            layout = layout_of(name, tensor.shape, size, is_first, takes.layout)
        except ParameterError:
            continue
        rows, columns, n_channels = layout.map_of(tensor, size).shape
        if rows * columns > 1:
            yield Map(name, file.tensors[name].operator, (rows, columns, n_channels))


def _size_in_words(size: object) -> str:
    return str(size) if isinstance(size, int) else "any"


def _in_words(tensors: Mapping[str, tuple[str, list[Any]]]) -> str:
    """Say what tensors are called, and their types and shapes.

    >>> _in_words({"x": ("tensor(float)", [None, 3, "height", "width"])})
    'x (float: any x 3 x any x any)'
    """
    return ", ".join(
        f"{name} ({dtype_of(kind)}: {' x '.join(map(_size_in_words, shape))})"
        for name, (kind, shape) in tensors.items()
    )
