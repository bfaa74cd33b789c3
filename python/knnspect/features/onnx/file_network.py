"""The network of an ONNX file that others made: prepared images in, feature maps out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.data.own_size import geometry_of
from knnspect.errors import ParameterError, StoreError
from knnspect.features.cells import averaged, unit_cells
from knnspect.features.channels import COLOR_ORDERS, LAYOUTS, ChannelMeans, ChannelScales
from knnspect.features.constraints import checked_image_size, checked_names
from knnspect.features.network import ANY_SIZE, Images, NetworkSettings, check_settings
from knnspect.features.onnx.file import OnnxFile, read_onnx
from knnspect.features.onnx.image_input import DTYPES, dtype_of, image_input
from knnspect.features.onnx.maps import MapLayout, layout_of
from knnspect.features.onnx.session import Session
from knnspect.packed import packed, unpacked
from knnspect.pyramid import FeaturePyramid

__all__ = ["FORMAT", "OnnxFileNetwork"]

#: What the settings of such a network call it.
FORMAT = "onnx-file"
#: What the bytes of the file are called among the tensors of a backbone.
_FILE = "file"
#: As of the networks of timm that say nothing else.
_INTERPOLATION = "bicubic"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class OnnxFileNetwork:
    """A graph of which inner tensors are the levels, and what is done before and after it.

    Parameters
    ----------
    settings : NetworkSettings
        What is asked of it. Its levels are names of tensors, or numbers of the graph's outputs.
    file : OnnxFile, optional
        The file; read from the path that the name of `settings` is, by default.
    about : mapping, optional
        What `settings` returned, of a network that was stored.

    Raises
    ------
    ParameterError, DTypeError
        If a parameter lies outside its values, or the graph cannot be a backbone's.
    StoreError
        If the file cannot be read or run.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        file: OnnxFile | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        known: Mapping[str, Any] = about or {}
        check_settings(settings)
        _check_possible(settings)
        image_size = checked_image_size(settings.image_size)
        if settings.patch_size > min(image_size):
            raise ParameterError(
                f"patch_size: expected at most {min(image_size)}, the shorter side of image_size, "
                f"got {settings.patch_size}"
            )
        file = file or read_onnx(settings.name)
        self._asked, self._n_bytes = settings, len(file.content)
        self.levels: list[str] = file.names_of(settings.levels)
        checked_names(self.levels)
        self.source = str(known.get("source", f"file {file.name}"))
        self._mean, self._std = _normalization(settings)
        try:
            self._session = Session(file.with_outputs(self.levels), settings.device)
        except StoreError as error:
            raise StoreError(f"{file.path}: {error}", path=Path(file.path)) from error
        self.device = self._session.device
        self._in = image_input(file.name, self._session, settings.layout)
        self._in.check_size(image_size, settings.resize)
        self._check_types()
        interpolation = str(known.get("interpolation", _INTERPOLATION))
        self.geometry = geometry_of(image_size, settings.resize, interpolation)
        self._layouts: list[MapLayout] = []
        self.channels = self._try(file)

    def _check_types(self) -> None:
        for name in self.levels:
            kind = dtype_of(self._session.outputs[name][0])
            if kind not in DTYPES:
                raise ParameterError(
                    f"levels: {name!r} has numbers of {kind}, expected float or float16",
                    parameter="levels",
                )

    def _try(self, file: OnnxFile) -> list[int]:
        """Find out what maps the levels are, and return how many channels each has.

        A graph may leave the shapes open, so that one image of the network's size goes through it.
        """
        size = self.geometry.image_size
        tensors = self._run(np.full((3, *size), 0.5, np.float32))
        self._layouts = [
            layout_of(name, tensor.shape, size, file.is_channels_first(name), self._in.layout)
            for name, tensor in zip(self.levels, tensors, strict=True)
        ]
        maps = self._maps(tensors, size)
        rows, columns = maps[-1].shape[:2]
        stride = max(1, round(size[0] / rows), round(size[1] / columns))
        for (one, finer), (other, coarser) in pairwise(zip(self.levels, maps, strict=True)):
            _check_order(one, finer.shape[:2], other, coarser.shape[:2], stride)
        if self.geometry.resize in ANY_SIZE:
            self.geometry = replace(self.geometry, multiple=stride)
        return [map_.shape[2] for map_ in maps]

    def settings(self) -> dict[str, Any]:
        """Return all that features depend on beside the file; and `source`, for people."""
        return {
            "name": Path(self._asked.name).name,
            "format": FORMAT,
            "levels": self.levels,
            "image_size": list(self.geometry.image_size),
            "resize": self.geometry.resize,
            "interpolation": self.geometry.interpolation,
            "patch_size": int(self._asked.patch_size),
            "source": self.source,
            "unit": bool(self._asked.unit),
            "pooled": self._asked.pooled,
            "mean": list(self._mean),
            "std": list(self._std),
            "layout": self._in.layout,
            "color_order": self._asked.color_order,
        }

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the bytes of the file, as arrays."""
        return packed(_FILE, [self._session.graph[: self._n_bytes]])

    def forward(
        self,
        images: Images,
        batch_size: int,  # noqa: ARG002 - one by one
        pooled: bool = True,
    ) -> tuple[FeaturePyramid, NDArray[np.float32]]:
        """Run images of one size, each (3, height, width) in [0, 1], through the graph.

        The graph is run as far as the levels need. One image after the other, so that features do
        not depend on the batch, and graphs may be made for one image.
        """
        found = []
        vectors = np.zeros((len(images), 0), np.float32)
        means = []
        for image in images:
            maps = self._maps(self._run(image), image.shape[1:])
            with np.errstate(all="ignore"):  # what is not finite is found where it matters
                if pooled:
                    means.append(_pooled(maps[-1], self._asked.pooled))
                if self._asked.patch_size > 1:
                    maps = [averaged(map_, int(self._asked.patch_size)) for map_ in maps]
                found.append([unit_cells(map_) for map_ in maps] if self._asked.unit else maps)
        if pooled:
            vectors = np.stack(means)
        return FeaturePyramid([np.stack(maps) for maps in zip(*found, strict=True)]), vectors

    def _run(self, image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the tensors of the levels."""
        if self._asked.color_order == "bgr":
            image = image[::-1]
        image = (image - _column(self._mean)) / _column(self._std)
        found = self._session.run(self.levels, self._in.fed(image))
        return [tensor.astype(np.float32, copy=False) for tensor in found]

    def _maps(
        self, tensors: list[NDArray[np.float32]], size: tuple[int, ...]
    ) -> list[NDArray[np.float32]]:
        height, width = size
        pairs = zip(self._layouts, tensors, strict=True)
        return [layout.map_of(tensor, (height, width)) for layout, tensor in pairs]

    @classmethod
    def from_stored(
        cls, settings: NetworkSettings, about: Mapping[str, Any], tensors: Mapping[str, Any]
    ) -> OnnxFileNetwork:
        """Return the network whose `settings` and `tensors` are given."""
        file = OnnxFile.of(settings.name, unpacked(_FILE, tensors)[0])
        return cls(settings, file, about)


