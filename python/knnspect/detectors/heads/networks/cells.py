"""What networks have in common that are trained on the standardized features of single cells."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from knnspect.detectors.heads.networks.scorer import CellScorer
from knnspect.detectors.heads.networks.standardization import channel_statistics
from knnspect.pyramid import FeaturePyramid
from knnspect.training.network import Step

__all__ = ["StandardizedCells"]

#: Values of cells that are scored together: what a network makes of them takes several times that.
_AT_ONCE = 2**22


class StandardizedCells(CellScorer):
    """A network over the upsampled, concatenated, standardized features of cells.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Height, width and channels of each level.
    upsample : {"bilinear", "block"}
        How coarse levels are brought to the resolution of the finest one.
    """

    #: Cells of one step.
    cells_per_step: ClassVar[int] = 256
    #: Which of the optimizers a step concerns.
    concerned: ClassVar[Sequence[int]] = (0,)
    mean: Tensor
    deviation: Tensor

    def __init__(
        self, shapes: Sequence[tuple[int, int, int]], upsample: Literal["bilinear", "block"]
    ) -> None:
        super().__init__()
        self._upsample: Literal["bilinear", "block"] = upsample
        self.n_features = sum(channels for _, _, channels in shapes)
        self.register_buffer("mean", torch.zeros(self.n_features))
        self.register_buffer("deviation", torch.ones(self.n_features))

    def prepare(self, batches: Iterator[FeaturePyramid]) -> None:
        """Learn the mean and the standard deviation of each channel."""
        means, deviations = zip(*channel_statistics(batches), strict=True)
        self.mean.copy_(torch.from_numpy(np.concatenate(means)))
        self.deviation.copy_(torch.from_numpy(np.concatenate(deviations)))

    def steps(self, batch: FeaturePyramid, generator: torch.Generator) -> Iterator[Step]:
        """Take some cells at a time."""
        features = self.features(batch)
        n_cells, done = len(features), 0
        order = torch.randperm(n_cells, generator=generator, device=features.device)
        for rows in torch.split(order, self.cells_per_step):
            done += len(rows)
            loss = self.loss(features[rows], generator)
            yield Step(loss, len(rows), self.concerned, 0, done / n_cells)

    def held_out_losses(self, batch: FeaturePyramid) -> list[tuple[float, int]]:
        """Return the loss of training, with the same random numbers every time."""
        features = self.features(batch)
        generator = torch.Generator(features.device)
        generator.manual_seed(0)
        with torch.inference_mode():
            loss = self.loss(features, generator)
        return [(float(loss) * len(features), len(features))]

    def calibrate(self, batches: Iterator[FeaturePyramid]) -> None:
        """Learn nothing: scores begin at zero."""

    @abstractmethod
    def loss(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean loss of some cells, shape (n_cells, n)."""

    def features(self, pyramid: FeaturePyramid) -> Tensor:
        """Return what the network is trained on for each cell, shape (n_cells, n)."""
        return (self.rows(pyramid) - self.mean) / self.deviation

    def rows(self, pyramid: FeaturePyramid) -> Tensor:
        """Return the upsampled, concatenated features of all cells, shape (n_cells, n_features)."""
        rows = pyramid.concatenated(self._upsample)
        return torch.from_numpy(rows.reshape(-1, rows.shape[-1])).to(self.mean.device)

    def rows_in_strips(self, pyramid: FeaturePyramid) -> Iterator[Tensor]:
        """Yield the features of all cells of one image, some rows of a large one at a time."""
        for part in pyramid.concatenated_in_strips(self._upsample, _AT_ONCE):
            rows = torch.from_numpy(np.ascontiguousarray(part).reshape(-1, part.shape[-1]))
            yield rows.to(self.mean.device)
