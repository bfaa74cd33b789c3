"""RAD: retrieval-based anomaly detection, SPADE over the blocks of a transformer."""

from __future__ import annotations

from typing import ClassVar, Literal

from knnspect.detectors.base import Presets
from knnspect.detectors.nearest.spade import Spade
from knnspect.features import Backbone
from knnspect.parameters import parameter
from knnspect.search import Window

__all__ = ["Rad"]


class Rad(Spade):
    """Compare an image with its nearest normal images, near the same place, block by block.

    SPADE with a transformer's class token for the image stage. In the pixel stage each block is
    searched on its own, within a position window.

    - pixel score: the mean over blocks of the squared distance to the nearest normal feature, of
      features of length 1: twice the mean of the cosine distances; near the border divided by how
      much larger those of normal images are there; the map of these is upsampled bilinearly and
      blurred;
    - image score: the mean of the largest 1 % of the map.

    The weights of its network are timm's: they are downloaded on first use, unless `weights` of the
    backbone names a local file. Parts have to lie in the same place in all images; for others set
    ``window=None``.

    Parameters
    ----------
    backbone : Backbone, optional
        The network; by default DINOv3 ViT-B/16, blocks 3, 6, 9 and 11 through the final norm, 448
        px.
    score : {"image", "map", "top"}, default "top"
        SPADE's image score, the maximum of the map, or the mean of the largest values of the map,
        of which there are `top`.
    sigma : float, default 0.875
        Blur of the map: standard deviation in pixels of a 224 px input (0: none).
    fusion : {"concatenated", "levels"}, default "levels"
        How blocks are compared: by their concatenated features, or each on its own. See `Spade`.
    window : int, or sequence of (int or None), optional
        How many rows and columns a normal cell may be away, at most, from a cell that is compared
        with it; 1 by default. None: any number.
    image_neighbors : int, default 150
        K, normal images that an image is compared with. Larger than their number, it means all of
        them; with a warning, unless it is the default.

    Source
    ------
    Zhang et al., "Is Training Necessary for Anomaly Detection?" (2026), arXiv 2601.22763, and its
    code; settings are those for MVTec AD. (For VisA it has K 900 and a window of 2, for Real-IAD
    900 and 0, for 3D-ADAM 48 and 1.) Deviations: the whole image is brought to 448 px, where the
    paper brings it to 512 and takes the middle 448, as defects may lie anywhere; a detector learns
    the normal images of one product, where the paper's memory has those of all, among which the
    image stage finds the right ones; class tokens are compared by squared L2 distances, as all
    pooled features are, where the paper has cosines: after the final norm their lengths differ
    little; squared distances of features of length 1 are twice their cosine distances; the blur is
    the paper's, 1 px of a map of 256, but not cut to 5 x 5 px; normal images say how much larger
    distances are at the border (`BorderFactors`), beyond which the map has its median
    (`pixel_map`). Tested with random weights: what it finds with those of DINOv3 was not measured.

    Examples
    --------
    >>> Rad().backbone
    Backbone('vit_base_patch16_dinov3.lvd1689m', levels=(3, 6, 9, 11), image_size=448, unit=True, \
norm=True, pooled='cls')
    >>> import numpy as np
    >>> images = np.random.default_rng(0).integers(100, 120, (5, 64, 64, 3)).astype("u1")
    >>> images[4, 20:30, 30:40] = 255
    >>> another = Backbone(image_size=64)  # its weights are installed
    >>> good, bad = Rad(another).fit(images[:3]).predict(images[3:])
    >>> good.score < bad.score, bad.map.shape
    (True, (64, 64))
    """

    backbone: Backbone = parameter(
        default_factory=lambda: Backbone(
            "vit_base_patch16_dinov3.lvd1689m",
            levels=(3, 6, 9, 11),
            image_size=448,
            unit=True,
            norm=True,
            pooled="cls",
        ),
        kw_only=False,
    )
    score: Literal["image", "map", "top"] = parameter(default="top")
    sigma: float = parameter(default=0.875)
    fusion: Literal["concatenated", "levels"] = parameter(default="levels")
    window: Window = parameter(default=1)
    image_neighbors: int = parameter(default=150)

    method: ClassVar[str] = "rad"
    presets: ClassVar[Presets] = {}
