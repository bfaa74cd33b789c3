"""Candidates, rescored on the device: exact distances, and the order of the contract."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from knnspect.backends.torch.upsampling import Grid

__all__ = ["in_order", "nearest_per_query", "rescore", "sq_l2"]

#: Values that are blended at a time.
VALUES_AT_ONCE = 2**25


def rescore(
    features: Tensor,
    grid: Grid,
    gallery: Sequence[Tensor],
    candidates: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """Return the squared distances of candidates.

    Parameters
    ----------
    features : Tensor of float64, shape (n_cells, n_features)
        Of the query cells.
    grid : Grid
        Of the gallery.
    gallery : sequence of Tensor, each (n_images, height, width, channels)
        The levels of the images searched.
    candidates : (Tensor, Tensor, Tensor) of int64, each of shape (n,)
        Query cell, gallery image and gallery cell of each.

    Returns
    -------
    Tensor of float64, shape (n,)
        As float64 gives them, all summed in the same order.
    """
    at_once = max(1, VALUES_AT_ONCE // grid.n_features)
    parts = []
    for cells, images, places in zip(
        *(torch.split(part, at_once) for part in candidates), strict=True
    ):
        parts.append(sq_l2(features[cells], grid.features_at(gallery, images, places)))
    nothing = torch.zeros(0, dtype=torch.float64, device=candidates[0].device)
    return torch.cat([nothing, *parts])


def sq_l2(x: Tensor, y: Tensor) -> Tensor:
    """Return squared distances of rows, summed by halves: an order that no kernel can change."""
    sums = (x - y).square_()
    while sums.shape[1] > 1:
        half = (sums.shape[1] + 1) // 2
        folded = sums[:, :half].clone()
        folded[:, : sums.shape[1] - half] += sums[:, half:]
        sums = folded
    return sums[:, 0]


def nearest_per_query(
    n_queries: int, k: int, cells: Tensor, sq_distances: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the k nearest candidates of each query cell.

    Parameters
    ----------
    n_queries, k : int
        How many of each.
    cells : Tensor of int64, shape (n,)
        The query cell of each candidate.
    sq_distances : Tensor of float, shape (n,)
        Their distances.

    Returns
    -------
    sq_distances : Tensor of float, shape (n_queries, k)
        Smallest first; infinite where there are fewer.
    candidates : Tensor of int64, shape (n_queries, k)
        Which candidates these are; of equally near ones those that come first.
    """
    order, ranks = in_order(n_queries, cells, sq_distances)
    order, ranks = order[ranks < k], ranks[ranks < k]
    at = cells[order] * k + ranks
    nearest = torch.zeros(n_queries * k, dtype=torch.int64, device=cells.device)
    nearest[at] = order
    found = torch.full_like(nearest, torch.inf, dtype=sq_distances.dtype)
    found[at] = sq_distances[order]
    return found.view(n_queries, k), nearest.view(n_queries, k)


def in_order(n_queries: int, cells: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return candidates by query cell, then by value, then as they come; and the rank of each.

    >>> in_order(2, torch.tensor([1, 0, 1]), torch.tensor([5.0, 1.0, 3.0]))
    (tensor([1, 2, 0]), tensor([0, 0, 1]))
    """
    order = torch.sort(values, stable=True).indices
    cells, by_cell = torch.sort(cells[order], stable=True)
    counts = torch.bincount(cells, minlength=n_queries)
    starts = counts.cumsum(0) - counts
    return order[by_cell], torch.arange(len(order), device=cells.device) - starts[cells]