def _check_possible(settings: NetworkSettings) -> None:
    """Raise a ParameterError for what only networks of timm can do."""
    if settings.norm:
        raise ParameterError(
            "norm: an ONNX network has no final norm that is known; name the tensor behind it as "
            "a level",
            parameter="norm",
        )
    if settings.pooled == "cls":
        raise ParameterError(
            'pooled: "cls" cannot be taken of an ONNX network; expected "mean" or "max", over the '
            "last of the levels",
            parameter="pooled",
        )
    if settings.precision != "float32":
        raise ParameterError(
            "precision: an ONNX network computes in what its file says; expected 'float32'",
            parameter="precision",
        )
    if settings.layout is not None:
        LAYOUTS.check("layout", settings.layout)
    COLOR_ORDERS.check("color_order", settings.color_order)


def _check_order(
    one: str, finer: tuple[int, ...], other: str, coarser: tuple[int, ...], stride: int
) -> None:
    """Raise a ParameterError unless the grid of a level divides that of the level before it."""
    sizes = f"{one!r} has {finer[0]} x {finer[1]} cells and {other!r} {coarser[0]} x {coarser[1]}"
    if coarser[0] > finer[0] or coarser[1] > finer[1]:
        raise ParameterError(
            f"levels: expected the finest first; {sizes}, after it", parameter="levels"
        )
    if finer[0] % coarser[0] or finer[1] % coarser[1]:
        raise ParameterError(
            f"image_size: expected one for which the grid of a level divides that of the finer one "
            f"before it, such as multiples of {stride}; {sizes}",
            parameter="image_size",
        )


def _normalization(settings: NetworkSettings) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each channel, by default those of ImageNet."""
    mean, std = settings.mean, settings.std
    if (mean is None) != (std is None):
        missing = "mean" if mean is None else "std"
        raise ParameterError(
            f"{missing}: expected mean and std together, or neither", parameter=missing
        )
    if mean is None:
        return _IMAGENET_MEAN, _IMAGENET_STD
    return ChannelMeans().of_each("mean", mean), ChannelScales().of_each("std", std)


def _column(numbers: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(numbers, np.float32)[:, None, None]


def _pooled(map_: NDArray[np.float32], how: str) -> NDArray[np.float32]:
    found: NDArray[Any]
    found = map_.max((0, 1)) if how == "max" else map_.mean((0, 1), dtype=np.float64)
    return found.astype(np.float32)
