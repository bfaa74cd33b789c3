"""What a locator says of an image: whether it shows the part, and where."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from knnspect.errors import ImageError
from knnspect.locators.rectangles import RotatedBox, hull_of, rotated_box_of
from knnspect.views import AlignedView, Box

__all__ = ["DrawnMask", "FoundPart", "RotatedBox"]

#: Pixels by which corners may be off by rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class DrawnMask:
    """A mask that a network has drawn of a square of an image.

    Parameters
    ----------
    view : AlignedView
        The way from the image to the square, which is upright and may go on beyond the image.
    shares : ndarray of float32, shape ``view.frame``
        How sure it is of each pixel: from 0.5 on it shows the part.
    """

    view: AlignedView
    shares: NDArray[np.float32] = field(repr=False)

    @property
    def shown(self) -> NDArray[np.bool_]:
        """Which pixels of the square show the part."""
        found: NDArray[np.bool_] = self.shares >= 0.5
        return found

    def rotated_box(self, near: float) -> RotatedBox:
        """Return the rectangle of least area around it in the image; see `rotated_box_of`."""
        box, size = rotated_box_of(self.shown, near), _scale(self.view)
        row, column = self.view.to_original(box.row, box.column)
        return RotatedBox(row, column, box.height * size, box.width * size, box.angle)

    def corners(self) -> NDArray[np.float64]:
        """Return the corners of its convex hull in the image, (row, column)."""
        hull = hull_of(self.shown)
        return np.stack(self.view.to_original(hull[:, 0], hull[:, 1]), axis=1)


@dataclass(frozen=True, eq=False)
class FoundPart:
    """Where an image shows the part, at best.

    Parameters
    ----------
    image_id : str
        The image.
    found : bool
        Whether the score reaches the threshold. All else is about the best place anyway.
    score : float
        How much that place looks like the part: 1 at most.
    threshold : float
        The score from which on a part counts as found.
    view : AlignedView
        The way from the image to the template's frame, which is the box of the part in the
        template, and back.
    part : ndarray of bool, shape ``view.frame``
        Which pixels of the template's frame show the part.
    p_value : float or None
        The conformal p-value of an image that shows the part; None without normal frames.
    drawn : DrawnMask or None
        What a network that draws masks has drawn: `mask`, `box` and `rotated_box` are then of it,
        else of the template's, moved.

    Examples
    --------
    >>> from knnspect.views import similarity
    >>> view = AlignedView((40, 60), (10, 20), similarity(0, 0.5, at=(20, 30), to=(4.5, 9.5)))
    >>> found = FoundPart("a.png", True, 0.9, 0.5, view, np.ones((10, 20), bool))
    >>> found.box, found.rotated_box
    (Box(top=10, left=10, bottom=31, right=51), RotatedBox(row=20.0, column=30.0, height=20.0, \
width=40.0, angle=0.0))
    >>> int(found.mask.sum())
    800
    """

    image_id: str
    found: bool
    score: float
    threshold: float
    view: AlignedView
    part: NDArray[np.bool_] = field(repr=False)
    p_value: float | None = None
    drawn: DrawnMask | None = None

    def check(self, file: Path | None = None) -> None:
        """Raise an ImageError if the part was not found.

        Parameters
        ----------
        file : Path, optional
            The file of the image, for the error.
        """
        if not self.found:
            raise ImageError(
                f"image {self.image_id}: the part was not found: its score is {self.score:.3f}, "
                f"{self.threshold:.3f} are expected",
                image=self.image_id,
                path=file,
            )

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The transform of positions (row, column, 1) in the image to the template's frame."""
        return self.view.matrix

    @property
    def angle(self) -> float:
        """By how many degrees, counter-clockwise, the part is turned; from -180 to 180."""
        back = self.view.inverse
        return math.degrees(math.atan2(back[1, 0], back[0, 0]))

    @property
    def scale(self) -> float:
        """How many times as long as in the template the part is."""
        return _scale(self.view)

    @property
    def rotated_box(self) -> RotatedBox:
        """The rectangle of least area around a mask that was drawn, else the template's frame."""
        if self.drawn is not None:
            return self.drawn.rotated_box(self.angle)
        height, width = self.view.frame
        row, column = self.view.to_original((height - 1) / 2, (width - 1) / 2)
        return RotatedBox(row, column, height * self.scale, width * self.scale, self.angle)

    @property
    def box(self) -> Box:
        """The upright box around the rotated one; it may go on beyond the image."""
        corners = self.view.corners() if self.drawn is None else self.drawn.corners()
        top, left = (math.floor(low + 0.5 + _ROUNDING) for low in corners.min(axis=0).tolist())
        bottom, right = (math.ceil(high + 0.5 - _ROUNDING) for high in corners.max(axis=0).tolist())
        return Box(top, left, bottom, right)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Which pixels of the image show the part, shape ``view.size``."""
        if self.drawn is not None:
            shares = self.drawn.view.to_image(self.drawn.shares)
        else:
            shares = self.view.to_image(self.part.astype(np.float32))
        found: NDArray[np.bool_] = shares >= 0.5
        return found

    @property
    def share_inside(self) -> float:
        """The share of the part's pixels that lie in the image."""
        rows, columns = np.nonzero(self.part)
        at_rows, at_columns = self.view.to_original(rows, columns)
        height, width = self.view.size
        inside = (at_rows > -0.5) & (at_rows < height - 0.5)
        inside &= (at_columns > -0.5) & (at_columns < width - 0.5)
        return float(inside.mean())


def _scale(view: AlignedView) -> float:
    """Return how many pixels of the image one of the frame is."""
    return math.sqrt(abs(float(np.linalg.det(view.inverse[:, :2]))))
