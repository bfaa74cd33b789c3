"""Windows with the part at a known place, pasted for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from knnspect.locators.part import Part, centre
from knnspect.locators.siam_mask.geometry import FINE, INPUT, MIDDLE
from knnspect.locators.siam_mask.grounds import Grounds
from knnspect.views import AlignedView, similarity

__all__ = ["Painter", "Pasted"]

#: Pixels around a window in which masks go on.
BEYOND = FINE // 2 + 1
#: By how many pixels a part lies off the middle at most.
_SHIFT = 92
#: Shares of windows without the part, with things of its outline, with an end of the image.
_WITHOUT, _DECOYS, _BORDERS = 0.15, 0.5, 0.15
#: The largest share of a part's extent that is cut off by the end of an image.
_CUT = 0.3


@dataclass(frozen=True, eq=False)
class Pasted:
    """A window, and where it shows the part.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (256, 256, 3)
        The window.
    mask : ndarray of bool, shape (256 + 2 `BEYOND`, ...)
        Where the part is, also beyond the window; nowhere in a window without it.
    middle : (float, float)
        Row and column of the middle of the part's frame.
    angle : float
        By how many degrees it is turned, counter-clockwise.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    middle: tuple[float, float]
    angle: float

    @property
    def has_part(self) -> bool:
        """Whether the part is there."""
        return bool(self.mask.any())

    def box(self) -> tuple[float, float, float, float]:
        """Return row and column of the middle of the part's upright box, its height and width."""
        ends = []
        for axis in (1, 0):
            along = np.flatnonzero(self.mask.any(axis=axis))
            ends.append((along[0] - BEYOND, along[-1] + 1 - BEYOND))
        (top, bottom), (left, right) = ends
        return (top + bottom - 1) / 2, (left + right - 1) / 2, bottom - top, right - left


