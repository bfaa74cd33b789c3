"""The joint detector of HADGAN: pixels by the residual of their spectra, and by its places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from knnspect.detectors.reconstruction.networks.spectra import (
    guided,
    lowest_energies,
    mahalanobis,
    small_parts,
    spread_of,
    usual_of,
)

__all__ = ["MOST_VALUES", "JointDetector"]

#: Values that usual residuals are described by.
MOST_VALUES = 2**24


class JointDetector(nn.Module):
    """Judges residuals by those that are usual, which it keeps.

    Parameters
    ----------
    n_bands : int
        Of the scenes.
    contamination : float
        The share of spectra that are not taken for usual.
    """

    usual: Tensor
    whitening: Tensor
    is_chosen: Tensor
    spreads: Tensor

    def __init__(self, n_bands: int, contamination: float) -> None:
        super().__init__()
        self.contamination = contamination
        self.register_buffer("usual", torch.zeros(n_bands))
        self.register_buffer("whitening", torch.eye(n_bands))
        # Bands that are looked at for the spatial map.
        self.register_buffer("is_chosen", torch.ones(n_bands))
        # Of what is small in these, of the spatial map, and of the spectral map.
        self.register_buffer("spreads", torch.ones(3))

    def learn(self, residuals: Sequence[NDArray[Any]]) -> None:
        """Take residuals for usual, but for the oddest spectra.

        Parameters
        ----------
        residuals : sequence of ndarray of float, shape (n_bands, height, width)
            Of scenes; there is at least one. Of more than 2^24 values some spectra are taken.
        """
        step = -(-sum(each.size for each in residuals) // MOST_VALUES)
        spectra = np.concatenate([each.reshape(len(each), -1).T[::step] for each in residuals])
        usual, whitening = usual_of(spectra, self.contamination)
        self._set("usual", usual)
        self._set("whitening", whitening)
        self._set("is_chosen", lowest_energies(spectra))
        noise = spread_of([small_parts(each, self._chosen) for each in residuals])
        self._set("spreads", [noise, 1.0, 1.0])
        of_each = zip(*map(self.maps, residuals), strict=True)
        self._set("spreads", [noise, *(spread_of(maps) for maps in of_each)])

    def maps(self, residual: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the spatial and the spectral map by a residual, each by its spread."""
        noise, of_spatial, of_spectral = self.spreads.double().tolist()
        spatial = guided(small_parts(residual, self._chosen), noise)
        spectral = mahalanobis(residual, self.usual.cpu().numpy(), self.whitening.cpu().numpy())
        return spatial / of_spatial, spectral / of_spectral

    def map(self, residual: NDArray[Any], share: float) -> NDArray[np.float32]:
        """Return the joint map, of which a share is the spatial one, shape (height, width)."""
        spatial, spectral = self.maps(residual)
        return (share * spatial + (1 - share) * spectral).astype(np.float32)

    @property
    def _chosen(self) -> NDArray[np.bool_]:
        return self.is_chosen.cpu().numpy() > 0

    def _set(self, name: str, values: object) -> None:
        getattr(self, name).copy_(torch.as_tensor(np.asarray(values, np.float32)))
