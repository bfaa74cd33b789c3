"""Students that guess the features of a cell by the cells around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from knnspect.detectors.heads.networks.cells import StandardizedCells
from knnspect.detectors.heads.scorers.student_teacher import around
from knnspect.pyramid import FeaturePyramid

__all__ = ["StudentTeacherNetwork", "error_and_variance"]

_SLOPE = 0.01


def error_and_variance(predicted: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return by how much the mean of all students is wrong, and how far they are apart.

    Parameters
    ----------
    predicted : tensor, shape (n_students, n_cells, n_features)
        What each student predicts.
    features : tensor, shape (n_cells, n_features)
        What the teacher says.

    Returns
    -------
    (tensor, tensor), shape (n_cells,) each
        Equations 6 and 7 of the paper, divided by the number of features.

    Examples
    --------
    >>> error_and_variance(torch.tensor([[[1.0]], [[3.0]]]), torch.tensor([[5.0]]))
    (tensor([9.]), tensor([1.]))
    """
    mean = predicted.mean(dim=0)
    apart = (predicted - mean).square().mean(dim=(0, 2))
    return (mean - features).square().mean(dim=1), apart


class StudentTeacherNetwork(StandardizedCells):
    """Students, each two layers, that are shown the mean of the eight cells around one.

    Parameters
    ----------
    shapes, upsample
        As `StandardizedCells` takes them.
    students : int
        How many.
    hidden : int
        Width between the layers of each.
    learning_rate : float
        Adam's.

    Source
    ------
    Bergmann et al., "Uninformed Students: Student-Teacher Anomaly Detection with Discriminative
    Latent Embeddings" (2020), section 3.
    """

    cells_per_step = 512
    error_deviation: Tensor
    variance_deviation: Tensor

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        upsample: Literal["bilinear", "block"],
        students: int,
        hidden: int,
        learning_rate: float,
    ) -> None:
        super().__init__(shapes, upsample)
        self._learning_rate, n = learning_rate, self.n_features
        self.first = nn.Parameter(torch.randn(students, n, hidden) / n**0.5)
        self.first_bias = nn.Parameter(torch.zeros(students, 1, hidden))
        self.second = nn.Parameter(torch.randn(students, hidden, n) / hidden**0.5)
        self.second_bias = nn.Parameter(torch.zeros(students, 1, n))
        self.register_buffer("error_deviation", torch.ones(()))
        self.register_buffer("variance_deviation", torch.ones(()))

    def forward(self, shown: Tensor) -> Tensor:
        """Return what each student predicts, shape (n_students, n_cells, n_features)."""
        shown = shown.expand(len(self.first), *shown.shape)
        hidden = leaky_relu(torch.baddbmm(self.first_bias, shown, self.first), _SLOPE)
        return torch.baddbmm(self.second_bias, hidden, self.second)

    def features(self, pyramid: FeaturePyramid) -> Tensor:
        """Return what students are shown of each cell, and then what they are to predict."""
        cells = pyramid.concatenated(self._upsample)
        both = np.stack([around(cells), cells]).reshape(2, -1, self.n_features)
        shown, rows = (torch.from_numpy(both).to(self.mean.device) - self.mean) / self.deviation
        return torch.cat([shown, rows], dim=1)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return Adam for all students."""
        return [torch.optim.Adam(self.parameters(), self._learning_rate)]

    def loss(self, features: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """Return the mean squared error of all students: equation 5, divided by the features."""
        shown, rows = features.chunk(2, dim=1)
        predicted: Tensor = self(shown)
        return (predicted.float() - rows).square().mean()

    def normalize(self, held_out: Iterator[FeaturePyramid]) -> None:
        """Learn how far errors and variances vary among the cells of normal images."""
        found = [torch.stack(self._judged(pyramid)).double() for pyramid in held_out]
        deviations = torch.cat(found, dim=1).std(dim=1, correction=0)
        # Of a single student there is no variance.
        deviations = torch.where(deviations > 0, deviations, 1)
        self.error_deviation.copy_(deviations[0])
        self.variance_deviation.copy_(deviations[1])

    def cell_scores(self, pyramid: FeaturePyramid) -> NDArray[np.float64]:
        """Return error and variance of each cell, each in units of its deviation."""
        error, variance = self._judged(pyramid)
        with torch.inference_mode():
            scores = error / self.error_deviation + variance / self.variance_deviation
        return scores.reshape(pyramid.shapes[0][:2]).double().cpu().numpy()

    def _judged(self, pyramid: FeaturePyramid) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            shown, rows = self.features(pyramid).chunk(2, dim=1)
            return error_and_variance(self(shown), rows)
