"""From the distances of cells to a map of pixels."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from knnspect.constraints import Positive
from knnspect.data.geometry import strips
from knnspect.errors import ParameterError
from knnspect.validation import check_positive
from knnspect.views import Placement

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Sigma", "mean_of_top", "pixel_map"]

#: The side of the input that `sigma` is given for.
_SIDE = 224
#: Cells of a row whose pixels are worked out at a time, so that they take little memory.
_CELLS_AT_ONCE = 128


class Sigma(Positive):
    """The blur of maps; one wider than the whole input leaves nothing to be seen.

    It would take as much memory as its width.

    >>> Sigma().check("sigma", 4)
    """

    def __init__(self) -> None:
        super().__init__(or_zero=True, at_most=_SIDE)

    def check(self, name: str, value: Any) -> None:
        """Check the type and the bounds."""
        if check_positive(name, value, or_zero=True) > _SIDE:
            raise ParameterError(
                f"{name}: expected at most {_SIDE}, the side of the input in whose pixels it is, "
                f"got {value:g}"
            )


def pixel_map(cells: NDArray[Any], placement: Placement, sigma: float) -> NDArray[np.float32]:
    """Upsample cell scores bilinearly, blur them, and bring them back to the original image.

    The blur takes the image to go on beyond its border with the median of its own cells. (Mirrored
    there, as is usual, a single high cell would keep twice as much of its score at a border as it
    does inside, and four times as much in a corner, and the strongest pixel of a normal image would
    lie at its border.)

    Parameters
    ----------
    cells : ndarray of float, shape (height, width)
        The score of each cell.
    placement : Placement
        How the image met the network.
    sigma : float
        Standard deviation of the Gaussian blur, in pixels of a 224 px input; it grows with the
        input's size, that of its shorter side for ``resize="shorter"``; for images at their own
        size it grows with `Backbone.image_size`. 0 does not blur.

    Returns
    -------
    ndarray of float32, shape ``placement.size``
        The map, in the unit of `cells`.

    Examples
    --------
    >>> from knnspect.data import Geometry
    >>> pixel_map(np.ones((7, 7)), Placement((100, 50), Geometry((224, 224))), 4.0).shape
    (100, 50)
    """
    (height, width), sides = placement.input_size, placement.geometry.image_size
    rows = _spread(cells.shape[0], height, sigma * sides[0] / _SIDE)
    columns = _spread(cells.shape[1], width, sigma * sides[1] / _SIDE)
    # Less their median, cells go on with zeros, to which no weight need be given.
    median = np.median(cells)
    of_rows = rows @ (np.asarray(cells, np.float64) - median)
    pixels = np.empty((height, width), np.float32)
    for strip in strips(pixels.shape):
        pixels[strip] = (columns @ of_rows[strip].T + median).T
    return placement.to_image(pixels)


def mean_of_top(map_: NDArray[Any], share: float) -> float:
    """Return the mean of the largest values of a map.

    A single pixel decides less than with the maximum, and a defect counts by its size, too.

    Parameters
    ----------
    map_ : ndarray of float, shape (height, width)
        The map of an image, or the scores of its cells.
    share : float
        How many of them are taken, above 0 and at most 1; at least one is.

    Source
    ------
    Damm et al., "AnomalyDINO: Boosting Patch-based Few-shot Anomaly Detection with DINOv2" (2025),
    section 3.2: the mean of the highest 1 % of the distances of cells. Of the map's pixels it
    does not depend on the grid.

    Examples
    --------
    >>> mean_of_top(np.arange(100, dtype=np.float32).reshape(10, 10), 0.02)
    98.5
    """
    n_top = max(1, round(share * map_.size))
    return float(np.partition(map_, map_.size - n_top, axis=None)[-n_top:].mean(dtype=np.float64))


@lru_cache(maxsize=64)
def _spread(n_cells: int, n_pixels: int, sigma: float) -> csr_array:
    """Return what each cell of a row gives to each of its pixels, shape (n_pixels, n_cells).

    Upsampling and blurring are linear, and rows and columns are treated alike, so a map is a
    product with two of these matrices. They are sparse, and products with them do not depend on the
    number of threads. What the blur takes from beyond the border is zero.
    """
    from PIL import Image
    from scipy.sparse import csr_array, hstack

    parts = []
    for first in range(0, n_cells, _CELLS_AT_ONCE):
        n_columns = min(_CELLS_AT_ONCE, n_cells - first)
        cells = Image.fromarray(np.eye(n_cells, n_columns, -first, dtype=np.float32))
        pixels = cells.resize((n_columns, n_pixels), Image.Resampling.BILINEAR)
        weights: NDArray[np.float64] = np.asarray(pixels, np.float64)
        parts.append(csr_array(_blurred(weights, sigma) if sigma > 0 else weights))
    return csr_array(hstack(parts, format="csr"))


def _blurred(columns: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Blur each column by a Gaussian that ends at four sigma; beyond the border there are zeros.

    It gives the bits of `scipy.ndimage.gaussian_filter1d`, whose import takes a tenth of the time
    from the start of a process to its first map.
    """
    n, radius = len(columns), int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 / (sigma * sigma) * np.arange(-radius, radius + 1) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(columns, ((radius, radius), (0, 0)))
    blurred: NDArray[np.float64] = columns * kernel[radius]
    for offset in range(radius, 0, -1):
        left, right = radius - offset, radius + offset
        blurred += (padded[left : left + n] + padded[right : right + n]) * kernel[left]
    return blurred
