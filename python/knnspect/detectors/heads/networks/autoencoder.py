"""DUAD's autoencoders: of rows that describe images, and of the cells of images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from knnspect.detectors.heads.networks.scorer import CellScorer
from knnspect.detectors.heads.networks.standardization import channel_statistics
from knnspect.forked import fork_safe
from knnspect.pyramid import FeaturePyramid
from knnspect.training.network import Batch, Step, TrainableNetwork

__all__ = ["Autoencoder", "CellNetwork", "RowNetwork", "RowSource", "codes_of"]

#: Cells of one step, and images of one.
_CELLS_PER_STEP, _ROWS_PER_STEP = 256, 32
_ROWS_RATE = 3e-3


class Autoencoder(nn.Module):
    """Two layers to a code, and two back.

    Parameters
    ----------
    n_features : int
        Features that come and go.
    hidden : int
        Width of the inner layers.
    latent_size : int
        Width of the code.

    Examples
    --------
    >>> code, back = Autoencoder(8, hidden=6, latent_size=2)(torch.randn(3, 8))
    >>> code.shape, back.shape
    (torch.Size([3, 2]), torch.Size([3, 8]))
    """

    def __init__(self, n_features: int, hidden: int, latent_size: int) -> None:
        super().__init__()
        self.inwards = nn.Linear(n_features, hidden)
        self.code = nn.Linear(hidden, latent_size)
        self.outwards = nn.Linear(latent_size, hidden)
        self.output = nn.Linear(hidden, n_features)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes and what is made of them, of rows, shape (n, n_features)."""
        code = self.code(self.inwards(rows).relu())
        return code, self.output(self.outwards(code).relu())


def codes_of(code: NDArray[np.float64], cosine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what images are clustered by: their codes, and how well they are reconstructed.

    Parameters
    ----------
    code : ndarray of float64, shape (n_images, latent_size)
        Of the autoencoder.
    cosine : ndarray of float64, shape (n_images,)
        Of the angle between what comes in and what comes out.

    Returns
    -------
    ndarray of float64, shape (n_images, latent_size + 1)
        Both parts have a mean of 0 and a total variance of 1, or of 0 where nothing differs.

    Examples
    --------
    >>> codes_of(np.array([[30.0, 0.0], [50.0, 0.0]]), np.array([0.9, 0.8])).round(6)
    array([[-1.,  0.,  1.],
           [ 1.,  0., -1.]])
    """
    parts = []
    for part in (code, cosine[:, None]):
        centred = part - part.mean(axis=0)
        deviation = np.sqrt(np.square(centred).sum(axis=1).mean())
        parts.append(centred / (deviation or 1.0))
    return np.concatenate(parts, axis=1)


class RowSource:
    """Rows that describe images, by the ids of these.

    Parameters
    ----------
    rows : ndarray of float32, shape (n_images, n_features)
        The rows.
    ids : sequence of str
        One per row.
    """

    def __init__(self, rows: NDArray[np.float32], ids: Sequence[str]) -> None:
        self._rows = rows
        self._places = {id_: place for place, id_ in enumerate(ids)}

    def batch(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """Return the rows of some images, in the order of their ids."""
        return self._rows[[self._places[id_] for id_ in ids]]


class _Reconstructing(TrainableNetwork[Batch]):
    """What both have in common: the autoencoder, and its loss."""

    def __init__(self, n_features: int, hidden: int, latent_size: int, rate: float) -> None:
        super().__init__()
        self.autoencoder = Autoencoder(n_features, hidden, latent_size)
        self._rate, self._size = rate, 0

    @abstractmethod
    def _rows(self, batch: Batch) -> Tensor:
        """Return what is reconstructed, shape (n, n_features)."""

    def _errors(self, rows: Tensor) -> Tensor:
        """Return the mean over features of the squared error of each row."""
        errors: Tensor = (self.autoencoder(rows)[1] - rows).float().square().mean(dim=1)
        return errors

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one."""
        return [torch.optim.Adam(self.autoencoder.parameters(), self._rate)]

    def steps(self, batch: Batch, generator: torch.Generator) -> Iterator[Step]:
        """Take some rows at a time."""
        rows, done = self._rows(batch), 0
        order = torch.randperm(len(rows), generator=generator, device=rows.device)
        for places in torch.split(order, self._size):
            done += len(places)
            yield Step(self._errors(rows[places]).mean(), len(places), [0], 0, done / len(rows))

    def held_out_losses(self, batch: Batch) -> list[tuple[float, int]]:
        """Return the loss of training."""
        with torch.inference_mode():
            errors = self._errors(self._rows(batch))
        return [(float(errors.double().sum()), len(errors))]

    def calibrate(self, batches: Iterator[Batch]) -> None:
        """Learn nothing: an error begins at zero."""


class RowNetwork(_Reconstructing[NDArray[np.float32]]):
    """An autoencoder of rows that describe images, each scaled already.

    Parameters
    ----------
    n_features, hidden, latent_size : int
        See `Autoencoder`.
    """

    schedule = "constant"

    def __init__(self, n_features: int, hidden: int, latent_size: int) -> None:
        super().__init__(n_features, hidden, latent_size, _ROWS_RATE)
        self._size = _ROWS_PER_STEP

    def prepare(self, batches: Iterator[NDArray[np.float32]]) -> None:
        """Learn nothing: rows are scaled."""

    def _rows(self, batch: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(batch).to(self.autoencoder.code.weight.device)

    @fork_safe
    def described(
        self, rows: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what rows are clustered by, as `codes_of`, and the mean squared error of each."""
        given = self._rows(rows)
        with torch.inference_mode():
            code, back = self.autoencoder(given)
            cosine = cosine_similarity(given, back, dim=1)
            errors = (back - given).square().mean(dim=1)
        found = [value.double().cpu().numpy() for value in (code, cosine, errors)]
        return codes_of(found[0], found[1]), found[2]


class CellNetwork(_Reconstructing[FeaturePyramid], CellScorer):
    """An autoencoder of standardized features of cells, all levels together.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Height, width and channels of each level.
    hidden, latent_size : int
        See `Autoencoder`.
    learning_rate : float
        Of Adam, at its highest.

    Source
    ------
    Li et al., "Deep Unsupervised Anomaly Detection" (WACV 2021): the reconstruction error.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        hidden: int,
        latent_size: int,
        learning_rate: float,
    ) -> None:
        n_features = sum(channels for _, _, channels in shapes)
        super().__init__(n_features, hidden, latent_size, learning_rate)
        self._size = _CELLS_PER_STEP
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("deviation", torch.ones(n_features))

    def prepare(self, batches: Iterator[FeaturePyramid]) -> None:
        """Learn the mean and the standard deviation of each channel."""
        means, deviations = zip(*channel_statistics(batches), strict=True)
        self.mean.copy_(torch.from_numpy(np.concatenate(means)))
        self.deviation.copy_(torch.from_numpy(np.concatenate(deviations)))

    def cell_scores(self, pyramid: FeaturePyramid) -> NDArray[np.float64]:
        """Return how badly each cell is reconstructed: its mean squared error."""
        with torch.inference_mode():
            errors = self._errors(self._rows(pyramid))
        return errors.reshape(pyramid.shapes[0][:2]).double().cpu().numpy()

    def _rows(self, batch: FeaturePyramid) -> Tensor:
        """Standardized features of all cells, upsampled bilinearly and concatenated."""
        rows = batch.concatenated("bilinear")
        features = torch.from_numpy(rows.reshape(-1, rows.shape[-1])).to(self.mean.device)
        return (features - self.mean) / self.deviation
