"""What a decision draws on an overlay: outlines and numbers of regions, the verdict in a corner."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from knnspect.detectors import Prediction
from knnspect.report.colors import ALARM, EDGE, INK, OUTLINE, PLAQUE
from knnspect.views import Box

__all__ = ["Marks"]

#: A line is this share of the shorter side wide, and at least a pixel.
_LINE_SHARE = 1 / 400
#: Text is this share of the shorter side high, and at least so many pixels.
_TEXT_SHARE, _TEXT_MIN = 1 / 28, 12
#: On an image with a shorter side than this, text would hide too much.
_SIDE_MIN = 96
#: The share of the width and the height that the verdict may take.
_VERDICT_WIDTH, _VERDICT_HEIGHT = 0.75, 0.2
#: Numbers of more regions would hide the image.
_NUMBERS_MAX = 99

_Color = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class _Plaque:
    """A small opaque picture with text, and where it stands."""

    box: Box
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Marks:
    """What a decision draws on an overlay.

    Parameters
    ----------
    threshold : float
        Pixels with map values up to this one are normal: they are not tinted.
    boxes : sequence of Box
        The anomalous regions, in the order of their numbers.
    verdict : str
        What is to stand in a corner, such as ``"anomalous"``.
    p_value : float
        Stands beside it.

    Examples
    --------
    >>> map_ = np.zeros((60, 80), np.float32)
    >>> map_[10:20, 30:50] = 5
    >>> marks = Marks(4.0, (Box(10, 30, 20, 50),), "anomalous", 0.01)
    >>> picture = np.zeros((60, 80, 3), np.uint8)
    >>> marks.draw(picture, slice(0, 60), map_)
    >>> picture[9, 40].tolist(), picture[15, 40].tolist(), picture[30, 40].tolist()
    ([60, 230, 255], [0, 0, 0], [0, 0, 0])
    """

    threshold: float
    boxes: tuple[Box, ...]
    verdict: str
    p_value: float

    @classmethod
    def of(cls, prediction: Prediction) -> Marks | None:
        """Return the marks of a prediction; None if it has no calibration."""
        if prediction.calibration is None:
            return None
        boxes = tuple(region.box for region in prediction.regions)
        return cls(prediction.pixel_threshold, boxes, prediction.verdict, prediction.p_value)

    def plaques(self, map_: npt.NDArray[Any]) -> list[_Plaque]:
        """Return the texts on a picture with this map: none hides another, and regions little."""
        size = (map_.shape[0], map_.shape[1])
        if min(size) < _SIDE_MIN:
            return []
        height = max(_TEXT_MIN, round(min(size) * _TEXT_SHARE))
        plaques: list[_Plaque] = []

        def put(pixels: npt.NDArray[np.uint8], places: Iterable[Box]) -> None:
            free = [
                place
                for place in places
                if _is_inside(place, size) and not any(_meet(place, one.box) for one in plaques)
            ]
            if free:
                best = min(free, key=lambda place: self._n_hidden(place, map_))
                plaques.append(_Plaque(best, pixels))

        verdict = self._verdict(size, height)
        if verdict is not None:
            put(verdict, _corners(verdict.shape[:2], size))
        for number, box in enumerate(self.boxes[:_NUMBERS_MAX], start=1):
            pixels = _written(str(number), height, EDGE, OUTLINE)
            put(pixels, _beside(box, pixels.shape[:2], 2 * _line(size) + 1))
        return plaques

    def draw(
        self,
        picture: npt.NDArray[np.uint8],
        rows: slice,
        map_: npt.NDArray[Any],
        plaques: list[_Plaque] | None = None,
    ) -> None:
        """Draw on some rows of a picture.

        Parameters
        ----------
        picture : ndarray of uint8, shape (n_rows, width, 3)
            The rows; they are changed.
        rows : slice
            Which rows of the whole picture these are.
        map_ : ndarray, shape (height, width)
            The map of the whole picture.
        plaques : list, optional
            What `plaques` returned; none by default.
        """
        self._outline(picture, rows, map_)
        for plaque in plaques or ():
            top, bottom = max(plaque.box.top, rows.start), min(plaque.box.bottom, rows.stop)
            if top < bottom:
                picture[
                    top - rows.start : bottom - rows.start, plaque.box.left : plaque.box.right
                ] = plaque.pixels[top - plaque.box.top : bottom - plaque.box.top]

    def _outline(self, picture: npt.NDArray[np.uint8], rows: slice, map_: npt.NDArray[Any]) -> None:
        """Draw a bright line around each region, and a dark one around that."""
        from scipy.ndimage import maximum_filter

        line = _line((map_.shape[0], map_.shape[1]))
        reach = 2 * line
        top, bottom = max(0, rows.start - reach), min(len(map_), rows.stop + reach)
        mask = map_[top:bottom] > self.threshold
        columns = np.flatnonzero(mask.any(axis=0))
        if not len(columns):
            return
        left, right = max(0, int(columns[0]) - reach), int(columns[-1]) + reach + 1
        mask = mask[:, left:right]
        inner = maximum_filter(mask, 2 * line + 1, mode="constant")
        outer = maximum_filter(inner, 2 * line + 1, mode="constant")
        own = slice(rows.start - top, rows.start - top + len(picture))
        part = picture[:, left:right]
        part[(outer & ~inner)[own]] = EDGE
        part[(inner & ~mask)[own]] = OUTLINE

    def _verdict(self, size: tuple[int, int], text_height: int) -> npt.NDArray[np.uint8] | None:
        """Return the verdict on its plaque; None if there is no room for it."""
        color = PLAQUE if self.verdict == "normal" else ALARM
        with_p_value = f"{self.verdict}, p = {self.p_value:.2g}"
        for text in (with_p_value, self.verdict)[self.verdict == "not found" :]:
            pixels = _written(text, text_height, color, INK)
            height, width = pixels.shape[:2]
            if width <= _VERDICT_WIDTH * size[1] and height <= _VERDICT_HEIGHT * size[0]:
                return pixels
        return None

    def _n_hidden(self, place: Box, map_: npt.NDArray[Any]) -> int:
        """Return how many anomalous pixels lie in a box."""
        part = map_[place.top : place.bottom, place.left : place.right]
        return int(np.count_nonzero(part > self.threshold))


def _line(size: tuple[int, int]) -> int:
    return max(1, round(min(size) * _LINE_SHARE))


def _written(text: str, height: int, background: _Color, ink: _Color) -> npt.NDArray[np.uint8]:
    """Return text of a height on a plaque, shape (height, width, 3)."""
    font = ImageFont.load_default(height)
    pad = math.ceil(height / 4)
    # As high as digits, whatever the text is; below them is room for what other letters need.
    _, top, _, bottom = font.getbbox("0")
    size = (math.ceil(font.getlength(text)) + 2 * pad, math.ceil(bottom - top) + 2 * pad)
    plaque = Image.new("RGB", size, background)
    ImageDraw.Draw(plaque).text((pad, pad - top), text, ink, font)
    return np.asarray(plaque)


def _beside(box: Box, size: tuple[int, int], gap: int) -> Iterator[Box]:
    """Return where a plaque of this size may stand: at each corner of a region, or within it."""
    height, width = size
    for top in (box.top - gap - height, box.bottom + gap):
        for left in (box.left, box.right - width):
            yield Box(top, left, top + height, left + width)
    for left in (box.left - gap - width, box.right + gap):
        yield Box(box.top, left, box.top + height, left + width)
    middle = (box.top + box.bottom - height) // 2, (box.left + box.right - width) // 2
    for top in (box.top, box.bottom - height, middle[0]):
        for left in (box.left, box.right - width, middle[1]):
            yield Box(top, left, top + height, left + width)


def _corners(size: tuple[int, int], whole: tuple[int, int]) -> Iterator[Box]:
    """Return where a plaque of this size may stand in a corner of a picture."""
    height, width = size
    for top in (0, whole[0] - height):
        for left in (0, whole[1] - width):
            yield Box(top, left, top + height, left + width)


def _is_inside(box: Box, size: tuple[int, int]) -> bool:
    return min(box.top, box.left) >= 0 and box.bottom <= size[0] and box.right <= size[1]


def _meet(one: Box, other: Box) -> bool:
    """Return whether two boxes share a pixel."""
    rows = min(one.bottom, other.bottom) - max(one.top, other.top)
    columns = min(one.right, other.right) - max(one.left, other.left)
    return rows > 0 and columns > 0
