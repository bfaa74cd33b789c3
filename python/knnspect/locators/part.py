"""The part that is looked for, cut out of its template, and drawn turned and scaled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from knnspect.data import ImageArray
from knnspect.errors import ParameterError, ShapeError
from knnspect.views import AlignedView, Box, Region, similarity

__all__ = ["Part", "centre"]

#: What surrounds a part that is drawn: the mean colour of ImageNet, which networks see as nothing.
_AROUND = (0.485, 0.456, 0.406)


@dataclass(frozen=True, eq=False)
class Part:
    """A part in its own frame, the box around it.

    Parameters
    ----------
    pixels : ndarray, shape (height, width, 3)
        The box; uint8, or float32 in [0, 1].
    mask : ndarray of bool, shape (height, width)
        Which of its pixels show the part.
    """

    pixels: ImageArray
    mask: NDArray[np.bool_]

    @classmethod
    def of(cls, image: ImageArray, box: object, mask: object) -> Part:
        """Return the part of an image in a box, or where a mask is not 0.

        Raises
        ------
        ParameterError
            If both or neither are given, the box lies outside of the image, or the mask is empty.
        ShapeError
            If the mask has another size than the image.
        """
        if (box is None) == (mask is None):
            raise ParameterError("template: expected either the box of the part or its mask")
        size = (image.shape[0], image.shape[1])
        if mask is None:
            shown = np.zeros(size, bool)
            top, left, bottom, right = _checked(box, size)
            shown[top:bottom, left:right] = True
        else:
            shown = Region.of(mask).pixels
            if shown.shape != size:
                raise ShapeError(f"mask: expected the template's size, {size}, got {shown.shape}")
            rows, columns = (np.flatnonzero(shown.any(axis=axis)) for axis in (1, 0))
            top, bottom = int(rows[0]), int(rows[-1]) + 1
            left, right = int(columns[0]), int(columns[-1]) + 1
        return cls(image[top:bottom, left:right].copy(), shown[top:bottom, left:right].copy())

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.mask.shape
        return height, width

    def drawn(
        self, canvas: tuple[int, int], angle: float, scale: float
    ) -> tuple[ImageArray, NDArray[np.float32]]:
        """Return the part in the middle of an image, turned and scaled, on a plain ground.

        Parameters
        ----------
        canvas : (int, int)
            Height and width of the image.
        angle : float
            Degrees, counter-clockwise.
        scale : float
            How many times its own size.

        Returns
        -------
        ndarray of float32, shape (*canvas, 3)
            The image.
        ndarray of float32, shape `canvas`
            How much of each pixel shows the part, from 0 to 1.
        """
        way = similarity(angle, scale, at=centre(self.size), to=centre(canvas))
        there = AlignedView(self.size, canvas, way)
        shown = AlignedView(canvas, self.size, there.inverse).to_image(self.mask)
        pixels = there.cut(self.pixels)
        image = pixels.astype(np.float32) / (255 if pixels.dtype == np.uint8 else 1)
        blended = image * shown[..., None] + np.array(_AROUND, np.float32) * (1 - shown[..., None])
        return blended.clip(0, 1), shown

    def extent(self, angle: float, scale: float) -> tuple[float, float]:
        """Return height and width of the upright box around the part, turned and scaled."""
        cos, sin = np.abs(similarity(angle, scale, (0, 0), (0, 0))[:, 0])
        height, width = self.size
        return float(cos * height + sin * width), float(sin * height + cos * width)


def centre(size: tuple[int, int]) -> tuple[float, float]:
    """Return the row and the column of the middle of an image, between pixels if need be.

    >>> centre((4, 5))
    (1.5, 2.0)
    """
    return (size[0] - 1) / 2, (size[1] - 1) / 2


def _checked(box: object, size: tuple[int, int]) -> Box:
    try:
        top, left, bottom, right = (int(edge) for edge in box)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise ParameterError(
            f"box: expected top, left, bottom and right, got {box!r}", parameter="box"
        ) from None
    if not (0 <= top < bottom <= size[0] and 0 <= left < right <= size[1]):
        raise ParameterError(
            f"box: expected one within the template's {size[0]} x {size[1]} pixels, top above "
            f"bottom and left of right, got {box!r}",
            parameter="box",
        )
    return Box(top, left, bottom, right)
