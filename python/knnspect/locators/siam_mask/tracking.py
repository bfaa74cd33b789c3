"""Following a part from frame to frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from knnspect.data import ImageArray
from knnspect.locators.siam_mask.geometry import LOCATIONS
from knnspect.locators.siam_mask.places import Place, Places

__all__ = ["Follower"]

#: How far the scale follows that of a sure place, of 1.
_RATE = 0.6


class Follower:
    """Finds the part in frames, one after the other, near to where it was.

    Parameters
    ----------
    places : Places
        Finds places of the part.
    threshold : float
        The score below which it is lost.
    scale_penalty, window_influence : float
        See `SiamMask`.

    Source
    ------
    Li et al., "High Performance Visual Tracking with Siamese Region Proposal Network" (2018),
    section 4.4, as SiamMask tracks. The window is laid by the mask's area, not by the box, so that
    a part that turns is not taken for one that grows.
    """

    def __init__(
        self, places: Places, threshold: float, scale_penalty: float, window_influence: float
    ) -> None:
        self._places, self._threshold = places, threshold
        self._penalty, self._influence = scale_penalty, window_influence
        line = np.hanning(LOCATIONS + 2)[1:-1]
        self._cosine = np.outer(line, line)
        #: Where it was; None at the beginning, and once it is lost.
        self._last: Place | None = None
        self._scale = 1.0
        self._box: tuple[float, float] | None = None

    def follow(self, image: ImageArray) -> Place:
        """Return the place of the part in the next frame."""
        place = None if self._last is None else self._near(image, self._last)
        if place is None or place.score < self._threshold:
            place = self._places.search(image)
            self._scale, self._box = self._places.within(place.scale), None
        self._last = place if place.score >= self._threshold else None
        return place

    def _near(self, image: ImageArray, last: Place) -> Place:
        view = self._places.window((image.shape[0], image.shape[1]), last.middle, self._scale)
        said = self._places.look(view.cut(image))
        # In the image: the window shows parts by its scale.
        heights, widths = np.exp(said.boxes[2:].astype(np.float64).clip(-4, 4)) * self._scale
        penalty = np.ones_like(said.scores)
        if self._box is not None:
            height, width = self._box
            shapes = _change((heights / widths) / (height / width))
            sizes = _change(_size(heights, widths) / _size(height, width))
            penalty = np.exp(-(shapes * sizes - 1) * self._penalty)
        scores = said.scores * penalty * (1 - self._influence) + self._cosine * self._influence
        row, column = (int(n) for n in np.unravel_index(int(scores.argmax()), scores.shape))
        place = self._places.of(view, said, row, column)
        rate = _RATE * float(penalty[row, column]) * place.score
        scale = self._places.within(place.scale)
        self._scale = self._scale ** (1 - rate) * scale**rate
        self._box = float(heights[row, column]), float(widths[row, column])
        return place


def _change(ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(ratio, 1 / ratio)


def _size(
    height: NDArray[np.float64] | float, width: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """Return the side of a square around boxes with a margin; see `factor_of`."""
    margin = (height + width) / 2
    return np.sqrt((height + margin) * (width + margin))
