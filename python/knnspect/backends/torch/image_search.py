"""The search for one query image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from knnspect.backends.torch.bounds import PcaProjection, Projected
from knnspect.backends.torch.cache import CachedImage, GalleryCache
from knnspect.backends.torch.filter import Pairs, candidates, products_at_once, seeds
from knnspect.backends.torch.gpu_search import Query, search_group
from knnspect.backends.torch.rescore import nearest_per_query, rescore
from knnspect.backends.torch.upsampling import Grid
from knnspect.search import Search

__all__ = ["Found", "ImageSearch", "tensors_of"]

#: Squared distances, image ranks and cells of neighbours, each of shape (n_cells, k).
Found = tuple[Tensor, Tensor, Tensor]


class ImageSearch:
    """Finds the neighbours for one query image.

    Parameters
    ----------
    search : Search
        The search.
    cache : GalleryCache
        The images of the gallery on the device.
    grid : Grid
        Of the query.
    query : sequence of Tensor, each (height, width, channels)
        Its levels.
    image : int
        Its number.
    on_gpu : bool
        Whether kernels do what they can.

    Attributes
    ----------
    n_rescored : int
        Pairs that were compared in float64.
    """

    def __init__(
        self,
        search: Search,
        cache: GalleryCache,
        grid: Grid,
        query: Sequence[Tensor],
        image: int,
        on_gpu: bool,
    ) -> None:
        self.n_rescored = 0
        self.on_gpu = on_gpu
        self.search, self.cache, self.grid = search, cache, grid
        self.query, self.image, self.k = query, image, search.k

    def run(self) -> Found | None:
        """Return the neighbours; None where bounds do not decide, and the core is to find them.

        Where the images do not fit the device together, they are searched group by group.
        """
        ranks, serials = self.search.ranks(self.image), self.search.serials(self.image)
        projection = self.cache.fit(self.search, self.image)
        if projection is None:
            return None
        self.features = self.grid.features([level[None] for level in self.query])[0]
        projected = projection.project(self.features)
        if not projected.fits:
            return None
        queries = projection.query_rows(projected)
        best: Found | None = None
        at_once = self.cache.images_at_once
        if self.on_gpu:  # where all products with a group are taken together
            n_products = len(self.cache.order) * len(queries)
            at_once = max(1, min(at_once, products_at_once(queries.device) // n_products))
        for start in range(0, len(ranks), at_once):
            group = slice(start, start + at_once)
            images = self.cache.images(
                self.search, self.image, ranks[group].tolist(), serials[group].tolist()
            )
            search_group = self._search_group_on_gpu if self.on_gpu else self._search_group
            found = search_group(projection, projected, queries, images, ranks[group], best)
            if found is None:
                return None
            best = found if best is None else _nearest_of_both(best, found, self.k)
        return best

    def _search_group_on_gpu(
        self,
        projection: PcaProjection,
        projected: Projected,
        queries: Tensor,
        images: Sequence[CachedImage],
        ranks: NDArray[np.uint32],
        best: Found | None,
    ) -> Found | None:
        """As `_search_group` does."""
        if any(image.rows is None or image.levels is None for image in images):
            return None
        query = Query(self.features, projected, queries)
        farthest = None if best is None else best[0][:, -1]
        found = search_group(query, projection, self.cache, images, self.k, farthest)
        if found is None:
            return None
        sq_distances, numbers, cells, n_rescored = found
        self.n_rescored += n_rescored
        on_device = torch.from_numpy(ranks.astype(np.int64)).to(numbers.device)
        return sq_distances, on_device[numbers], cells

    def _search_group(
        self,
        projection: PcaProjection,
        projected: Projected,
        queries: Tensor,
        images: Sequence[CachedImage],
        ranks: NDArray[np.uint32],
        best: Found | None,
    ) -> Found | None:
        """Return the neighbours in some images, or those of them that can be nearer than `best`."""
        rows = [image.rows for image in images if image.rows is not None]
        if len(rows) < len(images):
            return None
        k, n_cells = self.k, self.grid.n_cells
        rescorer = _Rescorer(self, images, ranks)
        limits = torch.full((n_cells,), torch.inf, dtype=torch.float64, device=queries.device)
        if best is not None:
            limits = projection.limits(projected, best[0][:, -1])
        elif (start := seeds(rows, self.cache.order, queries, k)) is not None:
            every = torch.arange(n_cells, device=queries.device).repeat_interleave(k)
            sq_distances, _, _ = rescorer.rescore(every, start[0].flatten(), start[1].flatten())
            limits = projection.limits(projected, sq_distances[:, -1])

        def tighten(found: Pairs) -> Tensor:
            # The pairs that promise most set limits that leave few of the others.
            first = found.smallest(k, n_cells)
            sq_distances, _, _ = rescorer.rescore(first.queries, first.images, first.rows)
            return projection.limits(projected, sq_distances[:, -1])

        near = candidates(rows, queries, limits, tighten)
        return None if near is None else rescorer.rescore(near.queries, near.images, near.rows)


class _Rescorer:
    """Settles candidates in some images: on the device where their features are there."""

    def __init__(
        self, of: ImageSearch, images: Sequence[CachedImage], ranks: NDArray[np.uint32]
    ) -> None:
        self._of = of
        self._ranks = torch.from_numpy(ranks.astype(np.int64)).to(of.query[0].device)
        levels = [image.levels for image in images]
        self._levels: list[Tensor] | None = None
        if None not in levels:
            self._levels = [torch.stack(level) for level in zip(*levels, strict=True)]

    def rescore(self, cells: Tensor, images: Tensor, rows: Tensor) -> Found:
        """Return the nearest of some pairs of query cells and rows; infinitely far ones fill up.

        Parameters
        ----------
        cells, images, rows : Tensor of int64, shape (n,)
            Query cell, number of the image, and its row, of each pair.
        """
        of, n_places = self._of, len(self._ranks) * self._of.cache.grid.n_cells
        of.n_rescored += len(cells)
        # In the order of query cells, then of places; the images are in the order of their ranks.
        places = images * of.cache.grid.n_cells + of.cache.order[rows]
        key = (cells * n_places + places).sort().values
        cells, places = key // n_places, key % n_places
        images, places = (
            places // of.cache.grid.n_cells,
            places % of.cache.grid.n_cells,
        )
        if self._levels is None:
            return self._by_core(cells, images, places)
        pairs = (cells, images, places)
        sq_distances = rescore(of.features, of.cache.grid, self._levels, pairs)
        sq_distances, nearest = nearest_per_query(of.grid.n_cells, of.k, cells, sq_distances)
        if not len(cells):
            nothing = torch.zeros_like(nearest)
            return sq_distances, nothing, nothing
        return sq_distances, self._ranks[images][nearest], places[nearest]

    def _by_core(self, cells: Tensor, images: Tensor, places: Tensor) -> Found:
        of = self._of
        counts = torch.bincount(cells, minlength=of.grid.n_cells).cumsum(0).numpy()
        found = of.search.rescore(
            of.image,
            np.arange(of.grid.n_cells, dtype=np.uint32),
            np.concatenate([[0], counts]).astype(np.uint64),
            self._ranks[images].numpy().astype(np.uint32),
            places.numpy().astype(np.uint32),
        )
        return tensors_of(found, torch.device("cpu"))


def tensors_of(
    found: tuple[NDArray[Any], NDArray[np.uint32], NDArray[np.uint32]], device: torch.device
) -> Found:
    """Return what the core has found as a device would."""
    sq_distances, ranks, cells = found
    return (
        torch.from_numpy(sq_distances.astype(np.float64)).to(device),
        torch.from_numpy(ranks.astype(np.int64)).to(device),
        torch.from_numpy(cells.astype(np.int64)).to(device),
    )


def _nearest_of_both(first: Found, second: Found, k: int) -> Found:
    """Return the k nearest of two; of equally near ones the first, whose ranks are lower."""
    sq_distances, order = torch.cat([first[0], second[0]], dim=1).sort(dim=1, stable=True)
    ranks, cells = (torch.cat(part, dim=1) for part in zip(first[1:], second[1:], strict=True))
    order = order[:, :k]
    return sq_distances[:, :k], ranks.gather(1, order), cells.gather(1, order)
