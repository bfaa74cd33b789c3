"""The colours of a map, from near black through purple and red to pale yellow; those of marks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from knnspect.errors import DTypeError, ParameterError, ShapeError

__all__ = ["ALARM", "EDGE", "INK", "OUTLINE", "PLAQUE", "colorize"]

#: Outlines of regions, and the ink of their numbers: a colour that no map has. Beside it lies a
#: dark edge, so that it is seen on light images, too.
OUTLINE, EDGE = (60, 230, 255), (8, 20, 28)
#: The verdict: its ink, and what it stands on, where the image is normal or anomalous.
INK, PLAQUE, ALARM = (255, 255, 255), (22, 23, 27), (176, 0, 40)

# (position, red, green, blue). Lightness rises along the way, at a rate that is about even, so a
# larger value is a brighter colour: on a grey print and to a colour-blind reader as well.
_CONTROL_POINTS = np.array(
    [
        (0.00, 4, 4, 22),
        (0.14, 38, 12, 82),
        (0.28, 88, 18, 114),
        (0.42, 142, 32, 108),
        (0.56, 196, 52, 78),
        (0.70, 234, 96, 42),
        (0.84, 250, 158, 34),
        (0.94, 250, 212, 72),
        (1.00, 255, 247, 150),
    ]
)
_POSITIONS = np.linspace(0, 1, 256)
_TABLE = np.stack(
    [np.interp(_POSITIONS, _CONTROL_POINTS[:, 0], _CONTROL_POINTS[:, c]) for c in (1, 2, 3)],
    axis=1,
)
_TABLE = np.rint(_TABLE).astype(np.uint8)


def colorize(values: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Return the colours of values between 0 and 1.

    Parameters
    ----------
    values
        Shape ``(height, width)``, real and finite. Values below 0 get the colour of 0, values
        above 1 the colour of 1.

    Returns
    -------
    numpy.ndarray
        Shape ``(height, width, 3)``, uint8, red, green, blue: one of 256 colours for each value,
        brighter for larger values.

    Raises
    ------
    ShapeError
        If `values` is not two-dimensional.
    DTypeError
        If `values` does not hold real numbers.
    ParameterError
        If a value is not finite.

    Examples
    --------
    >>> colorize([[0.0, 0.5, 1.0]]).tolist()
    [[[4, 4, 22], [174, 44, 90], [255, 247, 150]]]
    """
    array = np.asarray(values)
    if array.ndim != 2:
        raise ShapeError(f"values: expected shape (height, width), got {array.shape}")
    if array.dtype.kind not in "biuf":
        raise DTypeError(f"values: expected real numbers, got {array.dtype}")
    if not np.isfinite(array).all():
        raise ParameterError("values: expected finite numbers, got NaN or an infinity")
    steps = np.rint(np.clip(array.astype(np.float32), 0, 1) * (len(_TABLE) - 1))
    colors: npt.NDArray[np.uint8] = _TABLE[steps.astype(np.intp)]
    return colors
