"""CFLOW-AD's network: a conditional flow for each level, and how likelihoods become scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, logsigmoid

from knnspect.detectors.heads.networks.flow import ConditionalFlow, PreparedFlow
from knnspect.detectors.heads.networks.scorer import CellScorer
from knnspect.detectors.heads.networks.standardization import channel_statistics
from knnspect.errors import ShapeError
from knnspect.pyramid import FeaturePyramid, describe_shapes
from knnspect.training.network import Step

__all__ = ["CFlowNetwork"]

#: Cells of one step, as in the paper's code.
_CELLS_PER_STEP = 256


class CFlowNetwork(CellScorer):
    """One flow per level over standardized features; levels are trained apart from each other.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Height, width and channels of each level.
    coupling_blocks : int
        Of each flow.
    learning_rate : float
        Adam's.

    Source
    ------
    Gudovskiy et al., CFLOW-AD (2022), section 4.
    """

    #: Largest log-likelihood of each level among normal images.
    highest: Tensor
    _prepared: list[PreparedFlow] | None

    def __init__(
        self, shapes: Sequence[tuple[int, int, int]], coupling_blocks: int, learning_rate: float
    ) -> None:
        super().__init__()
        self.shapes = [(height, width, n) for height, width, n in shapes]
        self.n_parts = len(self.shapes)
        self._learning_rate = learning_rate
        self.flows = nn.ModuleList(
            ConditionalFlow(channels, (height, width), coupling_blocks)
            for height, width, channels in shapes
        )
        for level, (_, _, channels) in enumerate(shapes):
            self.register_buffer(f"mean{level}", torch.zeros(channels))
            self.register_buffer(f"deviation{level}", torch.ones(channels))
        self.register_buffer("highest", torch.zeros(len(self.shapes)))

    def prepare(self, batches: Iterator[FeaturePyramid]) -> None:
        """Learn the mean and the standard deviation of each channel."""
        for level, statistics in enumerate(channel_statistics(batches)):
            for buffer, values in zip(self._scaling(level), statistics, strict=True):
                buffer.copy_(torch.from_numpy(values))

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one for each level."""
        return [torch.optim.Adam(flow.parameters(), self._learning_rate) for flow in self._flows]

    def steps(self, batch: FeaturePyramid, generator: torch.Generator) -> Iterator[Step]:
        """Go level by level, some cells at a time."""
        for level, flow in enumerate(self._flows):
            features = self._standardized(batch, level).flatten(0, 2)
            n_cells = len(features)
            height, width = flow.grid
            order = torch.randperm(n_cells, generator=generator, device=features.device)
            done = 0
            for rows in torch.split(order, _CELLS_PER_STEP):
                likelihood = flow.log_likelihood(features[rows], rows % (height * width))
                loss = -logsigmoid(likelihood).mean()
                done += len(rows)
                yield Step(loss, len(rows), [level], level, done / n_cells)

    def held_out_losses(self, batch: FeaturePyramid) -> list[tuple[float, int]]:
        """Return the losses of training, level by level."""
        losses = [-logsigmoid(values).double() for values in self._log_likelihoods(batch)]
        return [(float(values.sum()), values.numel()) for values in losses]

    def calibrate(self, batches: Iterator[FeaturePyramid]) -> None:
        """Learn the largest log-likelihood of each level."""
        highest = torch.full_like(self.highest, -torch.inf)
        for pyramid in batches:
            for index in range(pyramid.n_images):
                found = self._log_likelihoods(pyramid[index])
                highest = highest.maximum(torch.stack([values.max() for values in found]))
        self.highest.copy_(highest)

    def cell_scores(self, pyramid: FeaturePyramid) -> NDArray[np.float64]:
        """Return how unlike normal each cell of the finest level is, in nats per channel.

        With p the likelihood of a level's cell, relative to that level's most likely normal cell
        (more counts as 1), and taken to the finest level bilinearly, it is minus the logarithm of
        the mean of p over the levels: the paper's score, which is minus their sum, in another scale
        that neither ends where p does nor lets it vanish.
        """
        size = self._flows[0].grid
        total = torch.zeros(size, dtype=torch.float64)
        for values, highest in zip(self._log_likelihoods(pyramid), self.highest, strict=True):
            relative = (values - highest).clamp(max=0).cpu().double().exp()
            if relative.shape != size:
                relative = interpolate(relative[None, None], size, mode="bilinear")[0, 0]
            total += relative
        smallest = torch.finfo(torch.float64).tiny
        scores: NDArray[np.float64] = -(total / self.n_parts).clamp(smallest, 1).log().numpy()
        return scores

    def _log_likelihoods(self, pyramid: FeaturePyramid) -> list[Tensor]:
        """Of one image, per channel, as maps."""
        if self._prepared is None:
            self._prepared = [flow.prepared() for flow in self._flows]
        if pyramid.shapes != self.shapes:
            raise ShapeError(
                f"the image's pyramid is {describe_shapes(pyramid.shapes)}, the flows were trained "
                f"on {describe_shapes(self.shapes)}"
            )
        found = []
        for level, (flow, prepared) in enumerate(zip(self._flows, self._prepared, strict=True)):
            features = self._standardized(pyramid, level).flatten(0, 2).T
            values = prepared.log_likelihood(features.contiguous())
            found.append(values.reshape(flow.grid))
        return found

    def _standardized(self, pyramid: FeaturePyramid, level: int) -> Tensor:
        mean, deviation = self._scaling(level)
        features = torch.as_tensor(pyramid.arrays[level]).to(mean.device, torch.float32)
        return (features - mean).div_(deviation)

    def _scaling(self, level: int) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"mean{level}"), self.get_buffer(f"deviation{level}")

    @property
    def _flows(self) -> list[ConditionalFlow]:
        return [flow for flow in self.flows if isinstance(flow, ConditionalFlow)]
