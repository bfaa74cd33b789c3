"""What parts are pasted on: pictures without them, pieces of pictures with them, and patterns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from knnspect.data import ImageArray

__all__ = ["Grounds"]

#: The share of grounds that are patterns where there are pictures without the part.
_PATTERNS = 0.35
#: The side of a piece, in pixels; that of the largest picture that is kept.
_PIECES, _LARGEST = (24, 96), 640


class Grounds:
    """Draws grounds of one side, each another one.

    Parameters
    ----------
    plain : sequence of ndarray
        Images without the part: any excerpt, turned by quarters and mirrored.
    mixed : sequence of ndarray
        Images that may show it: pieces of them, too small for the part, put together anew.
    side : int
        Of a ground, in pixels.

    Examples
    --------
    >>> grounds = Grounds([], [np.zeros((40, 50, 3), np.uint8)], 64)
    >>> grounds.draw(np.random.default_rng(0)).shape
    (64, 64, 3)
    """

    def __init__(self, plain: Sequence[ImageArray], mixed: Sequence[ImageArray], side: int) -> None:
        self._plain = [_picture(image) for image in plain]
        self._mixed = [_picture(image) for image in mixed]
        self._side = side

    def draw(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return the next ground, (side, side, 3)."""
        if rng.random() < (_PATTERNS if self._plain else 0.6):
            return self._pattern(rng)
        if self._plain:
            return self._excerpt(self._plain[rng.integers(len(self._plain))], self._side, rng, 0.25)
        return self._pieces(rng)

    def _excerpt(
        self, picture: Image.Image, side: int, rng: np.random.Generator, least: float
    ) -> NDArray[np.uint8]:
        """Return a square of a picture, at least this share of its shorter side, as a ground."""
        of_picture = rng.uniform(least, 1) * min(picture.size)
        left, top = (rng.uniform(0, n - of_picture) for n in picture.size)
        box = (left, top, left + of_picture, top + of_picture)
        cut = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR, box=box))
        turned = np.rot90(cut, int(rng.integers(4)))
        return turned[:, ::-1] if rng.random() < 0.5 else turned

    def _pieces(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        found = np.zeros((self._side, self._side, 3), np.uint8)
        side = int(rng.integers(_PIECES[0], _PIECES[1], endpoint=True))
        for top in range(0, self._side, side):
            for left in range(0, self._side, side):
                picture = self._mixed[rng.integers(len(self._mixed))]
                piece = self._excerpt(picture, side, rng, 0.05) if rng.random() < 0.5 else None
                room = found[top : top + side, left : left + side]
                if piece is None:
                    room[:] = rng.integers(0, 256, 3)
                else:
                    room[:] = piece[: room.shape[0], : room.shape[1]]
        return found

    def _pattern(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return random colours, coarse and fine: clouds, grain, stripes, spots."""
        found = np.zeros((self._side, self._side, 3), np.float32)
        found += rng.uniform(20, 235, 3).astype(np.float32)
        for _ in range(rng.integers(1, 4)):
            rows, columns = (int(2 ** rng.uniform(0, 7)) for _ in range(2))
            is_grey = rng.random() < 0.5
            knots = rng.normal(0, 1, (rows, columns, 1 if is_grey else 3)) * rng.uniform(5, 60)
            resample = Image.Resampling.NEAREST if rng.random() < 0.3 else Image.Resampling.BICUBIC
            layers = [
                np.asarray(
                    Image.fromarray(knots[..., channel].astype(np.float32)).resize(
                        (self._side, self._side), resample
                    )
                )
                for channel in range(knots.shape[2])
            ]
            found += np.stack(layers, axis=-1)
        return found.clip(0, 255).astype(np.uint8)


def _picture(image: ImageArray) -> Image.Image:
    pixels = image if image.dtype == np.uint8 else np.rint(image * 255).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((_LARGEST, _LARGEST))
    return picture
