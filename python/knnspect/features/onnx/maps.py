"""Tensors of a graph as feature maps: where rows, columns and channels are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from knnspect.errors import ParameterError

__all__ = ["MapLayout", "layout_of"]

Floats = NDArray[Any]  # float32

#: Tokens of a transformer that belong to no place, at most: a class token, four registers.
_MOST_PREFIX_TOKENS = 5


@dataclass(frozen=True)
class MapLayout:
    """Where a tensor has the rows, columns and channels of a map.

    Parameters
    ----------
    axes : {"NCHW", "NHWC", "NTC"}
        Of images, channels, rows and columns, or tokens.
    prefix : int
        Tokens before those of the patches.
    patch : int
        Pixels of the side of a token's patch.
    """

    axes: str
    prefix: int = 0
    patch: int = 1

    def map_of(self, tensor: Floats, input_size: tuple[int, int]) -> Floats:
        """Return the map of the only image of a tensor, (rows, columns, channels)."""
        map_: Floats = tensor[0]
        if self.axes == "NCHW":
            map_ = map_.transpose(1, 2, 0)
        if self.axes == "NTC":
            height, width = input_size
            map_ = map_[self.prefix :].reshape(height // self.patch, width // self.patch, -1)
        return map_


def layout_of(
    name: str,
    shape: tuple[int, ...],
    input_size: tuple[int, int],
    is_channels_first: bool,
    otherwise: str,
) -> MapLayout:
    """Find out where a tensor has its rows, columns and channels.

    If that is not known, the axes are its grid that have the proportions of the input, but for a
    cell that rounding or a border made. Where that does not tell, as of 14 channels of 14 x 14
    cells, `otherwise` counts.

    Parameters
    ----------
    name : str
        The tensor.
    shape : tuple of int
        Its shape, for one image.
    input_size : (int, int)
        Height and width of the image.
    is_channels_first : bool
        Whether its second axis is known to have the channels.
    otherwise : {"NCHW", "NHWC"}
        The layout of a tensor of 4 axes whose shape does not tell.

    Raises
    ------
    ParameterError
        If it is no map.

    Examples
    --------
    >>> layout_of("a", (1, 40, 28, 28), (224, 224), False, "NCHW").axes
    'NCHW'
    >>> layout_of("b", (1, 28, 28, 40), (224, 224), False, "NCHW").axes
    'NHWC'
    >>> layout_of("c", (1, 1 + 14 * 7, 384), (224, 112), False, "NCHW")
    MapLayout(axes='NTC', prefix=1, patch=16)
    """
    is_of_one = shape[:1] == (1,) and min(shape) > 0
    if len(shape) == 4 and is_of_one:
        if is_channels_first:
            return MapLayout("NCHW")
        fits = {
            "NCHW": _has_proportions(shape[2:], input_size),
            "NHWC": _has_proportions(shape[1:3], input_size),
        }
        found = [axes for axes, does in fits.items() if does]
        return MapLayout(found[0] if len(found) == 1 else otherwise)
    if len(shape) == 3 and is_of_one and not is_channels_first:
        for prefix in range(min(_MOST_PREFIX_TOKENS + 1, shape[1])):
            patch = _patch(shape[1] - prefix, input_size)
            if patch is not None:
                return MapLayout("NTC", prefix, patch)
    height, width = input_size
    raise ParameterError(
        f"levels: {name!r} has the shape {shape} for one image of {height} x {width} pixels; "
        "expected a map, (1, channels, rows, columns) or (1, rows, columns, channels), or the "
        "tokens of square patches, (1, tokens, channels)",
        parameter="levels",
    )


def _has_proportions(grid: tuple[int, ...], input_size: tuple[int, int]) -> bool:
    """Return whether a grid is that of the input at some stride, give or take a cell."""
    (rows, columns), (height, width) = grid, input_size
    if rows > height or columns > width:
        return False
    longer = (rows, columns, height, width) if height >= width else (columns, rows, width, height)
    # The shorter side that goes with the longer one, rounding of which may be off by a cell.
    return abs(longer[0] * longer[3] / longer[2] - longer[1]) <= 1


def _patch(n_tokens: int, input_size: tuple[int, int]) -> int | None:
    """Return the side of the square patches, of which there are as many as tokens.

    >>> _patch(14 * 7, (224, 112)), _patch(14 * 7 + 1, (224, 112))
    (16, None)
    """
    height, width = input_size
    side = round((height * width / n_tokens) ** 0.5)
    if side and not height % side and not width % side:
        return side if height // side * (width // side) == n_tokens else None
    return None
