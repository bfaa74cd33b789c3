"""Normalised cross-correlation of features, of some cells alone, at all places at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Peak", "Standard", "Templates", "quadratic_peak"]

#: The share of a template's cells that must lie in the image.
_INSIDE = 0.75


@dataclass(frozen=True)
class Peak:
    """Where a template fits best.

    Parameters
    ----------
    template : int
        Its number.
    row, column : float
        By how many cells it is shifted from the first cell of the image.
    value : float
        The correlation there, at most 1.
    """

    template: int
    row: float
    column: float
    value: float


class Templates:
    """Templates that are correlated with the features of images of one grid.

    The correlation at a shift is the mean, over the cells of the template that lie in the image, of
    the cosines between its features and those of the image.

    Parameters
    ----------
    features : sequence of ndarray of float32, shapes (height, width, n_features)
        The unit features of each template; zeros in cells that do not count.
    grid : (int, int)
        Rows and columns of cells of images.

    Source
    ------
    Padfield, "Masked object registration in the Fourier domain" (2012), with features for grey
    values: each cell is normalised by itself, not by the mean and norm of all.
    """

    def __init__(self, features: Sequence[NDArray[np.float32]], grid: tuple[int, int]) -> None:
        from scipy import fft

        self.grid = grid
        largest = [max(each.shape[axis] for each in features) for axis in (0, 1)]
        self._most = largest
        self._shape = tuple(
            fft.next_fast_len(n + m - 1, real=True) for n, m in zip(grid, largest, strict=True)
        )
        self._spectra = np.stack([self._spectrum(each.transpose(2, 0, 1)) for each in features])
        masks = [np.asarray(each.any(axis=2)) for each in features]
        self._masks = np.stack([self._spectrum(mask.astype(np.float32)) for mask in masks])
        self._n_cells = np.array([mask.sum() for mask in masks], np.float32)

    def _spectrum(self, values: NDArray[np.float32]) -> NDArray[np.complex64]:
        from scipy import fft

        found: NDArray[np.complex64] = np.conj(fft.rfft2(values, self._shape))
        return found

    def correlate(
        self, features: NDArray[np.float32], valid: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Return the correlation of each template with an image at each shift.

        Parameters
        ----------
        features : ndarray of float32, shape (*grid, n_features)
            The unit features of the image.
        valid : ndarray of bool, shape `grid`
            Which cells show the image.

        Returns
        -------
        ndarray of float32, shape (n_templates, height, width)
            Shifts from `lowest` on; -1 where too little of the template lies in the image.
        """
        from scipy import fft

        shown = np.where(valid[..., None], features, np.float32(0)).transpose(2, 0, 1)
        spectrum = fft.rfft2(shown, self._shape)
        products = np.einsum("tcij,cij->tij", self._spectra, spectrum)
        sums = fft.irfft2(products, self._shape)
        inside = fft.rfft2(valid.astype(np.float32), self._shape)
        n_inside = np.rint(fft.irfft2(self._masks * inside, self._shape))
        share = n_inside / np.maximum(self._n_cells, 1)[:, None, None]
        found = np.where(share >= _INSIDE, sums / np.maximum(n_inside, 1), np.float32(-1))
        rolled = np.roll(found, [-low for low in self.lowest], axis=(1, 2))
        height, width = (n + m - 1 for n, m in zip(self.grid, self._most, strict=True))
        result: NDArray[np.float32] = rolled[:, :height, :width].astype(np.float32)
        return result

    @property
    def lowest(self) -> tuple[int, int]:
        """The shift, in rows and columns, that is the first of what `correlate` returns."""
        return 1 - self._most[0], 1 - self._most[1]

    def peaks(
        self,
        correlation: NDArray[np.float32],
        n: int,
        apart: float,
        alike: NDArray[np.bool_],
    ) -> list[Peak]:
        """Return the largest values, best first, of different places or different templates.

        Parameters
        ----------
        correlation : ndarray of float32
            What `correlate` returned.
        n : int
            How many, at most.
        apart : float
            Cells by which places differ.
        alike : ndarray of bool, shape (n_templates, n_templates)
            Which templates are not different from each other: of one place the best counts.
        """
        rows, columns = np.ogrid[: correlation.shape[1], : correlation.shape[2]]
        left = correlation.copy()
        found: list[Peak] = []
        while len(found) < n:
            template, row, column = map(int, np.unravel_index(left.argmax(), left.shape))
            value = float(left[template, row, column])
            if value <= -1:
                break
            down, right = quadratic_peak(correlation[template], row, column)
            shift = row + down + self.lowest[0], column + right + self.lowest[1]
            found.append(Peak(template, *shift, value))
            near = (rows - row) ** 2 + (columns - column) ** 2 <= apart**2
            left[alike[template][:, None, None] & near] = -1
        return found


def quadratic_peak(values: NDArray[np.float32], row: int, column: int) -> tuple[float, float]:
    """Return how far the top of a parabola through a peak and its neighbours lies off the peak.

    In rows and columns, at most half a cell each; 0 at the border.

    >>> quadratic_peak(np.array([[0, 0, 0], [0, 3, 2], [0, 0, 0]], np.float32), 1, 1)
    (0.0, 0.25)
    """
    offsets = []
    for line, at in ((values[:, column], row), (values[row], column)):
        if not 0 < at < len(line) - 1:
            offsets.append(0.0)
            continue
        before, here, after = (float(value) for value in line[at - 1 : at + 2])
        bend = 2 * here - before - after
        off = (after - before) / (2 * bend) if bend > 0 else 0.0
        offsets.append(min(0.5, max(-0.5, off)))
    return offsets[0], offsets[1]


@dataclass(frozen=True, eq=False)
class Standard:
    """How features are told apart: by what differs from the mean of a part, each by its spread.

    Parameters
    ----------
    mean, deviation : ndarray of float32, shape (n_features,)
        Of the cells of the part.
    """

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @classmethod
    def of(cls, cells: NDArray[np.float32]) -> Standard:
        """Return that of the cells of a part, shape (n_cells, n_features)."""
        deviation = cells.std(axis=0)
        return cls(cells.mean(axis=0), np.where(deviation > 0, deviation, np.float32(1)))

    def unit(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return features less the mean, by their deviations, and divided by each cell's norm."""
        off = (features - self.mean) / self.deviation
        norms = np.sqrt(np.square(off).sum(axis=-1, keepdims=True))
        found: NDArray[np.float32] = off / np.where(norms > 0, norms, np.float32(1))
        return found
