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

On a GPU ``a'`` and ``b'`` are sums of two values of the type each, the high and the low part: three
products, of high with high, low with high and high with low, which cost a GPU little, and leave a
twentieth of the candidates. What is missing, <a_low, b_low> >= -|a_low| |b_low|, has a coordinate
of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PcaProjection", "Projected", "round_up"]

#: The share of the variance that leading coordinates may leave to the rest.
REST = 0.06
#: The same where vectors are split in two parts, and how many coordinates there are then at most.
REST_OF_SPLIT, MOST_OF_SPLIT = 0.003, 156
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
    is_split : bool
        Whether vectors are sums of two values of the type.
    """

    mean: Tensor
    scale: float
    directions: Tensor
    dtype: torch.dtype
    is_split: bool = False

    @classmethod
    def fit(
        cls, features: Tensor, dtype: torch.dtype, is_split: bool = False
    ) -> PcaProjection | None:
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
        n_leading = int((rest > (REST_OF_SPLIT if is_split else REST)).sum()) + 1
        if is_split:
            n_leading = min(n_leading, MOST_OF_SPLIT)
        # As many as fit the width that so many need.
        n_copies, n_others = _layout(dtype, is_split)
        width = -(-(n_copies * (n_leading + 1) + n_others) // MULTIPLE) * MULTIPLE
        n_leading = min((width - n_others) // n_copies - 1, features.shape[1])
        directions = vectors.flip(1)[:, :n_leading].contiguous()
        return cls(mean, scale, directions, dtype, is_split)

    @property
    def width(self) -> int:
        """Length of the vectors of the product; a few of their values may fill up with zeros."""
        n_copies, n_others = _layout(self.dtype, self.is_split)
        n_values = n_copies * (self.directions.shape[1] + 1) + n_others
        return -(-n_values // MULTIPLE) * MULTIPLE

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
        exact = torch.cat([projected.leading, projected.rest[:, None]], dim=1)
        high, low, rounded = self._rounded(exact)
        columns = [high]
        norms = [rounded.norm(dim=1), (exact - rounded).norm(dim=1)]
        if low is not None:
            columns += [low, high]
            norms.append(low.double().norm(dim=1))
        rows = torch.cat([*columns, self._up(torch.stack(norms, dim=1))], dim=1)
        rows = rows[order] * (order >= 0)[:, None]
        sq_norms = torch.where(order < 0, PADDING, projected.sq_norms[order])
        ones = rows.new_ones(len(rows), PARTS[self.dtype])
        return self._filled([rows, self._parts(sq_norms), ones])

    def query_rows(self, projected: Projected) -> Tensor:
        """Return the rows of the product for query cells, shape (n, width), of `dtype`."""
        exact = -2 * torch.cat([projected.leading, projected.rest[:, None]], dim=1)
        high, low, rounded = self._rounded(exact)
        columns = [high]
        norms = exact.norm(dim=1)
        errors = [(exact - rounded).norm(dim=1) + self._of_sums * norms, norms]
        if low is not None:
            columns += [high, low]
            errors.append(low.double().norm(dim=1))
        ones = high.new_ones(len(high), PARTS[self.dtype])
        columns += [-self._up(torch.stack(errors, dim=1)), ones]
        return self._filled([*columns, self._parts(projected.sq_norms)])

    def _rounded(self, values: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the high and the low parts of values, and what these add up to, in float64."""
        high = values.to(self.dtype)
        if not self.is_split:
            return high, None, high.double()
        low = (values - high.double()).to(self.dtype)
        return high, low, high.double() + low.double()

    def _filled(self, columns: list[Tensor]) -> Tensor:
        """Return columns side by side, filled up with zeros."""
        n_missing = self.width - sum(column.shape[1] for column in columns)
        zeros = columns[0].new_zeros(len(columns[0]), n_missing)
        return torch.cat([*columns, zeros], dim=1)

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


def _layout(dtype: torch.dtype, is_split: bool) -> tuple[int, int]:
    """Return how often each coordinate stands in a vector, and how many values stand beside."""
    n_norms = 3 if is_split else 2
    return (3 if is_split else 1), n_norms + 2 * PARTS[dtype]


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
