"""Gallery images on a device, kept between searches."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from knnspect.backends.torch.bounds import PcaProjection
from knnspect.backends.torch.upsampling import Grid
from knnspect.search import Search

__all__ = ["BLOCK", "CachedImage", "GalleryCache", "block_order"]

#: Cells that are looked at together: a square of the finest level, mostly.
SIDE = 4
BLOCK = SIDE * SIDE
#: Images that are made ready together.
AT_ONCE = 4
#: Images that are searched together take no more bytes than these.
TOGETHER = 2**30
#: A projection is fitted to about this many cells.
SAMPLE = 20_000


@dataclass(frozen=True)
class CachedImage:
    """One gallery image on the device.

    Parameters
    ----------
    rows : Tensor, shape (n_rows, width), or None
        The rows of the product; None where they do not fit their type.
    levels : tuple of Tensor of float32, each (height, width, channels), or None
        The features, where candidates are rescored on the device.
    """

    rows: Tensor | None
    levels: tuple[Tensor, ...] | None

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        tensors = [*(self.levels or ()), *(() if self.rows is None else (self.rows,))]
        return sum(tensor.nbytes for tensor in tensors)


class GalleryCache:
    """The images of one gallery that were searched lately.

    Parameters
    ----------
    grid : Grid
        Of the gallery.
    dtype : torch.dtype
        The type of products.
    device : torch.device
        Where they are.
    with_levels : bool
        Whether the features are kept, too.
    limit : int
        Bytes that they may take; the images that were not used for longest are dropped.
    is_split : bool
        Whether the vectors of the product are split; see `PcaProjection`.
    """

    def __init__(
        self,
        grid: Grid,
        dtype: torch.dtype,
        device: torch.device,
        with_levels: bool,
        limit: int,
        is_split: bool = False,
    ) -> None:
        self.grid = grid
        self.order = block_order(grid.height, grid.width, device)
        self._projection: PcaProjection | None = None
        self._is_fitted = False
        self._dtype, self._is_split, self._device = dtype, is_split, device
        self._with_levels, self._limit = with_levels, limit
        self._images: OrderedDict[int, CachedImage] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._images)

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return self._nbytes

    def images(
        self, search: Search, image: int, ranks: Sequence[int], serials: Sequence[int]
    ) -> list[CachedImage]:
        """Return images, those that are missing made ready.

        Parameters
        ----------
        search : Search
            The search that is about them.
        image : int
            The query image.
        ranks, serials : sequence of int
            Which images; see `knnspect.search.Search`.

        Returns
        -------
        list of CachedImage
            One for each.
        """
        with self._lock:
            known = {serial: self._images[serial] for serial in serials if serial in self._images}
            for serial in known:
                self._images.move_to_end(serial)
            missing = [pair for pair in zip(ranks, serials, strict=True) if pair[1] not in known]
            for start in range(0, len(missing), AT_ONCE):
                some = missing[start : start + AT_ONCE]
                made = self._make(search, image, [rank for rank, _ in some])
                for (_, serial), cached in zip(some, made, strict=True):
                    known[serial] = self._images[serial] = cached
                    self._nbytes += cached.nbytes
            if missing and self._device.type == "cuda":
                # Other streams may read them from now on.
                torch.cuda.current_stream(self._device).synchronize()
            while self._nbytes > self._limit and self._images:
                self._drop()
        return [known[serial] for serial in serials]

    def fit(self, search: Search, image: int) -> PcaProjection | None:
        """Return the projection in which images are compared, made by the first search."""
        with self._lock:
            if not self._is_fitted:
                self._projection = self._fit(search, image, search.ranks(image).tolist())
                self._is_fitted = True
            return self._projection

    @property
    def images_at_once(self) -> int:
        """How many images may be searched together."""
        width = 0 if self._projection is None else self._projection.width
        nbytes = len(self.order) * width * self._dtype.itemsize
        if self._with_levels:
            nbytes += sum(4 * height * width * c for height, width, c in self.grid.shapes)
        return max(1, min(self._limit, TOGETHER) // max(nbytes, 1))

    def forget(self, n_images: int) -> None:
        """Drop what was not used for longest, until no more images are left than there are."""
        with self._lock:
            while len(self._images) > n_images:
                self._drop()

    def _drop(self) -> None:
        _, image = self._images.popitem(last=False)
        self._nbytes -= image.nbytes

    def _levels(self, search: Search, image: int, ranks: list[int]) -> list[Tensor]:
        levels = search.levels(image, ranks)
        return [torch.from_numpy(level).to(self._device) for level in levels]

    def _fit(self, search: Search, image: int, ranks: list[int]) -> PcaProjection | None:
        some = ranks[:: max(1, len(ranks) // 16)]
        step = max(1, len(some) * self.grid.n_cells // SAMPLE)
        parts = []
        for start in range(0, len(some), AT_ONCE):
            levels = self._levels(search, image, some[start : start + AT_ONCE])
            features = self.grid.features(levels).flatten(0, 1)
            parts.append(features[start % step :: step])
        return PcaProjection.fit(torch.cat(parts), self._dtype, self._is_split)

    def _make(self, search: Search, image: int, ranks: list[int]) -> list[CachedImage]:
        levels = self._levels(search, image, ranks)
        made = []
        for at, features in enumerate(self.grid.features(levels)):
            rows = None
            if self._projection is not None:
                projected = self._projection.project(features)
                rows = (
                    self._projection.gallery_rows(projected, self.order) if projected.fits else None
                )
            kept = tuple(level[at].clone() for level in levels) if self._with_levels else None
            made.append(CachedImage(rows, kept))
        return made


def block_order(height: int, width: int, device: torch.device) -> Tensor:
    """Return the cell of each row: squares of cells one after the other, filled up with -1.

    >>> block_order(2, 3, torch.device("cpu")).tolist()[:8]
    [0, 1, 2, 3, 4, 5, -1, -1]
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    squares = (rows // SIDE) * (-(-width // SIDE)) + columns // SIDE
    order = torch.sort(squares.flatten(), stable=True).indices
    filled = torch.full((-(-len(order) // BLOCK) * BLOCK,), -1)
    filled[: len(order)] = order
    return filled.to(device)
