"""Which part of an image, along one axis, becomes which part of the network's input."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Axis", "Samples"]


class Samples(NamedTuple):
    """For every pixel of the original along one axis: the two positions of the map around it."""

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    weight: NDArray[np.float32]
    seen: NDArray[np.bool_]


class Axis(NamedTuple):
    """One axis: the middle `extent` of `n_original` becomes the middle `into` of `n_prepared`."""

    n_original: int
    extent: float
    n_prepared: int
    into: int

    @property
    def start(self) -> float:
        """Where the part of the original begins; corners of pixels are whole numbers."""
        return (self.n_original - self.extent) / 2

    @property
    def end(self) -> float:
        """Where it ends."""
        # Rounding may lead just past the image, which Pillow refuses.
        return min(float(self.n_original), self.start + self.extent)

    @property
    def target(self) -> slice:
        """Which pixels of the input it becomes."""
        offset = (self.n_prepared - self.into) // 2
        return slice(offset, offset + self.into)

    def to_input(self, at: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where positions of the original lie in the input; NaN beside the part."""
        along = (at + 0.5 - self.start) / self.extent
        return np.where(_is_inside(along), self.target.start + along * self.into - 0.5, np.nan)

    def to_original(self, at: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where positions of the input lie in the original; NaN beside the part."""
        along = (at + 0.5 - self.target.start) / self.into
        return np.where(_is_inside(along), self.start + along * self.extent - 0.5, np.nan)

    def samples(self) -> Samples:
        """Return from where in the input each pixel of the original has its value."""
        along = (np.arange(self.n_original) + 0.5 - self.start) / self.extent
        first, last = self.target.start, self.target.stop - 1
        position = np.clip(first + along * self.into - 0.5, first, last)
        low = np.floor(position).astype(np.intp)
        return Samples(
            low=low,
            high=np.minimum(low + 1, last),
            weight=(position - low).astype(np.float32),
            seen=_is_inside(along),
        )


def _is_inside(along: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    return (along >= 0) & (along <= 1)
