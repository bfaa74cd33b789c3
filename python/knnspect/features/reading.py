"""How a backbone reads images: its white level, its limit of size, what is left out."""

from __future__ import annotations

import warnings
from typing import Literal

from knnspect.data import MAX_PIXELS, ImageReader, find_white, open_images
from knnspect.data.loading import OnBad
from knnspect.data.reader import check_white
from knnspect.errors import ImageError, ImageWarning, ParameterError
from knnspect.features.constraints import MaxPixels, WhiteLevel
from knnspect.parameters import Parametrized, learnt, parameter

__all__ = ["ReadsImages", "Skipped"]


class ReadsImages(Parametrized):
    """Reads images by one white level and one limit of size.

    Parameters
    ----------
    white : int or "auto", optional
        The value that means white in images and arrays deeper than 8 bits, such as 4095; what lies
        above it becomes white, too. ``"auto"``: the
        smallest of 511, 1023, 2047, ... 65535 that no image exceeds, found by `fit` and kept in the
        model. By default the full scale of the file's type, or of the array's; floats lie in
        [0, 1].
    max_pixels : int, default 200_000_000
        Pixels that an image may have; larger ones are refused before they are decoded. It is not
        kept in models.
    """

    white: int | Literal["auto"] | None = parameter(WhiteLevel(), default=None)
    max_pixels: int = parameter(MaxPixels(), default=MAX_PIXELS)

    #: What "auto" means, as soon as it was found: a white level, or None for the full scale.
    _white_found: tuple[int | None] | None = learnt()

    def _begin(self) -> None:
        self._white_found = None

    @property
    def white_level(self) -> int | None:
        """The value that means white in images deeper than 8 bits; None: the full scale."""
        white = check_white(self.white)
        if white == "auto":
            if self._white_found is None:
                raise ParameterError(
                    "white: 'auto' is found by fit, on normal images; give a number to extract "
                    "features without a detector"
                )
            return self._white_found[0]
        return white

    def opened(self, images: object) -> object:
        """Return images in a form that `open_images` takes: as they are, but for scenes."""
        return images

    def reader(self) -> ImageReader:
        """Return a reader of images, with the white level and the limit of size."""
        return ImageReader(self.white_level, self.max_pixels)

    def reader_of_sizes(self) -> ImageReader:
        """Return a reader that tells how large images are, before a white level is found."""
        return ImageReader(max_pixels=self.max_pixels)

    def find_white(
        self,
        images: object,
        n_workers: int = 2,
        skip_bad: bool | OnBad = False,
        progress: bool = False,
    ) -> int | None:
        """Find the white level on normal images, if it is "auto"; detectors do so when they fit.

        The images are read once more for this.

        Parameters
        ----------
        images, n_workers, skip_bad, progress
            See `extract`.

        Returns
        -------
        int or None
            The white level; None if no image is deeper than 8 bits.

        Raises
        ------
        ImageError
            If an image cannot be used, or has values above 65535.
        ParameterError
            If another level was found before: features of both would be mixed.
        """
        if check_white(self.white) != "auto":
            return self.white_level
        found = find_white(
            open_images(images), self.max_pixels, n_workers, bool(skip_bad), progress
        )
        if self._white_found not in (None, (found,)):
            raise ParameterError(
                f"white: 'auto' was found to be {self._white_found[0]} on other images and is "
                f"{found} on these; each set of images needs a Backbone of its own"
            )
        self._white_found = (found,)
        return found


class Skipped:
    """Counts the images that are left out, and says so: by a warning, or as the caller wants."""

    def __init__(self, skip_bad: bool | OnBad) -> None:
        self._tell = skip_bad if callable(skip_bad) else _warn
        #: How many there are.
        self.n = 0

    def __call__(self, id_: str, error: ImageError) -> None:
        """Count an image, and say so."""
        self.n += 1
        self._tell(id_, error)


def _warn(id_: str, error: ImageError) -> None:
    warnings.warn(f"left out image {id_}: {error}", ImageWarning, stacklevel=3)
