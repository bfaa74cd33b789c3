"""What scorers in NumPy have in common: the arrays of a network, with the shapes that it needs."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.pyramid import FeaturePyramid

__all__ = ["ArrayScorer", "product"]


def product(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the product of two matrices, by PyTorch where it is loaded.

    NumPy has threads of its own, which go on spinning for a while: the network, whose turn is next,
    takes several times as long beside them.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return one @ other
    found: NDArray[np.float32] = torch.mm(torch.from_numpy(one), torch.from_numpy(other)).numpy()
    return found


class ArrayScorer(ABC):
    """A trained network that gives each cell a score, without PyTorch.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        What the network's `arrays` returned.
    shapes : mapping of str to tuple of int
        The shape that each of them has.

    Raises
    ------
    KeyError, ValueError
        If one is missing, has another size, or is not finite.
    """

    def __init__(
        self, arrays: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self._arrays: dict[str, NDArray[np.float32]] = {}
        for name, shape in shapes.items():
            array = arrays[name]
            if array.size != prod(shape):
                raise ValueError(f"{name}: expected {prod(shape)} values, got {array.size}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name}: expected finite values")
            # In one order, as rounding follows it: before a file and after.
            self._arrays[name] = np.array(array, order="C").reshape(shape)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays."""
        return dict(self._arrays)

    @abstractmethod
    def cell_scores(self, pyramid: FeaturePyramid) -> NDArray[np.float64]:
        """Return how unlike normal each cell of one image is, shape (height, width), from 0 up."""

    def image_score(
        self,
        cells: NDArray[np.float64],
        pyramid: FeaturePyramid,  # noqa: ARG002 - for those that look at more than cells
    ) -> float:
        """Return the score of the image of a pyramid, by those of its cells."""
        return float(cells.max())
