"""A network that was exported: prepared images in, feature maps out, by an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.data.own_size import geometry_of
from knnspect.errors import StoreError
from knnspect.features.constraints import checked_image_size, checked_levels
from knnspect.features.network import ANY_SIZE, Images, NetworkSettings, check_settings
from knnspect.features.onnx.session import Session
from knnspect.packed import packed, unpacked
from knnspect.pyramid import FeaturePyramid

__all__ = ["IMAGES", "POOLED_FEATURES", "OnnxNetwork", "graph_of", "level_name", "tensors_of"]

#: What the input and the outputs of the graph are called.
IMAGES, POOLED_FEATURES = "images", "pooled"
#: What the bytes of the graph are called among the tensors of a backbone.
_GRAPH = "graph"


def level_name(place: int) -> str:
    """Return what the output of a level of the pyramid is called, the finest being 0."""
    return f"level{place}"


class OnnxNetwork:
    """A graph that does all that lies between prepared images and features.

    Its input is one image, (1, 3, height, width) in [0, 1], of any size with ``resize="shorter"``
    or ``"own"`` and in tiles; its outputs are the levels, (1, height, width, channels), finest
    first, and the pooled features, (1, n).

    Parameters
    ----------
    settings : NetworkSettings
        What was asked of the network that was exported.
    about : mapping
        What else `settings` returned: "architecture", "source", "interpolation", "blocks".
    tensors : mapping of str to ndarray
        What `tensors` returned.

    Raises
    ------
    ParameterError, DTypeError
        If the device cannot be used.
    StoreError, KeyError, TypeError, ValueError
        If the settings are not those of such a network, or its graph does not fit them.
    """

    def __init__(
        self, settings: NetworkSettings, about: Mapping[str, Any], tensors: Mapping[str, Any]
    ) -> None:
        check_settings(settings)
        image_size = checked_image_size(settings.image_size)
        self.source, self.architecture = str(about["source"]), str(about["architecture"])
        multiple = int(about.get("multiple", 1))
        self.geometry = geometry_of(image_size, settings.resize, about["interpolation"], multiple)
        self.levels = checked_levels(settings.levels)
        self._asked, self._n_blocks = settings, about.get("blocks")
        self._quantized = about.get("quantized")
        if self._quantized not in (None, "int8"):
            raise ValueError(f"quantized: expected int8, got {self._quantized!r}")
        self._session = Session(graph_of(tensors), settings.device)
        self.device = self._session.device
        self._names = [level_name(place) for place in range(len(self.levels))]
        self.channels = self._checked_channels()

    def _checked_channels(self) -> list[int]:
        """Return how many channels each level has, if the graph is one of ours."""
        height, width = self.geometry.image_size
        any_size = self.geometry.resize in ANY_SIZE
        sides = ["height", "width"] if any_size else [height, width]
        if self._session.inputs != {IMAGES: ("tensor(float)", [1, 3, *sides])}:
            raise StoreError(
                f"the ONNX graph should take {IMAGES} of shape (1, 3, {sides[0]}, {sides[1]}), it "
                f"takes {self._session.inputs}"
            )
        channels = []
        for name, n_axes in [*((name, 4) for name in self._names), (POOLED_FEATURES, 2)]:
            kind, shape = self._session.outputs.get(name, ("nothing", []))
            fixed = shape[-1:] if any_size else shape
            is_fixed = all(isinstance(size, int) and size > 0 for size in fixed)
            is_one = any_size or shape[:1] == [1]
            if kind != "tensor(float)" or len(shape) != n_axes or not (is_one and is_fixed):
                raise StoreError(
                    f"the ONNX graph should give {name} as float numbers of {n_axes} axes, it "
                    f"gives {kind} {shape}"
                )
            channels.append(shape[-1])
        return channels[:-1]

    def settings(self) -> dict[str, Any]:
        """Return all that features depend on beside the graph; and `source`, for people."""
        return {
            "format": "onnx",
            "architecture": self.architecture,
            "levels": self.levels,
            "image_size": list(self.geometry.image_size),
            "resize": self.geometry.resize,
            "interpolation": self.geometry.interpolation,
            "patch_size": int(self._asked.patch_size),
            "source": self.source,
            "unit": bool(self._asked.unit),
            "norm": bool(self._asked.norm),
            "pooled": self._asked.pooled,
            "precision": self._asked.precision,
            "blocks": self._n_blocks,
            "quantized": self._quantized,
            "multiple": self.geometry.multiple,
        }

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the bytes of the graph, as arrays."""
        return tensors_of(self._session.graph)

    def forward(
        self,
        images: Images,
        batch_size: int,  # noqa: ARG002 - one by one
        pooled: bool = True,
    ) -> tuple[FeaturePyramid, NDArray[np.float32]]:
        """Run images of one size, each (3, height, width) in [0, 1], through the graph.

        Without pooled features, of which there are then none, only as far as the levels need. One
        image after the other, so that features do not depend on the batch.
        """
        names = [*self._names, *([POOLED_FEATURES] if pooled else [])]
        runs = [
            self._session.run(names, {IMAGES: np.ascontiguousarray(image)[None]})
            for image in images
        ]
        levels = [np.concatenate(maps) for maps in zip(*runs, strict=True)]
        vectors = levels.pop() if pooled else np.zeros((len(runs), 0), np.float32)
        return FeaturePyramid(levels), vectors


def tensors_of(graph: bytes) -> dict[str, NDArray[Any]]:
    """Return an ONNX graph as the tensors of an `OnnxNetwork`."""
    return packed(_GRAPH, [graph])


def graph_of(tensors: Mapping[str, Any]) -> bytes:
    """Return the ONNX graph of what `tensors_of` returned."""
    return unpacked(_GRAPH, tensors)[0]
