"""The search for one query image on a GPU, where launches cost more than products.

As `knnspect.backends.torch.image_search` does it, with few and large steps: all products with a
group of images, the best row of each block of rows, exact distances of the k best, and of all rows
that these leave.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from knnspect.backends.torch.bounds import PADDING, PcaProjection, Projected, round_up
from knnspect.backends.torch.cache import BLOCK, CachedImage, GalleryCache
from knnspect.backends.torch.filter import MOST
from knnspect.backends.torch.precision import AS_PRECISE_AS_THE_TYPE

__all__ = ["Query", "has_kernels", "search_group"]


@cache
def has_kernels(device: torch.device) -> bool:
    """Return whether kernels can be compiled for a device and run there.

    PyTorch for CUDA brings Triton on Linux, which also needs a C compiler. Where one of them is
    missing, a warning says so, once: searches then go on without kernels, and take far longer.
    """
    try:
        from knnspect.backends.torch.kernels import nearest

        one = torch.zeros(1, dtype=torch.int64, device=device)
        nearest(1, 1, one, one.double(), one)
    except Exception as error:  # what a missing compiler raises may be anything
        reason = str(error).strip().splitlines() or [type(error).__name__]
        warnings.warn(
            f"backend 'torch': kernels cannot be compiled for {device} ({reason[0]}): searches go "
            "on without them, and take far longer",
            stacklevel=2,
        )
        return False
    return True


class Query(NamedTuple):
    """A query image, ready to be searched.

    Parameters
    ----------
    features : Tensor of float64, shape (n_cells, n_features)
        Its features.
    projected : Projected
        Of these.
    rows : Tensor, shape (n_cells, width)
        Those of the product.
    """

    features: Tensor
    projected: Projected
    rows: Tensor


def search_group(
    query: Query,
    projection: PcaProjection,
    cache: GalleryCache,
    images: Sequence[CachedImage],
    k: int,
    farthest: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, int] | None:
    """Find the neighbours of a query image in some images.

    Parameters
    ----------
    query : Query
        The query image.
    projection : PcaProjection
        In which rows are compared.
    cache : GalleryCache
        Where the images are from.
    images : sequence of CachedImage
        With rows and levels.
    k : int
        How many neighbours.
    farthest : Tensor of float64, shape (n_cells,), optional
        Squared distances; what is farther away is no neighbour.

    Returns
    -------
    sq_distances : Tensor of float64, shape (n_cells, k)
        Smallest first; infinite where there are fewer.
    images, cells : Tensor of int64, shape (n_cells, k)
        Numbers of the images, and cells in them.
    n_rescored : int
        Pairs that were compared in float64.

    None where bounds leave too many pairs.
    """
    group = _Group(query, cache, images, k)
    found = group.search(projection, farthest)
    if found is None:
        return None
    sq_distances, keys = found
    return sq_distances, keys // cache.grid.n_cells, keys % cache.grid.n_cells, group.n_rescored


class _Group:
    """The products of a query image with all rows of some images, and what they leave."""

    def __init__(
        self, query: Query, cache: GalleryCache, images: Sequence[CachedImage], k: int
    ) -> None:
        self._query, self._cache, self._k = query, cache, k
        levels = zip(*(image.levels or () for image in images), strict=True)
        self._levels = [torch.stack(level) for level in levels]
        rows = torch.cat([image.rows for image in images if image.rows is not None])
        with AS_PRECISE_AS_THE_TYPE:
            products = rows @ query.rows.T
        # Queries last, where their neighbours in memory are read together.
        self._blocks = products.view(-1, BLOCK, len(query.rows))
        self.n_rescored = 0

    def search(
        self, projection: PcaProjection, farthest: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """Return squared distances and keys of the neighbours; None where there are too many."""
        from knnspect.backends.torch.kernels import nearest

        n_blocks, _, n_queries = self._blocks.shape
        least = self._blocks.amin(dim=1).T.contiguous()
        if n_blocks >= self._k:
            # The best rows of the k best blocks; k cells are no farther than these.
            limits = self._farthest_of(least.topk(self._k, dim=1, largest=False).indices)
            farthest = limits if farthest is None else torch.minimum(farthest, limits)
        if farthest is None:
            limit = least.new_full((n_queries, 1), PADDING / 2)
        else:
            limits = projection.limits(self._query.projected, farthest).clamp(max=PADDING / 2)
            limit = round_up(limits, least.dtype)[:, None]
        cells, blocks = (least <= limit).nonzero(as_tuple=True)
        values = self._blocks[blocks, :, cells]
        is_near = values <= limit[cells]
        most = MOST * n_queries
        if len(blocks) * BLOCK > most and int(is_near.sum()) > most:
            return None
        hits, row = is_near.nonzero(as_tuple=True)
        cells = cells[hits]
        sq_distances, keys = self._rescore(cells, blocks[hits] * BLOCK + row)
        return nearest(n_queries, self._k, cells, sq_distances, keys)

    def _farthest_of(self, blocks: Tensor) -> Tensor:
        """Return the largest squared distance of the best rows of some blocks, by query cell."""
        n_queries, n = blocks.shape
        cells = torch.arange(n_queries, device=blocks.device).repeat_interleave(n)
        blocks = blocks.flatten()
        rows = blocks * BLOCK + self._blocks[blocks, :, cells].argmin(dim=1)
        sq_distances, _ = self._rescore(cells, rows)
        return sq_distances.view(n_queries, n).amax(dim=1)

    def _rescore(self, cells: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return exact squared distances of pairs, and where their rows are: image, then cell."""
        from knnspect.backends.torch.kernels import sq_distances

        self.n_rescored += len(cells)
        order, grid = self._cache.order, self._cache.grid
        images, places = rows // len(order), order[rows % len(order)]
        candidates = (cells, images, places)
        found = sq_distances(self._query.features, grid, self._levels, candidates)
        return found, images * grid.n_cells + places
