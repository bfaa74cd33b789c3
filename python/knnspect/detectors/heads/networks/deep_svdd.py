"""Deep SVDD's network: features of normal cells are drawn to one point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from knnspect.detectors.heads.networks.cells import StandardizedCells
from knnspect.pyramid import FeaturePyramid

__all__ = ["DeepSvddNetwork", "Objective", "away_from_zero"]

#: Slope of the leaky rectifier below zero (the paper, section 4.1).
SLOPE = 0.1
#: Coordinates of the centre are not nearer to zero than this, as in the authors' code.
_NEAREST_TO_ZERO = 0.1
#: The share of the training before the radius is looked for.
_WARM_UP = 0.2
#: Cells of each image, and batches of images, of which the centre is the mean.
_CENTRE_CELLS, _CENTRE_BATCHES = 64, 32
#: Lest a distance of zero be inverted (the code of Deep SAD).
_EPSILON = 1e-6


@dataclass(frozen=True)
class Objective:
    """What is lowered.

    Parameters
    ----------
    kind : {"one_class", "soft_boundary"}
        The mean squared distance, or what of it lies beyond a radius.
    nu : float
        The share of cells beyond the radius.
    eta : float
        Weight of defective cells.
    learning_rate, weight_decay : float
        Adam's.
    """

    kind: Literal["one_class", "soft_boundary"]
    nu: float
    eta: float
    learning_rate: float
    weight_decay: float


class DeepSvddNetwork(StandardizedCells):
    """Two linear layers without bias, and the point that they are to take normal features to.

    Parameters
    ----------
    shapes, upsample
        As `StandardizedCells` takes them.
    hidden : int
        Width between the layers.
    outputs : int
        Numbers that come out.
    objective : Objective
        What is lowered.

    Source
    ------
    Ruff et al., "Deep One-Class Classification" (2018), section 3, equations 3 and 4; with defects
    Ruff et al., "Deep Semi-Supervised Anomaly Detection" (2020), equation 8.
    """

    cells_per_step = 1024
    #: Features of defective cells, shape (n, n_features), while it is trained with some.
    defects: NDArray[np.float32] | None = None
    center: Tensor
    radius: Tensor
    _prepared: tuple[Tensor, Tensor, Tensor] | None

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        upsample: Literal["bilinear", "block"],
        hidden: int,
        outputs: int,
        objective: Objective,
    ) -> None:
        super().__init__(shapes, upsample)
        self._objective = objective
        self.first = nn.Linear(self.n_features, hidden, bias=False)
        self.second = nn.Linear(hidden, outputs, bias=False)
        self.register_buffer("center", torch.ones(outputs))
        self.register_buffer("radius", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        """Return what comes out for standardized features, shape (n_cells, outputs)."""
        out: Tensor = self.second(leaky_relu(self.first(features), SLOPE))
        return out

    def sq_distances(self, features: Tensor) -> Tensor:
        """Return the squared distances of standardized features to the centre, shape (n_cells,)."""
        out: Tensor = self(features)
        return (out.float() - self.center).square().sum(dim=1)

    def prepare(self, batches: Iterator[FeaturePyramid]) -> None:
        """Learn mean and standard deviation of each channel, and the centre."""
        kept: list[Tensor] = []

        def passing() -> Iterator[FeaturePyramid]:
            for pyramid in batches:
                if len(kept) < _CENTRE_BATCHES:
                    rows = self.rows(pyramid)
                    kept.append(rows[:: max(1, len(rows) // (_CENTRE_CELLS * len(pyramid)))])
                yield pyramid

        super().prepare(passing())
        with torch.inference_mode():
            features = (torch.cat(kept) - self.mean) / self.deviation
            self.center.copy_(away_from_zero(self(features).mean(dim=0)))

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return Adam, whose weight decay is the paper's."""
        rate, decay = self._objective.learning_rate, self._objective.weight_decay
        return [torch.optim.Adam(self.parameters(), rate, weight_decay=decay)]

    def loss(self, features: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """Return the loss of some normal cells, and of the defective ones while it is trained."""
        sq_distances = self.sq_distances(features)
        if self._objective.kind == "soft_boundary":
            return self._soft(sq_distances)
        if self.defects is None or not self.training:
            return sq_distances.mean()
        defects = torch.from_numpy(self.defects).to(features)
        defects = (defects - self.mean) / self.deviation
        inverse = 1 / (self.sq_distances(defects) + _EPSILON)
        total = sq_distances.sum() + self._objective.eta * inverse.sum()
        return total / (len(sq_distances) + len(inverse))

    def cell_scores(self, pyramid: FeaturePyramid) -> NDArray[np.float64]:
        """Return the squared distance of each cell to the centre."""
        if self._prepared is None:
            self._prepared = self._folded()
        first, bias, second = self._prepared
        with torch.inference_mode():
            hidden = leaky_relu(torch.addmm(bias, self.rows(pyramid), first), SLOPE, inplace=True)
            scores = torch.addmm(-self.center, hidden, second).square().sum(dim=1)
        return scores.reshape(pyramid.shapes[0][:2]).double().cpu().numpy()

    def _folded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the layers as matrices, with the standardization in the first and its bias.

        In float64: features that are far from zero and even cancel in the bias.
        """
        with torch.inference_mode():
            first = self.first.weight.double() / self.deviation.double()
            bias = -(first @ self.mean.double())
            second = self.second.weight.T.contiguous()
            return first.T.float().contiguous(), bias.float(), second

    def _soft(self, sq_distances: Tensor) -> Tensor:
        """Return the soft-boundary loss; while it is trained, the radius follows the distances."""
        nu = self._objective.nu
        if self.training and self.done >= _WARM_UP:
            of_share = torch.quantile(sq_distances.detach().sqrt(), 1 - nu)
            self.radius.copy_(of_share)
        sq_radius = self.radius.square()
        return sq_radius + (sq_distances - sq_radius).clamp(min=0).mean() / nu


def away_from_zero(center: Tensor) -> Tensor:
    """Return a centre whose coordinates are at least .1 from zero.

    What is 0 could be reached by weights of 0.

    >>> away_from_zero(torch.tensor([0.5, -0.01, 0.0, -2.0]))
    tensor([ 0.5000, -0.1000,  0.1000, -2.0000])
    """
    sign = torch.where(center < 0, -1.0, 1.0)
    return torch.where(center.abs() < _NEAREST_TO_ZERO, sign * _NEAREST_TO_ZERO, center)
