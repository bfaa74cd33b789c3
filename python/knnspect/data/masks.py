"""Masks: which pixels of an image are defective, however the file came about."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.data.folders import list_images
from knnspect.data.reader import ImageReader
from knnspect.errors import DatasetWarning, ImageError

__all__ = ["Mask", "load_mask", "read_mask"]

#: "two values": what a mask should be. "labels": several values, each of which fills areas, as
#: where every kind of defect has a value of its own. "soft": anything else, as after a JPEG.
Kind = Literal["two values", "labels", "soft"]

#: Share of a value's pixels that lie among their like, from which on the value fills areas. A
#: scratch three pixels wide has a third, the slopes of soft edges have next to none.
_FILLS_AREAS = 0.3
#: Labels are few; more values than these are slopes.
_MOST_LABELS = 64
#: Up to this share of the file's range, values that fill no areas are noise on a black mask.
_DARK = 16 / 255


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask as it was read.

    Attributes
    ----------
    pixels : numpy.ndarray
        Shape (height, width), bool: which pixels are defective.
    kind : {"two values", "labels", "soft"}
        What the file holds; of several files, the first that does not hold two values.
    """

    pixels: NDArray[np.bool_]
    kind: Kind


def read_mask(
    path: str | os.PathLike[str], size: tuple[int, int] | None = None
) -> NDArray[np.bool_]:
    """Return which pixels a mask marks as defective.

    - Of two values the larger one is defective: 255 beside 0, or 1 beside 0. A file of a single
      value is defective everywhere, unless it is black.
    - Of more values all but the smallest are defective, if each of them fills areas: they are
      labels of several kinds of defects.
    - Other masks have soft edges, or were a JPEG once. A pixel is defective there whose value is
      at least half of the file's largest; without such values in any area, and none above a
      sixteenth of the range, all of it is taken for noise on a black mask.

    The value of a coloured pixel is that of its strongest channel. Transparent pixels are black.

    Parameters
    ----------
    path : str or os.PathLike
        The mask's file, in any format that `read_image` reads; or a folder of masks of the same
        image, whose union is returned.
    size : tuple of int, optional
        (height, width) that the mask must have: that of its image.

    Returns
    -------
    numpy.ndarray
        Shape (height, width), bool.

    Raises
    ------
    ImageError
        The file cannot be read, or has another size than `size`; or a folder holds no masks, or
        some of different sizes.

    Warns
    -----
    DatasetWarning
        The mask has more than two values.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "0_mask.png")
    ...     Image.fromarray(np.array([[0, 255, 0]], np.uint8)).save(file)
    ...     read_mask(file, size=(1, 3)).tolist()
    [[False, True, False]]
    """
    mask = load_mask(path, size)
    if mask.kind != "two values":
        warnings.warn(f"{Path(path)}: {WORDS[mask.kind]}", DatasetWarning, stacklevel=2)
    return mask.pixels


#: How masks are read that do not have two values.
WORDS: dict[Kind, str] = {
    "soft": (
        "a mask with soft edges, or one that was a JPEG: defective is what has at least half of "
        "its largest value"
    ),
    "labels": "a mask with several labels: all but the smallest value are taken for defective",
}


def load_mask(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    reader: ImageReader | None = None,
) -> Mask:
    """Return a mask and what kind it is; as `read_mask`, but without a warning.

    Parameters
    ----------
    path, size
        As for `read_mask`.
    reader : ImageReader, optional
        Reads it; what it collects is left to the caller to say.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "0_mask.png")
    ...     Image.fromarray(np.array([[0, 3, 200, 255]], np.uint8)).save(file)
    ...     mask = load_mask(file)
    >>> mask.pixels.tolist(), mask.kind
    ([[False, False, True, True]], 'soft')
    """
    place, reader = Path(path), reader or ImageReader()
    if not place.is_dir():
        return _load_file(place, size, reader)
    files = list_images(place)
    if not files:
        raise ImageError(f"{place}: expected masks in this folder, got none")
    first = _load_file(files[0], size, reader)
    pixels, kinds = first.pixels, [first.kind]
    for file in files[1:]:
        mask = _load_file(file, (pixels.shape[0], pixels.shape[1]), reader)
        pixels = pixels | mask.pixels
        kinds.append(mask.kind)
    return Mask(pixels, next((kind for kind in kinds if kind != "two values"), "two values"))


def _load_file(file: Path, size: tuple[int, int] | None, reader: ImageReader) -> Mask:
    values: NDArray[Any] = reader.from_file(file).max(axis=2)
    if size is not None and values.shape != tuple(size):
        raise ImageError(
            f"{file}: expected a mask of its image's size {tuple(size)} (height, width), "
            f"got {values.shape}",
            path=file,
        )
    low, high = values.min(), values.max()
    if low == high:
        return Mask(np.full(values.shape, bool(high)), "two values")
    is_high = values == high
    if (is_high | (values == low)).all():
        return Mask(is_high, "two values")
    if _are_labels(values):
        return Mask(values > low, "labels")
    pixels = values >= high / 2
    is_dark = high <= _DARK * (255 if values.dtype == np.uint8 else 1)
    if is_dark and _flat(pixels)[pixels].mean() < _FILLS_AREAS:
        pixels = np.zeros_like(pixels)
    return Mask(pixels, "soft")


def _are_labels(values: NDArray[Any]) -> bool:
    """Return whether every value but the smallest fills areas."""
    labels, places = np.unique(values, return_inverse=True)
    if len(labels) > _MOST_LABELS:
        return False
    places = places.ravel()
    n_flat = np.bincount(places, weights=_flat(values).ravel(), minlength=len(labels))
    share = n_flat / np.bincount(places)
    return bool((share[1:] >= _FILLS_AREAS).all())


def _flat(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which pixels have the value of all four neighbours, as far as there are any."""
    flat = np.ones(values.shape, np.bool_)
    down, right = values[1:] == values[:-1], values[:, 1:] == values[:, :-1]
    flat[1:] &= down
    flat[:-1] &= down
    flat[:, 1:] &= right
    flat[:, :-1] &= right
    return flat
