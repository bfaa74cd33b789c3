"""What a backbone gives of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from knnspect.pyramid import FeaturePyramid

__all__ = ["Features"]


@dataclass(frozen=True, eq=False)
class Features:
    """The features of some images, in order.

    Parameters
    ----------
    pyramid : FeaturePyramid
        The chosen levels, float32.
    pooled : ndarray of float32, shape (n_images, n_features)
        The mean over all positions of the network's last feature map.
    ids : list of str
        One per image.
    sizes : list of (int, int)
        Height and width of each image as it came.
    """

    pyramid: FeaturePyramid
    pooled: NDArray[np.float32]
    ids: list[str]
    sizes: list[tuple[int, int]]
