"""What is watched of a judged image, besides its score."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.errors import ShapeError

__all__ = ["QUANTITIES", "quantities"]

#: The names of the quantities, and what they tell.
QUANTITIES = ("score", "map median", "brightness", "sharpness")
#: Pixels that are looked at, in whole rows.
_N_PIXELS = 1 << 20


def quantities(score: float, map_: NDArray[Any], picture: NDArray[Any]) -> dict[str, float]:
    """Return numbers that change when something about the images changes.

    The score follows the most unusual place alone, and good features hardly notice another light:
    solar cells that are darker by a fifth get about the same scores. The other numbers notice.

    Parameters
    ----------
    score : float
        The score of the image.
    map_ : ndarray, shape (height, width)
        Its map.
    picture : ndarray, shape (height, width, 3)
        The image, uint8, or float in [0, 1]. Of a large one, some rows are looked at.

    Returns
    -------
    dict of str to float
        ``"score"``; ``"map median"``, the score of the usual place; ``"brightness"``, the mean of
        the pixels, in [0, 1]; ``"sharpness"``, the mean absolute difference of neighbouring pixels
        of a row, which falls when the focus is lost.

    Raises
    ------
    ShapeError
        If the picture or the map has another number of dimensions.

    Examples
    --------
    >>> quantities(2.0, np.ones((4, 4)), np.full((4, 4, 3), 51, np.uint8))
    {'score': 2.0, 'map median': 1.0, 'brightness': 0.2, 'sharpness': 0.0}
    """
    if np.ndim(map_) != 2 or np.ndim(picture) != 3:
        raise ShapeError(
            "expected a map of shape (height, width) and a picture of shape (height, width, 3), "
            f"got {np.shape(map_)} and {np.shape(picture)}"
        )
    height, width, _ = picture.shape
    step = -(-height * width // _N_PIXELS)
    grey = picture[::step].mean(axis=2, dtype=np.float64)
    if picture.dtype == np.uint8:
        grey /= 255
    sharpness = float(np.abs(np.diff(grey, axis=1)).mean()) if width > 1 else 0.0
    return {
        "score": float(score),
        "map median": float(np.median(map_)),
        "brightness": float(grey.mean()),
        "sharpness": sharpness,
    }
