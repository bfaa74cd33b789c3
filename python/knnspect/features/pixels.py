"""The pixels themselves as features, for methods that learn to draw normal images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.constraints import Choice
from knnspect.data import Geometry, ImageReader
from knnspect.errors import StoreError
from knnspect.features.constraints import Device, ImageSize, checked_image_size
from knnspect.features.extractor import Extractor
from knnspect.features.network import Images
from knnspect.parameters import parameter
from knnspect.pyramid import FeaturePyramid

if TYPE_CHECKING:
    import torch

__all__ = ["Pixels"]

#: Weights of red, green and blue in a grey value (ITU-R BT.601), as Pillow has them.
_GREY = np.array([0.299, 0.587, 0.114], np.float32)


class Pixels(Extractor):
    """Brings images to one size; their pixels are the features, each cell a pixel.

    Parameters
    ----------
    image_size : int or (int, int), default 64
        Height and width that images are brought to.
    color : {"rgb", "grey"}, default "rgb"
        Whether a pixel has three values or one (ITU-R BT.601).
    resize : {"stretch", "crop", "pad"}, default "stretch"
        How an image is brought to `image_size`. See `knnspect.data.Geometry`.
    device : str, optional
        Where the method's network runs, such as cpu or cuda:0: CUDA where there is one, else the
        CPU.

    Attributes
    ----------
    source : str
        Where the features come from, in words.

    Examples
    --------
    >>> pixels = Pixels(28, color="grey")
    >>> features = pixels.extract(np.full((2, 100, 80, 3), 255, np.uint8))
    >>> features.pyramid, float(features.pyramid.levels[0].max())
    (FeaturePyramid(n_images=2, levels=28x28x1), 1.0)

    Notes
    -----
    Values lie in [0, 1]; pooled features are the mean of each channel.
    """

    image_size: int | tuple[int, int] = parameter(ImageSize(), default=64, kw_only=False)
    color: Literal["rgb", "grey"] = parameter(Choice("rgb", "grey"), default="rgb")
    resize: Literal["stretch", "crop", "pad"] = parameter(
        Choice("stretch", "crop", "pad"), default="stretch"
    )
    device: str | None = parameter(Device(), default=None)

    @property
    def name(self) -> str:
        """What it is called where it is kept."""
        return "pixels"

    def _build(self) -> _PixelNetwork:
        size = checked_image_size(self.image_size)
        return _PixelNetwork(Geometry(size, self.resize), self.color == "grey", self.device)

    @classmethod
    def from_state(
        cls,
        settings: dict[str, Any],
        tensors: dict[str, NDArray[Any]],
        device: str | None = None,
    ) -> Pixels:
        """Rebuild it from what `state` returned; the parameters are those of `Backbone.from_state`.

        Raises
        ------
        StoreError
            If the settings are not those of pixels.
        """
        try:
            if tensors:
                raise ValueError(f"expected no tensors, got {len(tensors)}")
            pixels = cls(
                tuple(settings["image_size"]),
                color=settings["color"],
                resize=settings["resize"],
                device=device,
                white=ImageReader(settings.get("white")).white,
            )
            pixels.check_params()
            pixels._load()
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise StoreError(f"the stored pixels cannot be used: {reason}") from error
        return pixels


class _PixelNetwork:
    """Gives prepared images back as pyramids of one level."""

    def __init__(self, geometry: Geometry, is_grey: bool, device: str | None) -> None:
        self.source = "the pixels of the images"
        self.levels = [0]
        self.geometry, self._is_grey, self._device = geometry, is_grey, device

    @property
    def device(self) -> torch.device:
        """Where the method's network runs."""
        from knnspect.features.torch.network import check_device

        return check_device(self._device)

    @property
    def channels(self) -> list[int]:
        """How many values a pixel has."""
        return [1 if self._is_grey else 3]

    def forward(
        self,
        images: Images,
        batch_size: int,  # noqa: ARG002 - networks need it
        pooled: bool = True,
    ) -> tuple[FeaturePyramid, NDArray[np.float32]]:
        """Return the pixels of images, each (3, height, width) in [0, 1]; means, if asked for."""
        pixels = np.asarray(images).transpose(0, 2, 3, 1)
        if self._is_grey:
            # Summed in one order, whatever the batch; a product may round by its size.
            red, green, blue = (pixels[..., i] * weight for i, weight in enumerate(_GREY))
            pixels = np.minimum(red + green + blue, 1)[..., None]
        pixels = np.ascontiguousarray(pixels, np.float32)
        means = pixels.mean(axis=(1, 2)) if pooled else np.zeros((len(pixels), 0), np.float32)
        return FeaturePyramid([pixels]), means

    def settings(self) -> dict[str, Any]:
        """Return, JSON-compatible, all that pixels depend on."""
        return {
            "format": "pixels",
            "image_size": list(self.geometry.image_size),
            "resize": self.geometry.resize,
            "color": "grey" if self._is_grey else "rgb",
            "source": self.source,
        }

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return no weights."""
        return {}
