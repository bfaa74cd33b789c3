"""Kernels for a GPU: squared distances of candidates, and the nearest of each query cell.

PyTorch alone passes some 25 times over the features of all candidates; a kernel reads them once.
Values are those of `Grid.features_at` to the bit: the same blends, in float64, and no product fused
with a sum. What they add up to has an order of its own, the same for all candidates, so that equal
features are equally far.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from knnspect.backends.torch.upsampling import Grid

__all__ = ["nearest", "sq_distances"]

#: Channels that one program looks at together.
CHANNELS = 128
#: Candidates of a query cell that one program looks at together.
CANDIDATES = 64


def sq_distances(
    features: Tensor,
    grid: Grid,
    gallery: Sequence[Tensor],
    candidates: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """Return the squared distances of candidates; see `knnspect.backends.torch.rescore.rescore`."""
    cells, images, places = candidates
    found = torch.zeros(len(cells), dtype=torch.float64, device=features.device)
    first = 0
    for level, (down, across) in zip(gallery, grid.taps, strict=True):
        _, height, width, channels = level.shape
        if len(cells):
            _add_level[(len(cells),)](
                found,
                features,
                level.contiguous(),
                cells,
                images,
                places,
                *(down.first, down.second, down.weight),
                *(across.first, across.second, across.weight),
                first=first,
                n_features=grid.n_features,
                grid_width=grid.width,
                height=height,
                width=width,
                channels=channels,
                IS_FINEST=(height, width) == (grid.height, grid.width),
                CHANNELS=CHANNELS,
                num_warps=1,
                enable_fp_fusion=False,
            )
        first += channels
    return found


@triton.jit  # type: ignore[untyped-decorator]
def _add_level(  # type: ignore[no-untyped-def]
    found,
    features,
    level,
    cells,
    images,
    places,
    down_first,
    down_second,
    down_weight,
    across_first,
    across_second,
    across_weight,
    first,
    n_features,
    grid_width,
    height,
    width,
    channels,
    IS_FINEST: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
):
    """Add what one level makes of the squared distance of one candidate."""
    pair = tl.program_id(0)
    place = tl.load(places + pair)
    row, column = place // grid_width, place % grid_width
    query = features + tl.load(cells + pair) * n_features + first
    image = level + tl.load(images + pair) * height * width * channels
    top, left = tl.load(down_first + row), tl.load(across_first + column)
    bottom, right = tl.load(down_second + row), tl.load(across_second + column)
    y, x = tl.load(down_weight + row), tl.load(across_weight + column)
    sums = tl.zeros([CHANNELS], tl.float64)
    for start in range(0, channels, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        inside = channel < channels
        corner = image + channel
        value = tl.load(corner + (top * width + left) * channels, inside, 0).to(tl.float64)
        if not IS_FINEST:
            other = tl.load(corner + (top * width + right) * channels, inside, 0).to(tl.float64)
            value = value + x * (other - value)
            below = tl.load(corner + (bottom * width + left) * channels, inside, 0).to(tl.float64)
            other = tl.load(corner + (bottom * width + right) * channels, inside, 0).to(tl.float64)
            below = below + x * (other - below)
            value = value + y * (below - value)
        difference = tl.load(query + channel, inside, 0) - value
        sums += difference * difference
    tl.store(found + pair, tl.load(found + pair) + tl.sum(sums))


def nearest(
    n_queries: int, k: int, cells: Tensor, sq_distances: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the k nearest candidates of each query cell.

    Parameters
    ----------
    n_queries, k : int
        How many of each.
    cells : Tensor of int64, shape (n,)
        The query cell of each candidate, in ascending order.
    sq_distances : Tensor of float64, shape (n,)
        Their distances.
    keys : Tensor of int64, shape (n,)
        Of equally near ones those with the smallest count; of one query cell all differ.

    Returns
    -------
    sq_distances : Tensor of float64, shape (n_queries, k)
        Smallest first; infinite where there are fewer.
    keys : Tensor of int64, shape (n_queries, k)
        Of these candidates; 0 where there are fewer.
    """
    device = cells.device
    ends = torch.searchsorted(cells, torch.arange(n_queries + 1, device=device))
    found = torch.empty(n_queries, k, dtype=torch.float64, device=device)
    found_keys = torch.empty(n_queries, k, dtype=torch.int64, device=device)
    _nearest_of_query[(n_queries,)](
        found,
        found_keys,
        sq_distances,
        keys,
        ends,
        k=k,
        CANDIDATES=CANDIDATES,
        num_warps=1,
    )
    return found, found_keys


@triton.jit  # type: ignore[untyped-decorator]
def _nearest_of_query(  # type: ignore[no-untyped-def]
    found,
    found_keys,
    sq_distances,
    keys,
    ends,
    k,
    CANDIDATES: tl.constexpr,  # noqa: N803
):
    """Find the nearest candidates of one query cell, each the first behind the one before."""
    query = tl.program_id(0)
    start, end = tl.load(ends + query), tl.load(ends + query + 1)
    last = tl.full([], -float("inf"), tl.float64)
    last_key = tl.full([], -1, tl.int64)
    for rank in range(k):
        best = tl.full([], float("inf"), tl.float64)
        best_key = tl.full([], 2**62, tl.int64)
        for first in range(start, end, CANDIDATES):
            at = first + tl.arange(0, CANDIDATES)
            value = tl.load(sq_distances + at, at < end, float("inf"))
            key = tl.load(keys + at, at < end, 2**62)
            is_behind = (value > last) | ((value == last) & (key > last_key))
            value = tl.where(is_behind, value, float("inf"))
            least = tl.min(value)
            least_key = tl.min(tl.where(is_behind & (value == least), key, 2**62))
            is_better = (least < best) | ((least == best) & (least_key < best_key))
            best_key = tl.where(is_better, least_key, best_key)
            best = tl.where(is_better, least, best)
        tl.store(found + query * k + rank, best)
        tl.store(found_keys + query * k + rank, tl.where(best_key == 2**62, 0, best_key))
        last, last_key = best, best_key
