"""A projection on leading directions: a matrix product that bounds distances from below.

The bound is the one that ``rust/core/src/bounds/projection.rs`` derives. Features are centred,
scaled and projected on their principal directions. With the leading coordinates ``x_l`` of a
feature x, and the norm ``r_x`` of the rest,

    |u - v|^2 >= |u|^2 + |v|^2 - 2 (<u_l, v_l> + r_u r_v)

Here it is one product, which matrix units take, also in bfloat16: the right side is the inner
product of two vectors, ``a = -2 (u_l, r_u)`` and ``b = (v_l, r_v)``, and of the squared norms
with 1. Rounded, to bfloat16 too, they are ``a'`` and ``b'``, and

    <a, b> >= <a', b'> - |a - a'| |b'| - |a| |b - b'|

so two more coordinates subtract what rounding can have added: its norms are known once it has been
done. The product is then never above the squared distance, whatever its precision: a pair whose
product exceeds the limit of its query is no neighbour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PcaProjection", "Projected", "round_up"]

#: The share of the variance that leading coordinates may leave to the rest, and how many there are
#: at most: products cost little on a GPU, and what they leave to be rescored costs more.
REST = {"cpu": 0.06, "cuda": 0.005}
MOST_LEADING = {"cpu": 2**20, "cuda": 503}
#: Widths are multiples of this, as matrix units like it.
MULTIPLE = 16
#: How many values of each type add up to a float32.
PARTS = {torch.float32: 1, torch.bfloat16: 3}
#: Features of which a squared norm exceeds this, centred and scaled, are left to the core.
MOST = 1e20
#: A bound on what underflow can amount to.
TINY = 1e-30
#: The squared norm of rows that stand for no cell.
PADDING = 1e30


@dataclass(frozen=True)
class PcaProjection:
    """A projection of features, less a mean and times a power of two, on some directions.

    Parameters
    ----------
    mean : Tensor of float64, shape (n_features,)
        The mean, which is subtracted.
    scale : float
        A power of two, with which values are multiplied.
    directions : Tensor of float64, shape (n_features, n)
        Orthonormal, those of the largest variance first.
    dtype : torch.dtype
        The type in which products are taken.
    """

    mean: Tensor
    scale: float
    directions: Tensor
    dtype: torch.dtype

    @classmethod
    def fit(cls, features: Tensor, dtype: torch.dtype) -> PcaProjection | None:
        """Return a projection for features like these, shape (n, n_features).

        None if all are the same.

        Bounds hold whatever these features are; they decide how many pairs are left out.
        """
        mean = features.mean(dim=0)
        centred = features - mean
        largest = float(centred.abs().max())
        if largest == 0:
            return None
        scale = 2.0 ** -math.floor(math.log2(largest))
        centred *= scale
        values, vectors = torch.linalg.eigh((centred.T @ centred) / len(centred))
        rest = 1 - values.flip(0).clamp(min=0).cumsum(0) / values.clamp(min=0).sum()
        kind = features.device.type
        n_leading = min(int((rest > REST[kind]).sum()) + 1, MOST_LEADING[kind])
        others = 3 + 2 * PARTS[dtype]
        width = -(-(n_leading + others) // MULTIPLE) * MULTIPLE
        if width - others > features.shape[1] >= MULTIPLE:
            width -= MULTIPLE
        n_leading = min(width - others, features.shape[1])
        return cls(mean, scale, vectors.flip(1)[:, :n_leading].contiguous(), dtype)

    @property
    def width(self) -> int:
        """Length of the vectors of the product."""
        return self.directions.shape[1] + 3 + 2 * PARTS[self.dtype]

    def project(self, features: Tensor) -> Projected:
        """Return leading coordinates and norms of features, shape (n, n_features), of float64."""
        centred = (features - self.mean) * self.scale
        leading = centred @ self.directions
        sq_norms = centred.square().sum(dim=1)
        rest = (sq_norms - leading.square().sum(dim=1)).clamp(min=0).sqrt()
        return Projected(leading, rest, sq_norms)

    def gallery_rows(self, projected: Projected, order: Tensor) -> Tensor:
        """Return the rows of the product for gallery cells.

        Parameters
        ----------
        projected : Projected
            Of the cells of one image.
        order : Tensor of int64, shape (n_rows,)
            Which cell each row is of; -1: of none.

        Returns
        -------
        Tensor of `dtype`, shape (n_rows, width)
        """
        parts = PARTS[self.dtype]
        exact = torch.cat([projected.leading, projected.rest[:, None]], dim=1)
        rounded = exact.to(self.dtype)
        norms = self._up(rounded.double().norm(dim=1))
        errors = self._up((exact - rounded.double()).norm(dim=1))
        rows = torch.cat([rounded, norms[:, None], errors[:, None]], dim=1)
        rows = rows[order] * (order >= 0)[:, None]
        sq_norms = torch.where(order < 0, PADDING, projected.sq_norms[order])
        ones = rows.new_ones(len(rows), parts)
        return torch.cat([rows, self._parts(sq_norms), ones], dim=1).contiguous()

    def query_rows(self, projected: Projected) -> Tensor:
        """Return the rows of the product for query cells, shape (n, width), of `dtype`."""
        parts = PARTS[self.dtype]
        exact = -2 * torch.cat([projected.leading, projected.rest[:, None]], dim=1)
        rounded = exact.to(self.dtype)
        norms = exact.norm(dim=1)
        errors = (exact - rounded.double()).norm(dim=1) + self._of_sums * norms
        ones = rounded.new_ones(len(rounded), parts)
        columns = [rounded, -self._up(errors)[:, None], -self._up(norms)[:, None], ones]
        return torch.cat([*columns, self._parts(projected.sq_norms)], dim=1).contiguous()

    def _parts(self, sq_norms: Tensor) -> Tensor:
        """Return squared norms as sums of values of the type, shape (n, n_parts), or less."""
        left = sq_norms * (1 - self._of_sums)
        parts = []
        for _ in range(PARTS[self.dtype]):
            parts.append(left.to(self.dtype))
            left = left - parts[-1].double()
        return torch.stack(parts, dim=1)

    @property
    def _of_sums(self) -> float:
        """The relative error of sums of as many products as there are coordinates, at most."""
        return (self.width + 8) * 2.0**-22

    def _up(self, values: Tensor) -> Tensor:
        """Return values in the type of products, not lower than they are."""
        return round_up(values * (1 + 1e-12), self.dtype)

    def limits(self, projected: Projected, sq_distances: Tensor) -> Tensor:
        """Return the limits that products do not exceed for pairs within some squared distances.

        Parameters
        ----------
        projected : Projected
            Of the query cells.
        sq_distances : Tensor of float64, shape (n,)
            Squared distances of features, not scaled.

        Returns
        -------
        Tensor of float64, shape (n,)
        """
        sq_distances = sq_distances * self.scale**2
        return sq_distances + 1e-8 * (sq_distances + projected.sq_norms) + TINY


@dataclass(frozen=True)
class Projected:
    """Leading coordinates of some features, and what these leave out.

    Parameters
    ----------
    leading : Tensor of float64, shape (n, n_leading)
        The coordinates.
    rest : Tensor of float64, shape (n,)
        The norm of the others.
    sq_norms : Tensor of float64, shape (n,)
        The squared norm of all.
    """

    leading: Tensor
    rest: Tensor
    sq_norms: Tensor

    @property
    def fits(self) -> bool:
        """Whether products of these neither overflow nor are taken for `PADDING`."""
        return bool((self.sq_norms <= MOST).all())


def round_up(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the smallest values of a type that are not below these."""
    rounded = values.to(dtype)
    above = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(rounded.double() < values, above, rounded)
