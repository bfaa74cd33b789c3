"""The white level of images deeper than 8 bits, found on the images."""

from __future__ import annotations

import numpy as np

from knnspect.data.decoded import Decoded, ImageArray
from knnspect.data.decoding import MAX_PIXELS
from knnspect.data.geometry import Geometry
from knnspect.data.loading import iterate_batches
from knnspect.data.reader import ImageReader
from knnspect.data.sources import ImageSource
from knnspect.errors import ImageError
from knnspect.progress import Progress

__all__ = ["MeasuringReader", "find_white"]


def find_white(
    source: ImageSource,
    max_pixels: int = MAX_PIXELS,
    n_workers: int = 2,
    skip_bad: bool = False,
    progress: bool = False,
) -> int | None:
    """Return the smallest of 511, 1023, 2047, ... 65535 that no image of a source exceeds.

    Parameters
    ----------
    source : ImageSource
        The images; all are read.
    max_pixels : int, default 200_000_000
        Pixels that an image may have.
    n_workers : int, default 2
        Threads that read images.
    skip_bad : bool, default False
        Go on without images that cannot be used.
    progress : bool, default False
        Report progress on standard error.

    Returns
    -------
    int or None
        None if no image is deeper than 8 bits, or all such are floats in [0, 1].

    Raises
    ------
    ImageError
        If an image cannot be used, or has values above 65535.

    Examples
    --------
    >>> from knnspect.data import open_images
    >>> find_white(open_images([np.full((2, 2), 3500, np.uint16)]))
    4095
    """
    reader = MeasuringReader(max_pixels=max_pixels)
    # What is left out is said when it is learnt from.
    on_bad = (lambda *_: None) if skip_bad else None
    batches = iterate_batches(source, Geometry((1, 1)), 1, n_workers, on_bad, reader)
    with Progress("white level", source.n_images, progress) as report:
        for _ in batches:
            report.advance(1)
    return reader.white_level()


class MeasuringReader(ImageReader):
    """Finds the largest value of images deeper than 8 bits; the images that it returns are empty.

    Attributes
    ----------
    largest : float
        The largest value; 0 if no image is deeper than 8 bits.
    where : str
        The image that has it.

    Examples
    --------
    >>> reader = MeasuringReader()
    >>> _ = reader.from_array(np.full((2, 2), 1000, np.uint16), "a")
    >>> reader.largest, reader.white_level()
    (1000.0, 1023)
    """

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(max_pixels=max_pixels)
        self.largest = 0.0
        self.where = ""

    def white_level(self) -> int | None:
        """Return the smallest of 511, 1023, ... 65535 that no image exceeds.

        Returns
        -------
        int or None
            None if no image is deeper than 8 bits, or all such are floats in [0, 1].

        Raises
        ------
        ImageError
            A value is above 65535.
        """
        if self.largest > 65535:
            raise ImageError(
                f"{self.where}: expected values up to 65535 where the white level is to be found, "
                f"got {self.largest:g}; give a number instead of 'auto'"
            )
        if self.largest == 0:
            return None
        return int(next(2**n_bits - 1 for n_bits in range(9, 17) if self.largest < 2**n_bits))

    def _finish(self, decoded: Decoded, where: str) -> ImageArray:
        if decoded.is_deep:
            largest = float(decoded.colours.max())
            counts = decoded.pixels.dtype.kind != "f" or largest > 1
            with self._lock:
                if counts and largest > self.largest:
                    self.largest, self.where = largest, where
        return np.zeros((1, 1, 3), np.uint8)
