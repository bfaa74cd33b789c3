"""A linear map by which the shifts of features are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from knnspect.detectors.heads.networks.cells import StandardizedCells
from knnspect.pyramid import FeaturePyramid

__all__ = ["TransformationsNetwork", "surprise"]


def surprise(embedded: Tensor, centers: Tensor) -> Tensor:
    """Return minus the logarithm of the likelihoods of all shifts, given features that had them.

    ``-sum_m log P(m | x + b_m)``, where ``P(m' | z)`` is proportional to ``exp(-|f(z) - c_m'|^2)``,
    and ``f(x + b_m) = f(x) + c_m`` as the map is linear.

    Parameters
    ----------
    embedded : tensor, shape (n_cells, outputs)
        What the map makes of features that are not shifted.
    centers : tensor, shape (n_shifts, outputs)
        What it makes of the shifts, which is the mean of what it makes of shifted normal features.

    Returns
    -------
    tensor, shape (n_cells,)
        At least 0.

    Examples
    --------
    >>> centers = torch.tensor([[0.0], [1.0]])
    >>> surprise(torch.tensor([[0.5]]), centers)  # log(2) + log(1 + exp(-2))
    tensor([0.8201])
    """
    # Squared distances, but for what is the same for all centres.
    logits = 2 * embedded @ centers.T
    between = 2 * centers @ centers.T - centers.square().sum(dim=1)
    of_shifted = logits[:, None] + between
    own = logits + torch.diagonal(between)
    return (of_shifted.logsumexp(dim=2) - own).clamp(min=0).sum(dim=1)


class TransformationsNetwork(StandardizedCells):
    """Random shifts of features, and a linear map by which these are told apart.

    Parameters
    ----------
    shapes, upsample
        As `StandardizedCells` takes them.
    transformations : int
        How many shifts there are.
    shift : float
        Their standard deviation, in units of that of each channel.
    outputs : int
        Numbers that the map makes of a feature.
    learning_rate : float
        Adam's.

    Source
    ------
    Bergman and Hoshen, "Classification-Based Anomaly Detection for General Data" (2020).
    """

    cells_per_step = 512
    shifts: Tensor
    _prepared: tuple[Tensor, Tensor, Tensor] | None

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        upsample: Literal["bilinear", "block"],
        transformations: int,
        shift: float,
        outputs: int,
        learning_rate: float,
    ) -> None:
        super().__init__(shapes, upsample)
        self._learning_rate, n = learning_rate, self.n_features
        self.map = nn.Parameter(torch.randn(n, outputs) / n**0.5)
        self.register_buffer("shifts", shift * torch.randn(transformations, n))

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return Adam."""
        return [torch.optim.Adam(self.parameters(), self._learning_rate)]

    def loss(self, features: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """Return the mean cross-entropy of telling which shift a normal feature had."""
        embedded, centers = (features @ self.map).float(), (self.shifts @ self.map).float()
        return surprise(embedded, centers).mean() / len(centers)

    def cell_scores(self, pyramid: FeaturePyramid) -> NDArray[np.float64]:
        """Return how hard it is to tell the shifts of each cell."""
        if self._prepared is None:
            self._prepared = self._folded()
        matrix, offset, centers = self._prepared
        with torch.inference_mode():
            scores = surprise(torch.addmm(offset, self.rows(pyramid), matrix), centers)
        return scores.reshape(pyramid.shapes[0][:2]).double().cpu().numpy()

    def _folded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the map of features as they come, its offset, and the centres.

        In float64: features that are far from zero and even cancel in the offset.
        """
        with torch.inference_mode():
            matrix = self.map.double() / self.deviation.double()[:, None]
            offset = -(self.mean.double() @ matrix)
            return matrix.float(), offset.float(), self.shifts @ self.map
