"""Upsampled, concatenated features in float64, on any device: the values that the core gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Grid", "Taps"]


@dataclass(frozen=True)
class Taps:
    """Between which two coarse positions each fine one lies, and the weight of the second.

    Parameters
    ----------
    first, second : Tensor of int64, shape (n_fine,)
        The coarse positions.
    weight : Tensor of float64, shape (n_fine,)
        That of the second.
    """

    first: Tensor
    second: Tensor
    weight: Tensor

    @classmethod
    def of(cls, fine: int, coarse: int, upsample: str, device: torch.device) -> Taps:
        """Return those of a number of positions between a smaller one, which divides it."""
        ratio = fine // coarse
        position = torch.arange(fine, device=device)
        if upsample == "block":
            near = position // ratio
            return cls(near, near, torch.zeros(fine, dtype=torch.float64, device=device))
        # From integers, so that the same place between two coarse cells has the same weight
        # everywhere: halves of fine cells from the first coarse cell's centre.
        halves = (2 * position + 1 - ratio).clamp(0, 2 * ratio * (coarse - 1))
        first = halves // (2 * ratio)
        weight = (halves % (2 * ratio)).double() / (2 * ratio)
        return cls(first, torch.where(weight == 0, first, first + 1), weight)


class Grid:
    """How the levels of pyramids of some shapes come to the finest one's grid.

    Parameters
    ----------
    shapes : sequence of (height, width, channels)
        The levels, finest first.
    upsample : str
        ``"bilinear"`` or ``"block"``.
    device : torch.device
        Where the levels are.

    Attributes
    ----------
    taps : list of (Taps, Taps)
        Of each level: for rows, and for columns.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, int, int]], upsample: str, device: torch.device
    ) -> None:
        self.shapes = list(shapes)
        self.height, self.width, _ = shapes[0]
        self.n_cells = self.height * self.width
        self.n_features = sum(channels for _, _, channels in shapes)
        self.taps = [
            (
                Taps.of(self.height, height, upsample, device),
                Taps.of(self.width, width, upsample, device),
            )
            for height, width, _ in shapes
        ]

    def features(self, levels: Sequence[Tensor]) -> Tensor:
        """Return all features of images.

        Parameters
        ----------
        levels : sequence of Tensor of float, each (n_images, height, width, channels)
            Their levels.

        Returns
        -------
        Tensor of float64, shape (n_images, n_cells, n_features)
            Blended across, then down.
        """
        parts = []
        for level, (down, across) in zip(levels, self.taps, strict=True):
            values = level.double()
            if values.shape[2] != self.width:
                weight = across.weight[:, None]
                values = _blend(values[:, :, across.first], values[:, :, across.second], weight)
            if values.shape[1] != self.height:
                weight = down.weight[:, None, None]
                values = _blend(values[:, down.first], values[:, down.second], weight)
            parts.append(values.reshape(len(values), self.n_cells, -1))
        return torch.cat(parts, dim=-1)

    def features_at(self, levels: Sequence[Tensor], images: Tensor, cells: Tensor) -> Tensor:
        """Return the features of single cells, the same as `features` gives.

        Parameters
        ----------
        levels : sequence of Tensor of float, each (n_images, height, width, channels)
            The levels of all images.
        images, cells : Tensor of int64, shape (n,)
            The cells that are asked for, at the finest level.

        Returns
        -------
        Tensor of float64, shape (n, n_features)
        """
        rows, columns = cells // self.width, cells % self.width
        parts = []
        for level, (down, across) in zip(levels, self.taps, strict=True):
            top, bottom = down.first[rows], down.second[rows]
            left, right = across.first[columns], across.second[columns]
            corner = level[images, top, left].double()
            if level.shape[1:3] != (self.height, self.width):
                x, y = across.weight[columns][:, None], down.weight[rows][:, None]
                above = _blend(corner, level[images, top, right].double(), x)
                left_below, right_below = level[images, bottom, left], level[images, bottom, right]
                below = _blend(left_below.double(), right_below.double(), x)
                corner = _blend(above, below, y)
            parts.append(corner)
        return torch.cat(parts, dim=-1)


def _blend(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Return ``a + weight * (b - a)``, which is a where both are equal, whatever the weight."""
    return a + weight * (b - a)
