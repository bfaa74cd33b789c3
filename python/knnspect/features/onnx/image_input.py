"""What a graph of others takes: one colour image, in which order of axes, of which size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.errors import ParameterError
from knnspect.features.network import ANY_SIZE, in_words
from knnspect.features.onnx.session import Session

__all__ = ["DTYPES", "ImageInput", "dtype_of", "image_input"]

#: Numbers that a network may take and give, by onnxruntime's name.
DTYPES: dict[str, np.dtype[Any]] = {
    "float": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
}


@dataclass(frozen=True)
class ImageInput:
    """What a graph takes.

    Parameters
    ----------
    file, name : str
        What the file is called, and its input.
    layout : {"NCHW", "NHWC"}
        The order of the input's axes.
    sizes : tuple of int or None
        Height and width; None where any will do.
    dtype : dtype
        Of its numbers.
    """

    file: str
    name: str
    layout: str
    sizes: tuple[int | None, int | None]
    dtype: np.dtype[Any]

    def fed(self, image: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return an image, (3, height, width), as the graph takes it, by the input's name."""
        batch = image[None]
        if self.layout == "NHWC":
            batch = batch.transpose(0, 2, 3, 1)
        return {self.name: np.ascontiguousarray(batch, self.dtype)}

    def check_size(self, image_size: tuple[int, int], resize: str) -> None:
        """Raise a ParameterError if images of a size cannot go through the graph."""
        height, width = (size or "any" for size in self.sizes)
        if any(
            fixed not in (None, size) for fixed, size in zip(self.sizes, image_size, strict=True)
        ):
            raise ParameterError(
                f"image_size: {self.file} takes images of {height} x {width} pixels, got "
                f"{image_size[0]} x {image_size[1]}",
                parameter="image_size",
            )
        if resize in ANY_SIZE and self.sizes != (None, None):
            raise ParameterError(
                f"resize: {in_words(resize)} needs a network that takes images of any size, "
                f"{self.file} takes {height} x {width} pixels",
                parameter="resize",
            )


def dtype_of(kind: str) -> str:
    """Return the type of numbers of what onnxruntime calls a kind.

    >>> dtype_of("tensor(float)")
    'float'
    """
    return kind.removeprefix("tensor(").removesuffix(")")


def image_input(file: str, session: Session, layout: str | None) -> ImageInput:
    """Return what a graph takes.

    Parameters
    ----------
    file : str
        What messages call the file.
    session : Session
        The graph.
    layout : {"NCHW", "NHWC"}, optional
        The order of the input's axes; by default that in which there may be 3 channels.

    Raises
    ------
    ParameterError
        If it is not one colour image.
    """

    def error(takes: str, expected: str) -> ParameterError:
        return ParameterError(
            f"name: {file} cannot be a backbone: it takes {takes}; expected {expected}",
            parameter="name",
        )

    if len(session.inputs) != 1:
        names = ", ".join(session.inputs) or "none"
        raise error(f"{len(session.inputs)} inputs ({names})", "one, for images")
    ((name, (kind, shape)),) = session.inputs.items()
    kind = dtype_of(kind)
    if kind not in DTYPES:
        raise error(f"{name!r} as {kind}", "float or float16")
    if len(shape) != 4:
        raise error(f"{name!r} of {len(shape)} axes", "4, those of images")
    sizes = [size if isinstance(size, int) and size > 0 else None for size in shape]
    if sizes[0] not in (None, 1):
        raise error(f"{sizes[0]} images at a time", "1, or any number")
    axes = {"NCHW": 1, "NHWC": 3}
    has_colors = [word for word, axis in axes.items() if sizes[axis] == 3]
    if layout is not None and has_colors and layout not in has_colors:
        raise ParameterError(
            f"layout: {file} takes {name!r} of shape {shape}, which is {has_colors[0]}, got "
            f"{layout!r}",
            parameter="layout",
        )
    found = layout or next(
        (word for may in (3, None) for word, axis in axes.items() if sizes[axis] == may), "NCHW"
    )
    n_channels = sizes.pop(axes[found])
    if n_channels not in (None, 3):
        takes = f"images of {n_channels} channel{'s' if n_channels > 1 else ''}"
        raise error(f"{takes} as {found}", "3, those of colours")
    return ImageInput(file, name, found, (sizes[1], sizes[2]), DTYPES[kind])
