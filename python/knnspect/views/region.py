"""A region of interest: which pixels of images count, the same ones in all of them."""

from __future__ import annotations

import base64
import os
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from knnspect.data.geometry import Geometry
from knnspect.data.images import read_image
from knnspect.errors import DTypeError, ImageError, ImageWarning, ParameterError, ShapeError
from knnspect.validation import check_count
from knnspect.views.placement import Placement
from knnspect.views.variants import Variant

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Region"]

#: Values up to this one are nearly black: no mask that was drawn has them, one that was a JPEG has.
_NEARLY_BLACK = 16


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Region:
    """The pixels that count, the same ones in all images: what the user draws for a fixed camera.

    A cell counts if at least half of its pixels do. Regions are equal if their pixels are.

    Parameters
    ----------
    pixels : ndarray of bool or uint8, shape (height, width)
        What counts: True, or another value than 0. It is copied.

    Raises
    ------
    DTypeError, ShapeError
        If it is another kind of array.
    ParameterError
        If no pixel counts.

    Examples
    --------
    >>> pixels = np.zeros((100, 200), bool)
    >>> pixels[:, :50] = True
    >>> region = Region(pixels)
    >>> region
    Region(height=100, width=200, share=0.25)
    >>> region.cells(Placement((50, 100), Geometry((64, 64))), (1, 8))
    array([[ True,  True, False, False, False, False, False, False]])
    """

    pixels: NDArray[np.bool_]

    def __init__(self, pixels: NDArray[np.bool_] | NDArray[np.uint8]) -> None:
        if not isinstance(pixels, np.ndarray) or pixels.dtype not in (np.bool_, np.uint8):
            what = pixels.dtype if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise DTypeError(f"expected an array of bool or uint8, got {what}")
        if pixels.ndim != 2 or not pixels.size:
            raise ShapeError(f"expected an array of shape (height, width), got {pixels.shape}")
        counts = pixels.astype(bool)  # a copy
        if not counts.any():
            height, width = counts.shape
            raise ParameterError(
                f"expected a mask in which some pixels count, all {height} x {width} are 0: it "
                "hides everything"
            )
        counts.flags.writeable = False
        vars(self)["pixels"] = counts

    @classmethod
    def of(cls, mask: object) -> Region:
        """Return a mask as a region: a region, an array, or the path of an image file.

        In a file a pixel counts that is neither black nor transparent.

        Raises
        ------
        DTypeError, ShapeError, ParameterError
            If it is nothing of these.
        ImageError
            If the file cannot be read.

        Warns
        -----
        ImageWarning
            If pixels of the file are nearly black, as in one that was a JPEG: these count, too.
        """
        if isinstance(mask, Region):
            return mask
        if not isinstance(mask, (str, os.PathLike)):
            return cls(mask)  # type: ignore[arg-type]
        image = read_image(mask)
        values = image.max(axis=2)
        pixels = values > 0
        largest = _NEARLY_BLACK if image.dtype == np.uint8 else _NEARLY_BLACK / 255
        n_dark = int((values[pixels] < largest).sum())
        if n_dark and values.max() >= largest:
            warnings.warn(
                f"{os.fspath(mask)}: {n_dark} pixels of this mask are nearly black, and count as "
                "all that is not 0: was it saved as a JPEG?",
                ImageWarning,
                stacklevel=2,
            )
        try:
            return cls(pixels)
        except ParameterError as error:
            raise ParameterError(f"{os.fspath(mask)}: {error}") from None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.pixels.shape
        return height, width

    @property
    def share(self) -> float:
        """The share of the pixels that count."""
        return float(self.pixels.mean())

    def cells(
        self, placement: Placement, grid: tuple[int, int], variant: Variant | None = None
    ) -> NDArray[np.bool_]:
        """Return which cells of an image count.

        Parameters
        ----------
        placement : Placement
            How the image met the network. It has the region's size, or its proportions.
        grid : (int, int)
            Rows and columns of cells.
        variant : Variant, optional
            How the image was turned or mirrored before; the region is, too.

        Returns
        -------
        ndarray of bool, shape `grid`
            Where at least half of the pixels of a cell (of `Placement.box_of`) are in the region.
            Cells that only show padding count as the nearest cell of the image does.

        Raises
        ------
        ImageError
            If the image has other proportions than the region.
        """
        self.check_suits(placement.size)
        if variant is not None:
            variant = replace(variant, brightness=1.0)
        return _cells(self, placement.geometry, grid, variant)

    def check_suits(self, size: tuple[int, int]) -> None:
        """Raise an ImageError if an image of this height and width has other proportions."""
        height, width = self.size
        if height * size[1] != width * size[0]:
            raise ImageError(
                f"its size, {size[0]} x {size[1]} pixels, does not suit the mask, which has "
                f"{height} x {width}: expected images of the mask's size, or of its proportions"
            )

    def to_json(self) -> dict[str, Any]:
        """Return it, JSON-compatible: eight pixels a byte, deflated, in base64."""
        bits = base64.b64encode(zlib.compress(np.packbits(self.pixels).tobytes(), 9))
        return {"height": self.size[0], "width": self.size[1], "bits": bits.decode("ascii")}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return what `to_json` was made of; raise a TypeError or ValueError for anything else."""
        if not isinstance(value, Mapping) or set(value) != {"height", "width", "bits"}:
            raise ValueError("expected the height, width and bits of a mask")
        height, width = (check_count(name, value[name]) for name in ("height", "width"))
        n_bytes = -(-height * width // 8)
        inflater = zlib.decompressobj()
        try:
            # No more than is needed, whatever the file says.
            bits = inflater.decompress(base64.b64decode(value["bits"], validate=True), n_bytes + 1)
        except zlib.error as error:
            raise ValueError(f"the bits of a mask: {error}") from None
        if len(bits) != n_bytes or not inflater.eof:
            raise ValueError(f"expected {height} x {width} bits of a mask, got {len(bits)} bytes")
        pixels = np.unpackbits(np.frombuffer(bits, np.uint8), count=height * width)
        return cls(pixels.reshape(height, width))

    @cached_property
    def _digest(self) -> bytes:
        return sha256(repr(self.size).encode() + np.packbits(self.pixels).tobytes()).digest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Region):
            return NotImplemented
        return self is other or self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __reduce__(self) -> tuple[type[Region], tuple[NDArray[np.bool_]]]:
        return Region, (self.pixels,)

    def __repr__(self) -> str:
        height, width = self.size
        return f"Region(height={height}, width={width}, share={self.share:.3g})"


@lru_cache(maxsize=64)
def _cells(
    region: Region, geometry: Geometry, grid: tuple[int, int], variant: Variant | None
) -> NDArray[np.bool_]:
    pixels = region.pixels
    if variant is not None and variant.name:
        values = (pixels * np.uint8(255))[..., None].repeat(3, axis=2)
        pixels = variant.of(values)[..., 0] >= 128
    # An image of the region's proportions meets the network as one of its size would.
    placement = Placement(region.size, geometry)
    rows = [placement.box_of((row, 0), grid) for row in range(grid[0])]
    columns = [placement.box_of((0, column), grid) for column in range(grid[1])]
    in_rows = np.stack([pixels[box.top : box.bottom].sum(axis=0) for box in rows])
    n_inside = np.stack([in_rows[:, box.left : box.right].sum(axis=1) for box in columns], axis=1)
    n_pixels = np.outer(
        [box.bottom - box.top for box in rows], [box.right - box.left for box in columns]
    )
    counts: NDArray[np.bool_] = 2 * n_inside >= n_pixels
    counts.flags.writeable = False
    return counts
