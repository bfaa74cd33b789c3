"""What a backbone asks of its network, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from knnspect.constraints import Flag
from knnspect.data import Geometry
from knnspect.features.constraints import POOLED, PRECISIONS, Levels, PatchSize
from knnspect.pyramid import FeaturePyramid

if TYPE_CHECKING:
    import torch

__all__ = ["ANY_SIZE", "Images", "Network", "NetworkSettings", "check_settings", "in_words"]

#: Prepared images, (3, height, width) each.
Images = NDArray[np.float32] | list[NDArray[np.float32]]
#: Values of `resize` with which the inputs of a network differ in size.
ANY_SIZE = ("shorter", "own")


@dataclass(frozen=True)
class NetworkSettings:
    """What is asked of a network; the parameters are those of `Backbone`, not checked yet.

    With `counts_offered`, levels of a transformer are those of the blocks that timm offers, the
    last ones, as earlier versions counted them.
    """

    name: str
    levels: Sequence[int] | Sequence[str]
    image_size: int | tuple[int, int]
    resize: Any
    patch_size: int
    device: str | None
    unit: bool = False
    norm: bool = False
    pooled: str = "mean"
    precision: str = "float32"
    mean: Any = None
    std: Any = None
    layout: str | None = None
    color_order: str = "rgb"
    counts_offered: bool = False
    tile: int | None = None
    overlap: int = 64

    @classmethod
    def of(cls, parameters: object) -> NetworkSettings:
        """Return those of what has attributes of these names."""
        names = [field.name for field in fields(cls) if hasattr(parameters, field.name)]
        asked = cls(**{name: getattr(parameters, name) for name in names})
        if asked.resize is not None:
            return asked
        return replace(asked, resize="stretch" if asked.tile is None else "own")


def in_words(resize: str) -> str:
    """Return what messages call a way in which inputs of a network differ in size.

    >>> in_words("shorter"), in_words("own")
    ('"shorter"', '"own", also in tiles,')
    """
    return '"own", also in tiles,' if resize == "own" else f'"{resize}"'


def check_settings(settings: NetworkSettings) -> None:
    """Check what can be without the network.

    Raises
    ------
    ParameterError, DTypeError
        If a parameter lies outside its values.
    """
    Levels().check("levels", settings.levels)
    PatchSize().check("patch_size", settings.patch_size)
    Flag().check("unit", settings.unit)
    Flag().check("norm", settings.norm)
    POOLED.check("pooled", settings.pooled)
    PRECISIONS.check("precision", settings.precision)


class Network(Protocol):
    """A network that is loaded: prepared images in, feature maps out.

    Attributes
    ----------
    source : str
        Where the weights come from, in words.
    geometry : Geometry
        How images meet the network.
    """

    source: str
    geometry: Geometry

    @property
    def levels(self) -> list[int] | list[str]:
        """Which of its maps make the pyramid, counted from 0, or the names of its tensors."""
        ...

    @property
    def device(self) -> torch.device | str:
        """Where it runs."""
        ...

    @property
    def channels(self) -> list[int]:
        """How many channels each of the levels has."""
        ...

    def forward(
        self, images: Images, batch_size: int, pooled: bool = True
    ) -> tuple[FeaturePyramid, NDArray[np.float32]]:
        """Return the pyramids of images of one size and, if they are asked for, pooled features."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return, JSON-compatible, all that features depend on beside the weights; and `source`."""
        ...

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return its weights by name."""
        ...
