"""Which cells of images count: with a mask those of the part, or of a region."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.errors import ImageError, ParameterError
from knnspect.features import Features
from knnspect.model_files import StoredModel
from knnspect.normal_features import NormalFeatures
from knnspect.pyramid import FeaturePyramid
from knnspect.views import Placement, Region, Variant
from knnspect.views.foreground import Foreground

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CellMask", "check_some_count"]


@dataclass(frozen=True)
class CellMask:
    """Says which cells of images count.

    Parameters
    ----------
    by : Foreground or Region
        By what: their features, or their places.
    upsample : {"bilinear", "block"}
        How the features of coarse levels are brought to the resolution of the finest one.
    """

    by: Foreground | Region
    upsample: str

    @classmethod
    def learn(cls, mask: object, normal: NormalFeatures) -> Self:
        """Return what a parameter `mask` stands for, learnt from normal images."""
        gallery, upsample = normal.gallery, normal.gallery.upsample
        if not isinstance(mask, str) or mask != "pca":
            return cls(Region.of(mask), upsample)
        # One image at a time: a gallery in a folder may be larger than memory.
        features = (_concatenated(gallery.pyramid([id_]), upsample) for id_ in gallery.ids)
        return cls(Foreground.learn(features, len(gallery)), upsample)

    @classmethod
    def of_model(
        cls,
        mask: object,
        stored: StoredModel,
        n_features: int,
        upsample: str,
    ) -> Self | None:
        """Return what a file has of it; None without a mask."""
        if isinstance(mask, Region):
            return cls(mask, upsample)
        array = stored.tensors("foreground").get("")
        return None if array is None else cls(Foreground.from_arrays(array, n_features), upsample)

    @property
    def parameter(self) -> Literal["pca"] | Region:
        """The parameter `mask` that it came from."""
        return "pca" if isinstance(self.by, Foreground) else self.by

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what files have of it besides the parameter."""
        return dict(self.by.arrays()) if isinstance(self.by, Foreground) else {}

    def of_normal(self, normal: NormalFeatures, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Return which cells of images of a gallery count, shape (n_images, height, width).

        Raises
        ------
        ImageError
            If an image does not suit the region.
        """
        gallery, variants = normal.gallery, normal.stored.variants
        if isinstance(self.by, Foreground):
            return self.by.masks(
                (id_, _strips(gallery.pyramid([id_]), self.upsample)) for id_ in ids
            )
        height, width, _ = gallery.shapes[0]
        counts = []
        for id_ in ids:
            image, variant = (id_, None) if variants is None else variants.split(id_)
            placement = normal.placement(image)
            counts.append(_of_region(self.by, id_, placement, (height, width), variant))
        return np.stack(counts)

    def of_judged(self, features: Features) -> NDArray[np.bool_]:
        """Return which cells of images that are judged count; as `of_normal`."""
        if isinstance(self.by, Foreground):
            return self.by.masks(
                (id_, _strips(features.pyramid[index], self.upsample))
                for index, id_ in enumerate(features.ids)
            )
        height, width, _ = features.pyramid.shapes[0]
        variants: Sequence[Variant | None] = features.variants or [None] * len(features.ids)
        shown = zip(features.ids, features.placements, variants, strict=True)
        return np.stack(
            [
                _of_region(self.by, id_, placement, (height, width), variant)
                for id_, placement, variant in shown
            ]
        )


def check_some_count(counts: NDArray[np.bool_]) -> None:
    """Raise a ParameterError if a mask hides all cells of all images."""
    if not counts.any():
        _, height, width = counts.shape
        raise ParameterError(
            f"mask: hides everything: in none of the {height} x {width} cells of an image at least "
            "half of the pixels count",
            parameter="mask",
        )


def _concatenated(image: FeaturePyramid, upsample: str) -> NDArray[Any]:
    return np.asarray(image.concatenated(upsample)[0])  # type: ignore[arg-type]


def _strips(image: FeaturePyramid, upsample: str) -> Iterator[NDArray[Any]]:
    return (rows[0] for rows in image.concatenated_in_strips(upsample))  # type: ignore[arg-type]


def _of_region(
    region: Region,
    id_: str,
    placement: Placement,
    grid: tuple[int, int],
    variant: Variant | None = None,
) -> NDArray[np.bool_]:
    try:
        return region.cells(placement, grid, variant)
    except ImageError as error:
        raise ImageError(f"image {id_}: {error}", image=id_) from None
