"""Images that show a part upright and alone, each cut out where the part was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.data import ImageArray, ImageReader, ImageSource, open_images
from knnspect.data.sources import ImageItem
from knnspect.errors import ParameterError
from knnspect.locators.found import FoundPart
from knnspect.validation import check_positive

__all__ = ["AlignedImages"]


class AlignedImages(ImageSource):
    """Images cut out where a locator found the part: what detectors learn from and judge.

    An image in which the part is not found is an `ImageError` when it is read, so that
    ``skip_bad=True`` leaves it out. An image is located when it is read for the first time.

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
        self._located: dict[str, FoundPart] = {}
        self.parts: dict[str, FoundPart] = {}

    def __iter__(self) -> Iterator[ImageItem]:
        for item in self._source:
            yield ImageItem(item.id, partial(self._cut, item), item.file)

    def _cut(self, item: ImageItem) -> ImageArray:
        reader = self._make_reader()
        image = item.read(reader)
        with self._lock:
            if item.id not in self._located:
                self._located[item.id] = self._locate(item, image)
            part = self._located[item.id]
        part.check(item.file)
        self.parts[item.id] = part
        return part.view.with_margin(self._margin).cut(image)

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
        return self.parts[image_id].view.with_margin(self._margin).to_image(map_, outside)
