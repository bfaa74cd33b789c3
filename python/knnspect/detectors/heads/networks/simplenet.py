"""SimpleNet's network: an adaptor, and a discriminator that tells features from noisy ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from knnspect.detectors.heads.networks.cells import StandardizedCells
from knnspect.pyramid import FeaturePyramid

__all__ = ["Adaptor", "Discriminator", "SimpleNetNetwork", "hinge_loss"]

#: Cells of one step.
_CELLS_PER_STEP = 256
#: The adaptor learns more slowly than the discriminator by this factor.
_ADAPTOR_RATE = 0.02


class Adaptor(nn.Linear):
    """A linear map of features that begins near the identity.

    Parameters
    ----------
    n_features : int
        Features that come and go.

    Examples
    --------
    >>> features = torch.randn(3, 8)
    >>> bool(torch.allclose(Adaptor(8)(features), features, atol=0.2))
    True
    """

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features, n_features)
        nn.init.eye_(self.weight)
        with torch.no_grad():
            self.weight += 0.01 * torch.randn_like(self.weight)
        nn.init.zeros_(self.bias)


class Discriminator(nn.Module):
    """Two linear layers; what comes out is high for normal features.

    Parameters
    ----------
    n_features : int
        Features that come.
    hidden : int
        Width between the layers.

    Examples
    --------
    >>> Discriminator(8, 4)(torch.randn(3, 8)).shape
    torch.Size([3])
    """

    def __init__(self, n_features: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_features, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.output = nn.Linear(hidden, 1, bias=False)
        nn.init.xavier_normal_(self.linear.weight)
        # Small: far from all features that it is shown, what it says would else be what the weights
        # at the beginning said.
        nn.init.xavier_normal_(self.output.weight, gain=0.05)

    def forward(self, features: Tensor) -> Tensor:
        """Judge features, shape (n_cells, n_features)."""
        judged: Tensor = self.output(leaky_relu(self.norm(self.linear(features)), 0.2))
        return judged[:, 0]


def hinge_loss(normal: Tensor, noisy: Tensor, margin: float) -> Tensor:
    """Mean of what normal features lack to `margin`, plus what noisy ones exceed `-margin` by.

    Examples
    --------
    >>> hinge_loss(torch.tensor([0.7, 0.25]), torch.tensor([-0.5, -0.25]), margin=0.5)
    tensor(0.2500)
    """
    return (margin - normal).clamp(min=0).mean() + (margin + noisy).clamp(min=0).mean()


class SimpleNetNetwork(StandardizedCells):
    """Adaptor and discriminator over standardized features, all levels together.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Height, width and channels of each level.
    upsample : {"bilinear", "block"}
        How coarse levels are brought to the resolution of the finest one.
    hidden : int
        Width of the discriminator.
    noise : float
        Standard deviation of what is added to normal features, in units of their own.
    margin : float
        Of the hinge loss.
    learning_rate : float
        The discriminator's.

    Source
    ------
    Liu et al., "SimpleNet: A Simple Network for Image Anomaly Detection and Localization" (2023),
    section 3.
    """

    cells_per_step = _CELLS_PER_STEP
    concerned = (0, 1)
    #: Smallest score of a cell among normal images.
    lowest: Tensor
    _prepared: tuple[Tensor, Tensor, Tensor] | None

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        upsample: Literal["bilinear", "block"],
        hidden: int,
        noise: float,
        margin: float,
        learning_rate: float,
    ) -> None:
        super().__init__(shapes, upsample)
        self._noise, self._margin, self._learning_rate = noise, margin, learning_rate
        self.adaptor = Adaptor(self.n_features)
        self.discriminator = Discriminator(self.n_features, hidden)
        self.register_buffer("lowest", torch.zeros(()))

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one for the discriminator and one for the adaptor."""
        return [
            torch.optim.Adam(
                self.discriminator.parameters(), self._learning_rate, weight_decay=1e-5
            ),
            torch.optim.AdamW(self.adaptor.parameters(), _ADAPTOR_RATE * self._learning_rate),
        ]

    def loss(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Return the hinge loss of some cells, each with a noisy copy."""
        adapted = self.adaptor(features)
        noise = torch.empty_like(adapted).normal_(generator=generator)
        judged = self.discriminator(torch.cat([adapted, adapted + self._noise * noise]))
        normal, noisy = judged.float().chunk(2)
        return hinge_loss(normal, noisy, self._margin)

    def calibrate(self, batches: Iterator[FeaturePyramid]) -> None:
        """Learn the smallest score of a cell."""
        lowest = min(
            float(self._judged(pyramid[index]).min())
            for pyramid in batches
            for index in range(pyramid.n_images)
        )
        self.lowest.fill_(lowest)

    def cell_scores(self, pyramid: FeaturePyramid) -> NDArray[np.float64]:
        """Return how unlike normal each cell is: minus the discriminator's word for it.

        Less than what the most normal cell of the normal images has, which is taken as zero.
        """
        scores = (self._judged(pyramid) - self.lowest).clamp(min=0)
        return scores.reshape(pyramid.shapes[0][:2]).double().cpu().numpy()

    def _judged(self, pyramid: FeaturePyramid) -> Tensor:
        """Minus the discriminator's word for every cell of one image."""
        if self._prepared is None:
            self._prepared = self._one_layer()
        weight, bias, output = self._prepared
        with torch.inference_mode():
            judged = []
            for rows in self.rows_in_strips(pyramid):
                hidden = torch.addmm(bias, rows, weight)
                judged.append(-(leaky_relu(hidden, 0.2, inplace=True) @ output))
            return torch.cat(judged)

    def _one_layer(self) -> tuple[Tensor, Tensor, Tensor]:
        """All that is linear before the activation, as one layer: weight, bias, and the output.

        That is standardization, adaptor, first layer and batch normalization.
        """
        norm = self.discriminator.norm
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        with torch.inference_mode():
            # In float64: features that are far from zero and even cancel in the bias.
            first = self.discriminator.linear.weight.double()
            weight = first @ self.adaptor.weight.double() / self.deviation.double()
            bias = first @ self.adaptor.bias.double() + self.discriminator.linear.bias.double()
            bias -= weight @ self.mean.double()
            scale = norm.weight.double() / (variance.double() + norm.eps).sqrt()
            weight *= scale[:, None]
            bias = (bias - mean.double()) * scale + norm.bias.double()
            output = self.discriminator.output.weight[0].clone()
            return weight.T.float().contiguous(), bias.float(), output
