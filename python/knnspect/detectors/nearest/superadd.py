"""SuperADD, as far as it is a gallery: several blocks of a transformer, in several brightnesses."""

from __future__ import annotations

from typing import ClassVar

from knnspect.detectors.base import Presets
from knnspect.detectors.nearest.coreset import CoresetDetector
from knnspect.features import Backbone
from knnspect.parameters import parameter
from knnspect.views import Variants

__all__ = ["SuperADD"]


class SuperADD(CoresetDetector):
    """Compare every cell, by several blocks of a transformer, with a coreset of normal cells.

    Each normal image is learnt darker and brighter, too, for light that changes.

    - map: L2 distance (not squared) of each cell's concatenated features to the nearest normal one,
      near the border divided by how much larger those of normal images are there; upsampled
      bilinearly, not blurred;
    - image score: the maximum of the map; with ``score="image"`` the largest of these distances.

    The weights of its network are timm's: they are downloaded on first use, unless `weights` of the
    backbone names a local file. ``SuperADD.from_preset("small")`` has the smallest network of the
    same family, of 21 million parameters instead of 840, and blocks at the same depths.

    Parameters
    ----------
    backbone : Backbone, optional
        The network; by default DINOv3 ViT-H+/16, blocks 7, 15, 23 and 31, 640 px.
    coreset : float, int or None, default 0.02
        How many rows are kept, as a share of all cells of all normal images or as a number; see
        `Gallery.coreset`. None: all of them, searched level by level.
    sigma : float, default 0.0
        Blur of the map: standard deviation in pixels of a 224 px input (0: none).
    variants : Variants, optional
        In which variants normal images are learnt; by default ``Variants(brightness=(0.8, 1.2))``.

    Source
    ------
    Roming et al., "SuperADD: Training-free Class-agnostic Anomaly Segmentation" (2026), and its
    code. Deviations, of which the first two matter most: an image is seen as a whole, its shorter
    side brought to 640 px, where the paper cuts it, at .625 of its size, into tiles of 640 px that
    overlap by 128; the blocks are one row for the search, so that a cell has one nearest cell in
    all of them, where the paper takes the mean of a distance for each block to a bank of its own,
    divided by its number of channels (``coreset=None, fusion="levels"`` searches each block on its
    own, too, but all cells); 2 % of all rows are kept, spread as PatchCore spreads them,
    not up to 100,000 a block that are thinned out where they are dense; each image is learnt at
    three brightnesses, not at one drawn between .8 and 1.2; maps are given as they are, without the
    paper's threshold, closing and filling; normal images say how much larger distances are at the
    border (`BorderFactors`), beyond which the map has its median (`pixel_map`). Tested with random
    weights: what it finds with those of DINOv3 was not measured.

    Examples
    --------
    >>> SuperADD().backbone
    Backbone('vit_huge_plus_patch16_dinov3.lvd1689m', levels=(7, 15, 23, 31), image_size=640, \
resize='shorter')
    >>> SuperADD.from_preset("small").backbone.levels
    (2, 5, 8, 11)
    >>> import numpy as np
    >>> images = np.random.default_rng(0).integers(100, 120, (5, 64, 64, 3)).astype("u1")
    >>> images[4, 20:30, 30:40] = 255
    >>> another = Backbone(image_size=64)  # its weights are installed
    >>> good, bad = SuperADD(another).fit(images[:3]).predict(images[3:])
    >>> good.score < bad.score, bad.map.shape
    (True, (64, 64))
    """

    backbone: Backbone = parameter(
        default_factory=lambda: Backbone(
            "vit_huge_plus_patch16_dinov3.lvd1689m",
            levels=(7, 15, 23, 31),
            image_size=640,
            resize="shorter",
        ),
        kw_only=False,
    )
    coreset: float | int | None = parameter(default=0.02)
    sigma: float = parameter(default=0.0)
    variants: Variants | None = parameter(default=Variants(brightness=(0.8, 1.2)))

    method: ClassVar[str] = "superadd"
    presets: ClassVar[Presets] = {
        "small": {
            "backbone__name": "vit_small_patch16_dinov3.lvd1689m",
            "backbone__levels": (2, 5, 8, 11),
        }
    }
