"""Leading coordinates: a matrix product that bounds distances from below.

Features are centred, scaled and turned to their principal directions. With the leading coordinates
``x_l`` of a feature x, and the norm ``r_x`` of the rest,

    |u - v|^2 - |u|^2 >= |v|^2 - 2 (<u_l, v_l> + r_u r_v)

as ``<u_rest, v_rest> <= r_u r_v`` (Cauchy-Schwarz). The right side is the inner product of two
vectors that are a little longer than the leading coordinates. Rounding them, to bfloat16 too, can
change it by no more than a multiple of ``|u| |v|``, which is subtracted by one more coordinate. So
the product is never above the true value, whatever its precision: a pair whose product exceeds the
limit of its query is no neighbour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Frame", "Lead", "round_up"]

#: The share of the variance that leading coordinates may leave to the rest.
REST = 0.06
#: Widths are multiples of this, as matrix units like it.
MULTIPLE = 16
#: What rounding to each type changes a value by, relatively, and how many values of the type add up
#: to a float32.
ROUNDING = {torch.float32: (2.0**-24, 1), torch.bfloat16: (2.0**-8, 3)}
#: Features of which a squared norm exceeds this, in the frame, are not compared in it.
MOST = 1e20
#: What underflows.
TINY = 1e-30
#: The squared norm of what is not there.
NOWHERE = 1e30


@dataclass(frozen=True)
class Frame:
    """Where features are compared: less a mean, times a power of two, in some directions.

    Parameters
    ----------
    mean : Tensor of float64, shape (n_features,)
        What is subtracted.
    scale : float
        What values are multiplied by.
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
    def fit(cls, features: Tensor, dtype: torch.dtype) -> Frame | None:
        """Return a frame for features like these, shape (n, n_features); None where there is none.

        What is compared in it is right whatever these are; they decide how much is left out.
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
        n_leading = int((rest > REST).sum()) + 1
        others = 2 + ROUNDING[dtype][1]
        width = -(-(n_leading + others) // MULTIPLE) * MULTIPLE
        n_leading = min(width - others, features.shape[1])
        return cls(mean, scale, vectors.flip(1)[:, :n_leading].contiguous(), dtype)

    @property
    def width(self) -> int:
        """Length of the vectors of the product."""
        return self.directions.shape[1] + 2 + ROUNDING[self.dtype][1]

    def lead(self, features: Tensor) -> Lead:
        """Return leading coordinates and norms of features, shape (n, n_features), of float64."""
        centred = (features - self.mean) * self.scale
        leading = centred @ self.directions
        sq_norms = centred.square().sum(dim=1)
        rest = (sq_norms - leading.square().sum(dim=1)).clamp(min=0).sqrt()
        return Lead(leading, rest, sq_norms)

    def gallery_rows(self, lead: Lead, order: Tensor) -> Tensor:
        """Return the rows of the product for gallery cells.

        Parameters
        ----------
        lead : Lead
            Of the cells of one image.
        order : Tensor of int64, shape (n_rows,)
            Which cell each row is of; -1: of none.

        Returns
        -------
        Tensor of `dtype`, shape (n_rows, width)
        """
        _, parts = ROUNDING[self.dtype]
        # Less than it is by what sums of so many products may be wrong by.
        left = lead.sq_norms * (1 - (self.width + 8) * 2.0**-22)
        left = torch.where(order < 0, torch.full_like(left[:1], NOWHERE), left[order])
        columns = [lead.leading[order], lead.rest[order, None], lead.sq_norms[order, None].sqrt()]
        rows = torch.cat(columns, dim=1) * (order >= 0)[:, None]
        rows = rows.to(self.dtype)
        for _ in range(parts):
            part = left.to(self.dtype)
            rows = torch.cat([rows, part[:, None]], dim=1)
            left = left - part.double()
        return rows.contiguous()

    def query_rows(self, lead: Lead) -> Tensor:
        """Return the rows of the product for query cells, shape (n, width), of `dtype`."""
        rounding, parts = ROUNDING[self.dtype]
        # Of both factors, twice, and of sums of so many products; and what rounding this itself
        # takes away.
        slack = (2 * (2 * rounding + rounding**2) + (self.width + 8) * 2.0**-22) * (
            1 + 8 * rounding
        )
        norms = lead.sq_norms.sqrt()
        columns = [-2 * lead.leading, -2 * lead.rest[:, None], -slack * norms[:, None]]
        ones = torch.ones(len(norms), parts, dtype=torch.float64, device=norms.device)
        return torch.cat([*columns, ones], dim=1).to(self.dtype).contiguous()

    def limits(self, lead: Lead, sq_distances: Tensor) -> Tensor:
        """Return what the product must not exceed for pairs within some squared distances.

        Parameters
        ----------
        lead : Lead
            Of the query cells.
        sq_distances : Tensor of float64, shape (n,)
            Squared distances of features, not scaled.

        Returns
        -------
        Tensor of float64, shape (n,)
        """
        sq_distances = sq_distances * self.scale**2
        margin = 1e-8 * (sq_distances + lead.sq_norms) + TINY
        return sq_distances - lead.sq_norms + margin


@dataclass(frozen=True)
class Lead:
    """Leading coordinates of some features, in a frame.

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
        """Whether products of these neither overflow nor are taken for `NOWHERE`."""
        return bool((self.sq_norms <= MOST).all())


def round_up(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the smallest values of a type that are not below these."""
    rounded = values.to(dtype)
    above = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(rounded.double() < values, above, rounded)
