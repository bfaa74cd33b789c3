"""Pictures, maps and crops of a page, as URIs that hold their data."""

from __future__ import annotations

import io
from base64 import b64encode
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from knnspect.report.colors import colorize
from knnspect.report.overlay import to_rgb
from knnspect.views import Box

__all__ = ["Window", "crop", "map_layer", "middle_of", "picture", "uri_of", "window_around"]

#: Pixels of the longer side of a map's layer: maps are smooth.
_LAYER = 192
#: Pixels of the longer side of a crop.
_CROP = 192
#: WebP's effort: 2 takes a third of the default's time, for files that are a twentieth larger.
_EFFORT = 2
#: How opaque the strongest colour is; the slider makes it less.
_OPAQUE = 255


class Window(NamedTuple):
    """A part of an image, in its pixels."""

    left: int
    top: int
    width: int
    height: int

    def __str__(self) -> str:
        """Return it as a view box of SVG."""
        return " ".join(map(str, self))


def uri_of(contents: bytes, kind: str) -> str:
    """Return a picture as a URI.

    >>> uri_of(b"abc", "jpeg")
    'data:image/jpeg;base64,YWJj'
    """
    return f"data:image/{kind};base64,{b64encode(contents).decode('ascii')}"


def picture(image: NDArray[Any], longest: int) -> str:
    """Return an image, shape (height, width, 3), with at most so many pixels on its longer side."""
    return _webp(_reduced(Image.fromarray(np.ascontiguousarray(to_rgb(image))), longest), 75)


def crop(image: NDArray[Any], window: Window) -> str:
    """Return the part of an image that a window shows."""
    rows = slice(window.top, window.top + window.height)
    return picture(image[rows, window.left : window.left + window.width], _CROP)


def map_layer(map_: NDArray[np.float32], scale: float, above: float | None = None) -> str:
    """Return the colours of a map, to be laid over its image.

    Parameters
    ----------
    map_ : ndarray of float32, shape (height, width)
        The map. Of pixels that are shown as one the largest counts, so that no peak is lost.
    scale : float
        The value with the strongest colour.
    above : float, optional
        Values up to this one are left transparent. None: the larger a value, the more opaque it is.
    """
    values = _largest_of_blocks(map_, -(-max(map_.shape) // _LAYER))
    share = np.clip(values / np.float64(scale), 0, 1)
    # From a tenth of the scale on; that of a value in the middle is a half.
    t = np.clip((share - 0.1) / 0.8, 0, 1)
    alpha = t * t * (3 - 2 * t)
    if above is not None:
        alpha = np.where(values > above, np.maximum(alpha, 0.55), 0)
    rgba = np.dstack([colorize(share), np.rint(alpha * _OPAQUE).astype(np.uint8)])
    return _webp(Image.fromarray(rgba), 80)


def window_around(middle: tuple[float, float], side: float, size: tuple[int, int]) -> Window:
    """Return a square part of an image around a point, moved and cut to lie in the image.

    Parameters
    ----------
    middle : (float, float)
        Row and column.
    side : float
        Its height and width.
    size : (int, int)
        Height and width of the image.

    Examples
    --------
    >>> window_around((10.0, 50.0), 40, (100, 60))
    Window(left=20, top=0, width=40, height=40)
    """
    height, width = (min(round(side), n) for n in size)
    top = min(max(round(middle[0] - height / 2), 0), size[0] - height)
    left = min(max(round(middle[1] - width / 2), 0), size[1] - width)
    return Window(left, top, width, height)


def middle_of(box: Box) -> tuple[float, float]:
    """Return row and column of the middle of a box.

    >>> middle_of(Box(0, 10, 4, 20))
    (2.0, 15.0)
    """
    return (box.top + box.bottom) / 2, (box.left + box.right) / 2


def _largest_of_blocks(map_: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    rows, columns = (np.arange(0, n, side) for n in map_.shape)
    largest: NDArray[np.float32] = np.maximum.reduceat(
        np.maximum.reduceat(map_, rows, axis=0), columns, axis=1
    )
    return largest


def _reduced(image: Image.Image, longest: int) -> Image.Image:
    if max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return image


def _webp(image: Image.Image, quality: int) -> str:
    contents = io.BytesIO()
    image.save(contents, "WEBP", quality=quality, method=_EFFORT)
    return uri_of(contents.getvalue(), "webp")
