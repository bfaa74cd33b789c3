"""What a detector says of an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from knnspect.search import Neighbors

__all__ = ["Prediction"]


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """What a detector says of one image.

    Parameters
    ----------
    id : str
        The image's id: its path in a folder, or a running number.
    score : float
        How unlike the normal images it is; larger is worse.
    map : ndarray of float32, shape (height, width)
        The same for each pixel of the image as it came.
    neighbors : Neighbors, optional
        For each cell, which normal cells were nearest and how far (squared L2).
    images : tuple of (str, float)
        The normal images that the image was compared with, nearest first, and their squared
        distances by pooled features.
    """

    id: str
    score: float
    map: NDArray[np.float32]
    neighbors: Neighbors | None = None
    images: tuple[tuple[str, float], ...] = ()

    def __repr__(self) -> str:
        height, width = self.map.shape
        return f"Prediction({self.id!r}, score={self.score:.6g}, map={height}x{width})"
