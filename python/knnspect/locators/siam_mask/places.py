"""From what the network says of windows to the place of the part in an image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from knnspect.data import ImageArray
from knnspect.errors import ImageError
from knnspect.locators.found import DrawnMask
from knnspect.locators.part import Part
from knnspect.locators.rectangles import hull_of
from knnspect.locators.siam_mask.geometry import (
    FINE,
    INPUT,
    LOCATIONS,
    MIDDLE,
    STRIDE,
    factor_of,
    location_pixels,
)
from knnspect.views import AlignedView, similarity

if TYPE_CHECKING:
    from knnspect.locators.siam_mask.networks.judging import Said

__all__ = ["REACH", "Place", "Places"]

#: How many times as large, or small, as the middle of its scales a window may show the part.
REACH = 1.5
#: Pixels of a window below which a mask counts as none.
_SPECK = 16
#: Times that a window is laid around the part; by which share it may be off at the last.
_STEPS, _OFF = 3, 0.08


@dataclass(frozen=True, eq=False)
class Place:
    """Where the part may be in an image.

    Parameters
    ----------
    score : float
        How sure the network is, from 0 to 1.
    middle : (float, float)
        Row and column of the middle of the part's pixels, in the image.
    scale : float
        How many times as large as in the template it is.
    angle : float
        By how many degrees it is turned, counter-clockwise.
    drawn : DrawnMask or None
        Its mask; None where the network draws none.
    """

    score: float
    middle: tuple[float, float]
    scale: float
    angle: float
    drawn: DrawnMask | None


class Places:
    """Finds the places of one part.

    Parameters
    ----------
    part : Part
        The template's.
    look : callable
        Returns what the network says of the pixels of a window, (256, 256, 3).
    scales : (float, float)
        The smallest and the largest scale of parts.
    """

    def __init__(
        self, part: Part, look: Callable[[ImageArray], Said], scales: tuple[float, float]
    ) -> None:
        self._part, self.look, self._scales = part, look, scales
        self._factor = factor_of(part)
        self._area = float(part.mask.sum())
        rows, columns = np.nonzero(part.mask)
        #: The middle of the part's pixels, in its own frame.
        self._middle = float(rows.mean()), float(columns.mean())
        self._hull = hull_of(part.mask)

    def window(
        self, size: tuple[int, int], middle: tuple[float, float], scale: float
    ) -> AlignedView:
        """Return the way from an image to a window around a place, for parts of one scale."""
        way = similarity(0, self._factor / scale, at=middle, to=(MIDDLE, MIDDLE))
        return AlignedView(size, (INPUT, INPUT), way)

    def windows(self, size: tuple[int, int]) -> list[AlignedView]:
        """Return windows whose locations are all over an image of a size, for all scales.

        Raises
        ------
        ImageError
            If the part is larger than the image at all scales.
        """
        smallest, largest = self._scales
        sides = [sorted(n * smallest for n in self._part.size), sorted(size)]
        if any(part > image for part, image in zip(*sides, strict=True)):
            raise ImageError(
                f"the template, {self._part.size[0]} x {self._part.size[1]} pixels, is larger than "
                f"the image, {size[0]} x {size[1]}, at all scales"
            )
        n_scales = max(1, math.ceil(math.log(largest / smallest) / math.log(REACH**2)))
        ratio = (largest / smallest) ** (1 / n_scales)
        found = []
        for number in range(n_scales):
            scale = smallest * ratio ** (number + 0.5)
            reach = STRIDE * LOCATIONS * scale / self._factor
            lines = [
                [(k + 0.5) * n / count - 0.5 for k in range(count)]
                for n, count in ((n, math.ceil(n / reach)) for n in size)
            ]
            found += [
                self.window(size, (row, column), scale) for row in lines[0] for column in lines[1]
            ]
        return found

    def search(self, image: ImageArray) -> Place:
        """Return the best place in an image: windows all over it, then one around the part."""
        best: tuple[float, AlignedView, Said] | None = None
        for view in self.windows((image.shape[0], image.shape[1])):
            said = self.look(view.cut(image))
            if best is None or said.scores.max() > best[0]:
                best = float(said.scores.max()), view, said
        if best is None:
            raise ImageError("expected an image with pixels")
        place = self.of(best[1], best[2], *_highest(best[2].scores))
        for _ in range(_STEPS):
            before = place
            view = self.window(best[1].size, place.middle, self.within(place.scale))
            said = self.look(view.cut(image))
            place = self.of(view, said, *_highest(said.scores))
            if self._is_near(before, place):
                break
        return place

    def of(self, view: AlignedView, said: Said, row: int, column: int) -> Place:
        """Return the place at a location of a window."""
        cos, sin = said.turns[:, row, column].tolist()
        angle = math.degrees(math.atan2(sin, cos))
        score = float(said.scores[row, column])
        at = location_pixels()[[row, column]]
        zoom = math.sqrt(float(np.linalg.det(view.matrix[:, :2])))
        shares = said.mask(row, column)
        shown = shares >= 0.5
        if shown.sum() < _SPECK:
            middle, scale = self.boxed(said, angle, row, column)
            return Place(score, view.to_original(*middle), scale / zoom * self._factor, angle, None)
        first = at - FINE // 2
        matrix = view.matrix - np.array([[0, 0, first[0]], [0, 0, first[1]]])
        drawn = DrawnMask(AlignedView(view.size, (FINE, FINE), matrix), shares)
        rows, columns = np.nonzero(shown)
        middle = drawn.view.to_original(float(rows.mean()), float(columns.mean()))
        scale = math.sqrt(float(shown.sum()) / self._area) / zoom
        return Place(score, middle, scale, angle, drawn)

    def boxed(
        self, said: Said, angle: float, row: int, column: int
    ) -> tuple[tuple[float, float], float]:
        """Return what the box of a location says: the part's middle in the window, and its scale.

        The scale is 1 where the part is as large as the window is laid for.
        """
        down, right, log_height, log_width = said.boxes[:, row, column].tolist()
        height, width = (n * self._factor for n in self._part.size)
        at = location_pixels()
        middle = at[row] + down * height, at[column] + right * width
        area = height * width * math.exp(min(4.0, max(-4.0, log_height + log_width)))
        turned = self._hull @ similarity(angle, self._factor, (0, 0), (0, 0))[:, :2].T
        return middle, math.sqrt(area / float(np.ptp(turned, axis=0).prod()))

    def within(self, scale: float) -> float:
        """Return a scale, or the nearest that parts may have."""
        return min(max(scale, self._scales[0] / 1.2), self._scales[1] * 1.2)

    def view(self, place: Place, size: tuple[int, int]) -> AlignedView:
        """Return the way from an image to the template's frame."""
        way = similarity(-place.angle, 1 / place.scale, at=place.middle, to=self._middle)
        return AlignedView(size, self._part.size, way)

    def _is_near(self, before: Place, place: Place) -> bool:
        """Return whether a place is so near to the one before that its window would be the same."""
        off = math.dist(before.middle, place.middle) * self._factor / place.scale
        return off <= STRIDE / 2 and abs(math.log(place.scale / before.scale)) <= _OFF


def _highest(scores: NDArray[np.float64]) -> tuple[int, int]:
    row, column = np.unravel_index(int(scores.argmax()), scores.shape)
    return int(row), int(column)
