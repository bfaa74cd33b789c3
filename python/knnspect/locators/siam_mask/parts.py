"""The parts that are pasted: cut out of the user's images by masks, or by their features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from knnspect.data import ImageArray, open_images
from knnspect.errors import ImageError, ParameterError, errors_about
from knnspect.features import Extractor
from knnspect.locators.part import Part, centre
from knnspect.locators.siam_mask.geometry import CELLS, INPUT, MIDDLE
from knnspect.views import AlignedView, similarity
from knnspect.views.foreground import Foreground

__all__ = ["cut_parts", "read_all", "template_window"]

#: What surrounds a template: the mean colour of ImageNet, which networks see as nothing.
_AROUND = (0.485, 0.456, 0.406)
#: The side of images that are kept for grounds.
_LARGEST = 640
#: From which share of a cell on a pixel is the part's: cells at the outline see the part beside it.
_OUTLINE = 0.9


def cut_parts(
    images: object, masks: object, template: tuple[int, int], own: object, backbone: Extractor
) -> list[Part]:
    """Return the parts of images that show one each.

    Parameters
    ----------
    images : object
        As `knnspect.data.open_images` takes them.
    masks : "foreground", "template", or a sequence or mapping of masks
        By what they are cut out; see `SiamMask.fit`.
    template : (int, int)
        Height and width of the template's image.
    own : tuple of (box, mask)
        How the template's part was given.
    backbone : Extractor
        Tells the foreground.

    Raises
    ------
    ImageError
        If an image cannot be used, or its foreground shows no part.
    ParameterError
        If there are not as many masks as images.
    """
    reader = backbone.reader()
    items = list(open_images(backbone.opened(images)))
    pictures = {item.id: item.read(reader) for item in items}
    reader.warn()
    if isinstance(masks, str) and masks == "foreground":
        given: dict[str, Any] = {**_foregrounds(pictures, backbone)}
    elif isinstance(masks, str) and masks == "template":
        given = dict.fromkeys(pictures, None)
    else:
        given = _given(masks, list(pictures))
    box, mask = own if isinstance(own, tuple) else (None, None)
    found = []
    for item in items:
        picture = pictures[item.id]
        with errors_about(image=item.id, path=item.file):
            each = given[item.id]
            if each is None:
                if picture.shape[:2] != template:
                    raise ImageError(
                        f"image {item.id}: expected the template's size, {template}, as its "
                        f"part is cut out where the template's is, got {picture.shape[:2]}"
                    )
                found.append(Part.of(picture, box, mask))
            else:
                found.append(Part.of(picture, None, each))
    return found


def _given(masks: object, ids: Sequence[str]) -> dict[str, Any]:
    if isinstance(masks, Mapping):
        missing = [id_ for id_ in ids if id_ not in masks]
        if missing:
            raise ParameterError(f"masks: there is none of image {missing[0]}", parameter="masks")
        return {id_: masks[id_] for id_ in ids}
    if isinstance(masks, str) or not isinstance(masks, Sequence | np.ndarray):
        raise ParameterError(
            'masks: expected "foreground", "template", a list of masks or a dict of them by id, '
            f"got {masks!r}",
            parameter="masks",
        )
    if len(masks) != len(ids):
        raise ParameterError(
            f"masks: expected one for each of {len(ids)} images, got {len(masks)}",
            parameter="masks",
        )
    return dict(zip(ids, masks, strict=True))


def _foregrounds(
    pictures: Mapping[str, ImageArray], backbone: Extractor
) -> dict[str, NDArray[np.bool_]]:
    """Return which pixels of images show the part, by the foreground of their features."""
    from scipy import ndimage

    features = {
        id_: _cells(backbone.extract([picture], batch_size=1, n_workers=0).pyramid.levels)
        for id_, picture in pictures.items()
    }
    foreground = Foreground.learn(features.values(), len(features))
    found = {}
    for id_, each in features.items():
        # It is widened by a cell, for defects; here the outline counts.
        cells = ndimage.binary_erosion(foreground.mask(each), np.ones((3, 3)), border_value=1)
        size = pictures[id_].shape[1], pictures[id_].shape[0]
        shares = Image.fromarray(cells.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
        mask = np.asarray(shares) >= _OUTLINE
        if not mask.any() or mask.all():
            what = "nothing" if mask.all() else "everything"
            raise ImageError(
                f"image {id_}: its foreground cannot be told, it hides {what}: give masks of parts",
                image=id_,
            )
        numbers, n = ndimage.label(mask)
        largest = 1 + int(np.bincount(numbers.ravel(), minlength=n + 1)[1:].argmax())
        found[id_] = numbers == largest
    return found


def _cells(levels: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """Return the features of the level of stride 8, (32, 32, channels)."""
    found: NDArray[np.float32] = next(each[0] for each in levels if each.shape[1] == CELLS)
    return found


def read_all(images: object, backbone: Extractor, most: int) -> list[ImageArray]:
    """Return images, evenly spaced ones of many, reduced to what grounds need."""
    reader = backbone.reader()
    items = list(open_images(backbone.opened(images)))
    places = np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))
    found = []
    for place in places:
        image = items[place].read(reader)
        if image.dtype != np.uint8:
            image = np.rint(image * 255).astype(np.uint8)
        picture = Image.fromarray(np.ascontiguousarray(image))
        picture.thumbnail((_LARGEST, _LARGEST))
        found.append(np.asarray(picture))
    reader.warn()
    return found


def template_window(part: Part, factor: float) -> NDArray[np.uint8]:
    """Return a window that shows a part in its middle, alone on a plain ground."""
    way = similarity(0, factor, at=centre(part.size), to=(MIDDLE, MIDDLE))
    view = AlignedView(part.size, (INPUT, INPUT), way)
    back = AlignedView((INPUT, INPUT), part.size, view.inverse)
    share = back.to_image(part.mask.astype(np.float32))[..., None]
    cut = view.cut(part.pixels).astype(np.float32)
    if part.pixels.dtype == np.uint8:
        cut /= 255
    blended = cut * share + np.array(_AROUND, np.float32) * (1 - share)
    found: NDArray[np.uint8] = np.rint(blended.clip(0, 1) * 255).astype(np.uint8)
    return found