class Painter:
    """Pastes parts on grounds, at known places, turns, scales and lights.

    Parameters
    ----------
    parts : sequence of Part
        Parts of one kind.
    grounds : Grounds
        Of the side of a window.
    factor : float
        How many pixels of a window one of the parts' pictures has.
    turn : float
        Degrees by which parts are turned at most, either way.
    scales : (float, float)
        How many times as large as in the template a window shows them, from and to.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        grounds: Grounds,
        factor: float,
        turn: float,
        scales: tuple[float, float],
    ) -> None:
        self._parts = [_reduced(part, factor * scales[1]) for part in parts]
        self._grounds, self._factor, self._turn, self._scales = grounds, factor, turn, scales

    def paste(self, number: int, rng: np.random.Generator) -> Pasted:
        """Return a window with one of the parts, by its number, or without."""
        pixels = self._grounds.draw(rng).astype(np.float32)
        for _ in range(rng.integers(1, 3) if rng.random() < _DECOYS else 0):
            self._add_decoy(pixels, rng)
        angle = float(rng.uniform(-self._turn, self._turn))
        low, high = (float(np.log(scale)) for scale in self._scales)
        middle = tuple(MIDDLE + rng.uniform(-_SHIFT, _SHIFT, 2))
        mask = np.zeros((INPUT + 2 * BEYOND,) * 2, bool)
        if rng.random() >= _WITHOUT:
            scale = float(np.exp(rng.uniform(low, high)))
            part, factor = self._parts[number]
            shown = self._add(pixels, part, angle, self._factor * scale / factor, middle, rng)
            mask = shown >= 0.5
            if rng.random() < _BORDERS:
                _end(pixels, mask[BEYOND:-BEYOND, BEYOND:-BEYOND], rng)
        return Pasted(_lit(pixels, rng), mask, (middle[0], middle[1]), angle)

    def _add(
        self,
        pixels: NDArray[np.float32],
        part: Part,
        angle: float,
        factor: float,
        middle: tuple[float, ...],
        rng: np.random.Generator,
    ) -> NDArray[np.float32]:
        """Paste a part; return how much of each pixel it covers, also beyond the window."""
        side = INPUT + 2 * BEYOND
        to = (middle[0] + BEYOND, middle[1] + BEYOND)
        view = AlignedView(
            part.size, (side, side), similarity(angle, factor, at=centre(part.size), to=to)
        )
        shown = AlignedView((side, side), part.size, view.inverse).to_image(
            part.mask.astype(np.float32)
        )
        top, left, bottom, right = _covered(shown[BEYOND:-BEYOND, BEYOND:-BEYOND])
        if bottom > top:
            room = pixels[top:bottom, left:right]
            matrix = view.matrix - np.array([[0, 0, top + BEYOND], [0, 0, left + BEYOND]])
            cut = AlignedView(part.size, (bottom - top, right - left), matrix).cut(part.pixels)
            lit = cut * rng.uniform(0.75, 1.25) * rng.uniform(0.93, 1.07, 3)
            share = shown[top + BEYOND : bottom + BEYOND, left + BEYOND : right + BEYOND, None]
            room += share * (lit.clip(0, 255) - room)
        return shown

    def _add_decoy(self, pixels: NDArray[np.float32], rng: np.random.Generator) -> None:
        """Paste something else of the outline of a part, so that outlines do not tell."""
        part, factor = self._parts[rng.integers(len(self._parts))]
        ground = Image.fromarray(self._grounds.draw(rng)).resize(part.size[::-1])
        scale = float(rng.uniform(0.4, 1.6)) * self._factor / factor
        middle = tuple(MIDDLE + rng.uniform(-110, 110, 2))
        other = Part(np.asarray(ground), part.mask)
        self._add(pixels, other, float(rng.uniform(-180, 180)), scale, middle, rng)


def _reduced(part: Part, factor: float) -> tuple[Part, float]:
    """Return a part no larger than it is shown, as uint8, and by which factor it was reduced."""
    pixels = part.pixels
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels * 255).astype(np.uint8)
    if factor >= 1:
        return Part(pixels, part.mask), 1.0
    height, width = (max(1, round(n * factor)) for n in part.size)
    smaller = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
    mask = Image.fromarray(part.mask.astype(np.uint8) * 255).resize(
        (width, height), Image.Resampling.BOX
    )
    return Part(smaller, np.asarray(mask) > 127), (height / part.size[0] + width / part.size[1]) / 2


def _covered(shown: NDArray[np.float32]) -> tuple[int, int, int, int]:
    rows, columns = (np.flatnonzero((shown > 0).any(axis=axis)) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return 0, 0, 0, 0
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _end(pixels: NDArray[np.float32], mask: NDArray[np.bool_], rng: np.random.Generator) -> None:
    """Let the image end within a window, through the part or beside it; its last pixels go on."""
    top, left, bottom, right = _covered(mask.astype(np.float32))
    if bottom <= top:
        return
    kind = rng.integers(4)
    low, high = (top, bottom) if kind < 2 else (left, right)
    within = round(rng.uniform(-_CUT, _CUT) * (high - low))
    if kind % 2 == 0:
        end = min(max(low + within, 0), INPUT - 1)
        lines = np.maximum(np.arange(INPUT), end)
    else:
        end = min(max(high - within, 0), INPUT - 1)
        lines = np.minimum(np.arange(INPUT), end)
    pixels[:] = pixels[lines] if kind < 2 else pixels[:, lines]


def _lit(pixels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a window in another light, out of focus, moved, with noise."""
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    kind = rng.random()
    if kind < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.8))))
    found = np.asarray(image, np.float32)
    if kind > 0.8:
        found = _moved(found, rng)
    values = found / 255
    values = np.power(values, np.float32(rng.uniform(0.75, 1.35))) * np.float32(
        rng.uniform(0.65, 1.3)
    )
    if rng.random() < 0.3:
        ramp = np.linspace(rng.uniform(0.6, 1.1), rng.uniform(0.6, 1.1), INPUT, dtype=np.float32)
        values *= ramp[:, None, None] if rng.random() < 0.5 else ramp[None, :, None]
    noise = rng.standard_normal(values.shape, np.float32) * np.float32(rng.uniform(0, 0.03))
    lit: NDArray[np.uint8] = ((values + noise) * 255).round().clip(0, 255).astype(np.uint8)
    return lit


def _moved(pixels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the mean of a window shifted along a line, as a camera that moves sees it."""
    angle, length = rng.uniform(0, np.pi), rng.uniform(1, 5)
    total = np.zeros_like(pixels)
    steps = np.linspace(-length, length, 5)
    for step in steps:
        down, right = round(step * np.sin(angle)), round(step * np.cos(angle))
        total += np.roll(pixels, (down, right), axis=(0, 1))
    found: NDArray[np.float32] = total / np.float32(len(steps))
    return found
