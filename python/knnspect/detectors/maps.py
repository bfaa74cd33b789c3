"""From the distances of cells to a map of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.data import Geometry

__all__ = ["pixel_map"]


def pixel_map(
    cells: NDArray[Any], geometry: Geometry, sigma: float, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Upsample cell scores bilinearly, blur them, and bring them back to the original image.

    Parameters
    ----------
    cells : ndarray of float, shape (height, width)
        The score of each cell.
    geometry : Geometry
        How the image met the network.
    sigma : float
        Standard deviation of the Gaussian blur, in pixels of a 224 px input; it grows with the
        input's size. 0 does not blur.
    size : (int, int)
        Height and width of the original image.

    Returns
    -------
    ndarray of float32, shape ``size``
        The map, in the unit of `cells`.

    Examples
    --------
    >>> pixel_map(np.ones((7, 7)), Geometry((224, 224)), 4.0, (100, 50)).shape
    (100, 50)
    """
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    height, width = geometry.image_size
    values = Image.fromarray(np.ascontiguousarray(cells, dtype=np.float32))
    upsampled = np.asarray(values.resize((width, height), Image.Resampling.BILINEAR))
    if sigma > 0:
        upsampled = gaussian_filter(upsampled, (sigma * height / 224, sigma * width / 224))
    return geometry.restore(upsampled, size)
