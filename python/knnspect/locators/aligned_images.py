"""Images that show a part upright and alone, each cut out where the part was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.data import ImageArray, ImageReader, ImageSource, open_images
from knnspect.data.sources import ImageItem
from knnspect.errors import ImageError, ParameterError
from knnspect.locators.found import FoundPart
from knnspect.validation import check_positive
from knnspect.views import AlignedView

__all__ = ["AlignedImages"]


class AlignedImages(ImageSource):
    """Images cut out where a locator found the part: what detectors learn from and judge.

    An image in which the part is not found is an `ImageError` when it is read, so that
    ``skip_bad=True`` leaves it out. Located are images when they are read, each time anew.

    `Locator.aligned` makes them.

    Attributes
    ----------
    parts : dict of str to FoundPart
        Where the part was found in each image that was read so far, by id.
    """

    def __init__(
        self,
        locate: Callable[[ImageItem, ImageArray], FoundPart],
        images: object,
        make_reader: Callable[[], ImageReader],
        margin: float,
    ) -> None:
        check_positive("margin", margin, or_zero=True)
        source = open_images(images)
        super().__init__((), source.n_images)  # `__iter__` gives them
        self._source = source
        self._locate, self._make_reader, self._margin = locate, make_reader, margin
        # Networks and their caches are used by one thread at a time.
        self._lock = Lock()
        self.parts: dict[str, FoundPart] = {}

    def __iter__(self) -> Iterator[ImageItem]:
        for item in self._source:
            yield ImageItem(item.id, partial(self._cut, item))

    def _cut(self, item: ImageItem) -> ImageArray:
        reader = self._make_reader()
        image = item.read(reader)
        with self._lock:
            part = self._locate(item, image)
        if not part.found:
            raise ImageError(
                f"image {item.id}: the part was not found: its score is {part.score:.3f}, "
                f"{part.threshold:.3f} are expected",
                image=item.id,
                path=item.file,
            )
        self.parts[item.id] = part
        return self._view(part).cut(image)

    def _view(self, part: FoundPart) -> AlignedView:
        """Return the way to the frame with its margin."""
        down, right = (round(n * self._margin) for n in part.view.frame)
        height, width = part.view.frame
        matrix = part.view.matrix + np.array([[0, 0, down], [0, 0, right]])
        return replace(part.view, frame=(height + 2 * down, width + 2 * right), matrix=matrix)

    def to_image(
        self, image_id: str, map_: NDArray[Any], outside: float = 0.0
    ) -> NDArray[np.float32]:
        """Return the map of an aligned image as a map of the image from which it was cut.

        Parameters
        ----------
        image_id : str
            The image, which was read.
        map_ : ndarray of float32
            The map that a detector gave of it.
        outside : float, default 0
            What pixels have that do not show the part.

        Returns
        -------
        ndarray of float32, of the image's height and width

        Raises
        ------
        ParameterError
            If no such image was read.
        """
        if image_id not in self.parts:
            raise ParameterError(
                f"image_id: no image {image_id!r} was read", parameter="image_id", image=image_id
            )
        return self._view(self.parts[image_id]).to_image(map_, outside)
