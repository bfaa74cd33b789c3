"""What a backbone gives of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from knnspect.data.decoded import ImageArray
from knnspect.errors import ShapeError
from knnspect.pyramid import FeaturePyramid
from knnspect.views import Placement, Variant

__all__ = ["Features"]


@dataclass(frozen=True, eq=False)
class Features:
    """The features of some images, in order.

    Parameters
    ----------
    pyramid : FeaturePyramid
        The chosen levels, float32; all images have one grid.
    pooled : ndarray of float32, shape (n_images, n_features)
        What describes each image as a whole, as `Backbone.pooled` says.
    ids : list of str
        One per image.
    placements : list of Placement
        How each image met the network.
    pictures : list of ndarray or None
        The images as they came, (height, width, 3), if they were to be kept and are not large.
    variants : list of Variant
        In which variant each image was seen; empty if all were as they came.
    """

    pyramid: FeaturePyramid
    pooled: NDArray[np.float32]
    ids: list[str]
    placements: list[Placement]
    pictures: list[ImageArray | None] = field(default_factory=list)
    variants: list[Variant] = field(default_factory=list)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each image as it came."""
        return [placement.size for placement in self.placements]

    @classmethod
    def concatenate(cls, batches: Iterable[Features]) -> Features:
        """Return the features of several batches, of which there is at least one, as those of one.

        Raises
        ------
        ShapeError
            If images have maps of different grids.
        """
        parts = list(batches)
        for part in parts:
            if part.pyramid.shapes != parts[0].pyramid.shapes:
                raise ShapeError(
                    f"images: {part.ids[0]} and {parts[0].ids[0]} have maps of different grids, "
                    f"{part.pyramid.shapes} and {parts[0].pyramid.shapes}, which make no pyramid "
                    "together: go through them with iterate"
                )
        return cls(
            FeaturePyramid.concatenate(part.pyramid for part in parts),
            np.concatenate([part.pooled for part in parts]),
            [id_ for part in parts for id_ in part.ids],
            [placement for part in parts for placement in part.placements],
            [picture for part in parts for picture in part.pictures],
            [variant for part in parts for variant in part.variants],
        )
