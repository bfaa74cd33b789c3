"""Windows of SiamMask: how large they are, and where their locations lie.

A window shows the part about half as large as its template's window, twice as wide: 127 of 255
pixels. The network's input has one more row and column, as its sides are multiples of the strides.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from knnspect.locators.part import Part

__all__ = [
    "CELLS",
    "COARSE",
    "FINE",
    "FIRST",
    "INPUT",
    "KERNEL",
    "LOCATIONS",
    "MIDDLE",
    "SEARCH",
    "STRIDE",
    "TEMPLATE",
    "factor_of",
    "location_pixels",
    "nearest_location",
]

#: Sides, in pixels, of what shows the template and of what is searched; of the network's input.
TEMPLATE, SEARCH, INPUT = 127, 255, 256
#: Pixels between cells; cells of a side of the window, and of the template's middle.
STRIDE, CELLS, KERNEL = 8, 32, 8
#: Locations on a side at which the template is compared: what two 3x3 convolutions leave of both.
LOCATIONS = (CELLS - 2) - (KERNEL - 2) + 1
#: Pixel of the window at which the first location lies, and its middle.
FIRST, MIDDLE = 31, 127
#: Sides of the mask of a location, as the head draws it, and refined.
COARSE, FINE = 63, 127


def factor_of(part: Part) -> float:
    """Return how many pixels of a window one of the template has.

    The template's window has a margin around the part: its side is the root of
    (height + p) (width + p), with p half the sum of both.

    Source
    ------
    Bertinetto et al., "Fully-Convolutional Siamese Networks for Object Tracking" (2016), section
    2.4.
    """
    height, width = part.size
    margin = (height + width) / 2
    return TEMPLATE / math.sqrt((height + margin) * (width + margin))


def location_pixels() -> NDArray[np.float64]:
    """Return the rows, or columns, of a window at which locations lie.

    >>> location_pixels()[[0, 12, 24]]
    array([ 31., 127., 223.])
    """
    return FIRST + STRIDE * np.arange(LOCATIONS, dtype=np.float64)


def nearest_location(pixel: float) -> int:
    """Return the place of the location that is nearest to a row or column of a window.

    >>> nearest_location(130.0), nearest_location(-50.0)
    (12, 0)
    """
    return min(LOCATIONS - 1, max(0, round((pixel - FIRST) / STRIDE)))
