"""The students in NumPy, and what they are shown of a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.heads.scorers.cells import StandardizedScorer
from knnspect.pyramid import FeaturePyramid

__all__ = ["StudentTeacherScorer", "around"]

_SLOPE = 0.01


def around(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of the eight cells around each, which go on beyond the border.

    Parameters
    ----------
    cells : ndarray of float32, shape (n_images, height, width, n_features)
        Features of cells.

    Examples
    --------
    >>> cells = np.zeros((1, 3, 3, 1), "f4")
    >>> cells[0, 1, 1] = 8
    >>> around(cells)[0, ..., 0]
    array([[1., 1., 1.],
           [1., 0., 1.],
           [1., 1., 1.]], dtype=float32)
    """
    padded = np.pad(cells, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    sums: NDArray[np.float32] = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    sums -= cells
    sums *= np.float32(1 / 8)
    return sums


class StudentTeacherScorer(StandardizedScorer):
    """What `StudentTeacherNetwork` says of cells.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Height, width and channels of each level.
    upsample : {"bilinear", "block"}
        How coarse levels are brought to the resolution of the finest one.
    students, hidden : int
        How many there are, and the width of each.
    arrays : mapping of str to ndarray
        What the network's `arrays` returned.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        upsample: Literal["bilinear", "block"],
        students: int,
        hidden: int,
        arrays: Mapping[str, NDArray[Any]],
    ) -> None:
        n = sum(channels for _, _, channels in shapes)
        super().__init__(
            shapes,
            upsample,
            arrays,
            {
                "first": (students, n, hidden),
                "first_bias": (students, 1, hidden),
                "second": (students, hidden, n),
                "second_bias": (students, 1, n),
                "error_deviation": (1,),
                "variance_deviation": (1,),
            },
        )

    def cell_scores(self, pyramid: FeaturePyramid) -> NDArray[np.float64]:
        """Return error and variance of each cell, each in units of its deviation."""
        of = self._arrays
        cells = (self._features(pyramid)[None] - of["mean"]) / of["deviation"]
        shown = around(cells).reshape(-1, cells.shape[-1])
        hidden = shown @ of["first"] + of["first_bias"]
        predicted = np.maximum(hidden, _SLOPE * hidden) @ of["second"] + of["second_bias"]
        mean = predicted.mean(axis=0)
        error = np.square(mean - cells.reshape(mean.shape)).mean(axis=1)
        predicted -= mean
        variance = np.square(predicted).mean(axis=(0, 2))
        scores = error / of["error_deviation"] + variance / of["variance_deviation"]
        found: NDArray[np.float64] = scores.reshape(cells.shape[1:3]).astype(np.float64)
        return found
