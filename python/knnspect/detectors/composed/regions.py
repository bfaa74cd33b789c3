"""Several regions of a product, each with a gallery and a verdict of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from knnspect.constraints import Flag
from knnspect.data import ImageSource
from knnspect.data.decoded import ImageArray
from knnspect.data.sources import ImageItem
from knnspect.detectors.composed.base import AnyDetector, Composed
from knnspect.detectors.composed.subject import Shown
from knnspect.errors import ImageError, ParameterError
from knnspect.parameters import parameter
from knnspect.views import CutView, Region
from knnspect.views.regions import IsRegions, NamedRegions

__all__ = ["Regions"]


class Regions(Composed):
    """Judges named regions of an image, each by a detector of its own, as under a fixed camera.

    Each region has its own gallery, calibration and verdict (``prediction.views``); cells that lie
    in no region, or are ignored, are neither stored nor scored. An image is anomalous by the
    smallest p-value of its regions, times their number. Regions may overlap.

    Parameters
    ----------
    detector : Detector, optional
        What judges each region, with ``mask=None``: a method that takes a mask, such as
        ``Spade()``, the default; with `cut` and regions that are boxes, any.
    regions : dict of str to mask, folder or JSON file
        The regions by their names, as `knnspect.views.regions.NamedRegions.of` takes them; what is
        called ``"ignore"`` is left out of all of them. Images have their size, or its proportions.
    cut : bool, default False
        Whether each region is cut out by its box, and so judged at a resolution of its own. Then
        images have the size of the masks.

    Examples
    --------
    >>> import numpy as np
    >>> import knnspect as ks
    >>> images = np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), np.uint8)
    >>> left = np.indices((64, 64))[1] < 32
    >>> backbone = ks.Backbone(levels=(1, 2), image_size=64)
    >>> regions = ks.Regions(ks.Spade(backbone), regions={"left": left, "right": ~left})
    >>> scratched = images[0].copy()
    >>> scratched[20:40, 40:60] = 0
    >>> prediction = regions.fit(images[1:]).predict([scratched])[0]
    >>> {name: view.verdict for name, view in prediction.views.items()}
    {'left': 'normal', 'right': 'anomalous'}
    """

    regions: Mapping[str, Any] | str | os.PathLike[str] = parameter(IsRegions(), default=None)
    cut: bool = parameter(Flag(), default=False)

    method = "regions"

    def check_params(self) -> None:
        """Raise a ParameterError or DTypeError for the first parameter outside its values."""
        super().check_params()
        for name in self._regions:
            self._unfitted(name)

    def check_views(self, names: Sequence[str]) -> None:
        """Raise a ParameterError if views of a file are not the regions."""
        if list(names) != list(self._regions):
            raise ParameterError(f"views: expected {list(self._regions)}, got {list(names)}")

    def _names(self, source: ImageSource) -> list[str]:  # noqa: ARG002 - a parameter has them
        return list(self._regions)

    @property
    def _regions(self) -> NamedRegions:
        return NamedRegions.of(self.regions)

    def _unfitted(self, name: str) -> AnyDetector:
        made, region = super()._unfitted(name), self._regions[name]
        if self.cut:
            box = self._regions.box(name)
            region = Region(region.pixels[box.top : box.bottom, box.left : box.right])
            if region.pixels.all():
                return made
        if "mask" not in made.parameters:
            raise ParameterError(
                f"regions: region {name} needs a detector that takes a mask, which {made.method} "
                "does not: expected another one, or a box with cut=True",
                parameter="regions",
            )
        if made.get_params(deep=False)["mask"] is not None:
            raise ParameterError(
                "mask: expected None in a detector of regions, which are its masks",
                parameter="mask",
            )
        return made.set_params(mask=region)

    def _shown(self, name: str, item: ImageItem, image: ImageArray) -> Shown:
        size, expected = (image.shape[0], image.shape[1]), self._regions.size
        try:
            self._regions[name].check_suits(size)
        except ImageError as error:
            raise ImageError(f"image {item.id}: {error}", image=item.id, path=item.file) from None
        if not self.cut:
            return Shown(image)
        if size != expected:
            raise ImageError(
                f"image {item.id}: expected {expected[0]} x {expected[1]} pixels, as the masks of "
                f"regions that are cut out have, got {size[0]} x {size[1]}",
                image=item.id,
                path=item.file,
            )
        view = CutView(size, self._regions.box(name))
        return Shown(view.cut(image), view)
