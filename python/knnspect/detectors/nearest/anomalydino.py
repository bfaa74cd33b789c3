"""AnomalyDINO: the nearest normal cell by the angle between features of a transformer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.base import Presets
from knnspect.detectors.maps import mean_of_top
from knnspect.detectors.nearest.coreset import CoresetDetector, Searched
from knnspect.features import Backbone
from knnspect.parameters import parameter
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Neighbors
from knnspect.views import Variants

__all__ = ["AnomalyDINO"]


class AnomalyDINO(CoresetDetector):
    """Compare every cell of an image, by its angle, with the cells of few normal images.

    - map: ``1 - cos`` of the angle between each cell's feature and the nearest normal one, near the
      border divided by how much larger those of normal images are there; upsampled bilinearly and
      blurred;
    - image score: the mean of the largest of these (not blurred), of which there are `top`.

    The weights of its network are timm's: they are downloaded on first use, unless `weights` of the
    backbone names a local file.

    Parameters
    ----------
    backbone : Backbone, optional
        The network; by default the last block of DINOv2 ViT-S/14 with its final norm, 448 px. Cells
        are compared by half their squared distance, which is ``1 - cos`` with ``unit=True`` alone.
    score : {"image", "map", "top"}, default "image"
        The image score of the paper, the maximum of the map, or the mean of the largest values of
        the map, of which there are `top`.
    top : float, default 0.01
        The share of the cells that ``score="image"`` takes, and of the map's pixels that
        ``score="top"`` does; at least one is taken.

    Source
    ------
    Damm et al., "AnomalyDINO: Boosting Patch-based Few-shot Anomaly Detection with DINOv2" (2025),
    section 3. Deviations: nothing is masked, where the paper leaves out the background of some
    objects; normal images are learnt as they are, and turned by 8 angles, as the paper does with
    few, with ``AnomalyDINO.from_preset("few-shot")``; the longer side is rounded to a multiple of
    the patch, not cropped to it; the map is blurred in pixels of a 224 px input, not of the image,
    and goes on beyond its border with its median (`pixel_map`); normal images say how much larger
    distances are at the border (`BorderFactors`). Tested with random weights: what it finds with
    those of DINOv2 was not measured.

    Examples
    --------
    >>> AnomalyDINO().backbone
    Backbone('vit_small_patch14_dinov2.lvd142m', levels=(-1,), image_size=448, \
resize='shorter', unit=True, norm=True)
    >>> images = np.random.default_rng(0).integers(100, 120, (5, 64, 64, 3)).astype("u1")
    >>> images[4, 20:30, 30:40] = 255
    >>> another = Backbone(levels=(2,), image_size=64, unit=True)  # its weights are installed
    >>> good, bad = AnomalyDINO(another).fit(images[:3]).predict(images[3:])
    >>> good.score < bad.score, bad.map.shape
    (True, (64, 64))
    """

    backbone: Backbone = parameter(
        default_factory=lambda: Backbone(
            "vit_small_patch14_dinov2.lvd142m",
            levels=(-1,),
            image_size=448,
            resize="shorter",
            norm=True,
            unit=True,
        ),
        kw_only=False,
    )
    score: Literal["image", "map", "top"] = parameter(default="image")
    top: float = parameter(default=0.01)

    method: ClassVar[str] = "anomalydino"
    presets: ClassVar[Presets] = {"few-shot": {"variants": Variants(rotations=8)}}

    def _cell_scores(self, neighbors: Neighbors) -> NDArray[Any]:
        return neighbors.sq_distances[0, ..., 0].astype(np.float64) / 2

    def _sq_distance_of(self, score: float) -> float:
        return 2 * score

    def _own_score(
        self,
        cells: NDArray[Any],
        query: FeaturePyramid,  # noqa: ARG002
        neighbors: Neighbors,  # noqa: ARG002
        searched: Searched,  # noqa: ARG002
    ) -> float:
        return mean_of_top(cells, self.top)
