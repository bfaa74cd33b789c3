"""Galleries in memory, as pickles hold them: their features, image by image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.errors import DTypeError

__all__ = ["check_rounding", "rebuilt"]

#: Ids, and the levels of each image.
Images = Iterable[tuple[str, list[NDArray[Any]]]]


def rebuilt(upsample: str, dtype: str, images: Images) -> _core.Gallery:
    """Return a gallery of the features that a pickle holds."""
    core = _core.Gallery(upsample, dtype)
    for id_, levels in images:
        core.add([level[None] for level in levels], [id_])
    return core


def check_rounding(core: _core.Gallery, images: Images) -> None:
    """Raise a DTypeError if int8 features become others when they are added to a gallery."""
    for id_, levels in images:
        again = rebuilt(core.upsample, core.dtype, [(id_, levels)]).image(id_)
        if not all(map(np.array_equal, again, levels)):
            raise DTypeError(
                f"image {id_}: its int8 features would be rounded anew by a pickle: save the "
                "gallery, or the detector, and open the file in the other process"
            )
