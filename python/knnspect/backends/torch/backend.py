"""The search of pyramids with PyTorch."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from knnspect import _core
from knnspect.backends.base import Capabilities
from knnspect.backends.torch.filtering import Pairs, candidates, seeds
from knnspect.backends.torch.resident import ResidentGallery, ResidentImage
from knnspect.backends.torch.settling import nearest_per_query, settle
from knnspect.backends.torch.upsampling import Grid
from knnspect.errors import (
    BackendUnavailable,
    DTypeError,
    ImageError,
    ParameterError,
    ShapeError,
)
from knnspect.memory import parse_bytes
from knnspect.neighbors import Neighbors, Work

if TYPE_CHECKING:
    from knnspect.backends.base import ImageSubset
    from knnspect.gallery import Gallery
    from knnspect.pyramid import FeaturePyramid

__all__ = ["TensorNeighbors", "TorchBackend"]


@dataclass(frozen=True, eq=False)
class TensorNeighbors:
    """`Neighbors` as tensors on a device.

    Parameters
    ----------
    sq_distances : Tensor of float32, shape (n_images, height, width, k)
        Squared L2 distances between upsampled, concatenated features.
    image_index : Tensor of int64, shape (n_images, height, width, k)
        The gallery image of each neighbour, as a place in `image_ids`.
    cells : Tensor of int64, shape (n_images, height, width, k, 2)
        Where in that image: (row, column) at the finest level.
    image_ids : tuple of str
        Ids of the gallery images that were searched, sorted.
    work : Work
        What the search did.
    """

    sq_distances: Tensor
    image_index: Tensor
    cells: Tensor
    image_ids: tuple[str, ...]
    work: Work


#: For a larger k the core searches.
MAX_K = 64

#: Squared distances, image ranks and cells, each of shape (n_cells, k).
_Found = tuple[Tensor, Tensor, Tensor]


class TorchBackend:
    """Searches with matrix products, on the CPU or on a CUDA device.

    Features are turned to their principal directions. The products of some leading coordinates
    bound all distances from below (see `knnspect.backends.torch.lead`); the few pairs that these
    leave are settled by their exact distances, in float64. Levels are taken to the leading
    coordinates one by one; the gallery's are made when an image is first searched, and stay on the
    device. What this cannot decide, such as ties without end, the Rust core does.

    Parameters
    ----------
    device : str or torch.device, optional
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; CUDA where there is a device, else the CPU.
    dtype : {"bfloat16", "float32"}, optional
        The type of the products, which only decide what is settled. By default bfloat16 where it is
        fast, else float32.
    max_memory : int or str, optional
        What galleries may take of the device's memory, in bytes or such as ``"4GB"``; half of what
        is free at the first search by default. Images that were not searched for longest give way.

    Raises
    ------
    BackendUnavailable
        If there is no such device.
    ParameterError
        If the device or the type is of another kind.

    Examples
    --------
    >>> TorchBackend("cpu").capabilities.devices
    ('cpu',)
    """

    name = "torch"

    def __init__(
        self,
        device: str | torch.device | None = None,
        *,
        dtype: str | None = None,
        max_memory: int | str | None = None,
    ) -> None:
        self.device = _device(device)
        self.dtype = _dtype(dtype, self.device)
        self.max_memory = None if max_memory is None else parse_bytes("max_memory", max_memory)
        self._galleries: WeakKeyDictionary[Gallery, ResidentGallery] = WeakKeyDictionary()
        self._lock = threading.Lock()

    @property
    def capabilities(self) -> Capabilities:
        """What it can do here."""
        dtype = str(self.dtype).removeprefix("torch.")
        return Capabilities("pyramids", (str(self.device),), (dtype,), max_k=MAX_K)

    def search_tensors(
        self,
        gallery: Gallery,
        levels: Sequence[Tensor],
        k: int = 1,
        images: ImageSubset = None,
    ) -> TensorNeighbors:
        """Find neighbours without leaving the device; the same as `Gallery.search` finds.

        Parameters
        ----------
        gallery : Gallery
            What to search. Its images that were searched before are on the device already.
        levels : sequence of Tensor of float, each (n_images, height, width, channels)
            The query: its levels, finest first, on this backend's device.
        k : int, default 1
            Neighbours of each cell.
        images : sequence of sequences of str, optional
            As in `Gallery.search`.

        Returns
        -------
        TensorNeighbors
            On the device, complete.

        Raises
        ------
        ShapeError, ParameterError
            As `Gallery.search` does.
        ImageError
            If a feature is NaN or infinite.
        DTypeError
            If the levels are no tensors of floats on this device.

        Examples
        --------
        >>> import knnspect as ks
        >>> gallery = ks.Gallery()
        >>> _ = gallery.add(ks.FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]), ids=["a", "b"])
        >>> found = TorchBackend("cpu").search_tensors(gallery, [torch.ones(1, 4, 4, 3)])
        >>> found.sq_distances[0, 0, 0]
        tensor([3.])
        """
        subset = None if images is None else [list(ids) for ids in images]
        checked = _check_levels(levels, self.device)
        shapes = [_shape(level) for level in checked]
        search = _core.Search.of(gallery.core, shapes, len(checked[0]), k, subset)
        for index, level in enumerate(checked):
            is_finite = level.flatten(1).isfinite().all(dim=1)
            if not bool(is_finite.all()):
                image = int(is_finite.long().argmin())
                raise ImageError(f"query image {image}, level {index}: a feature is not finite")
        (sq_distances, ranks, cells), work = self._search(gallery, search, checked, k, None)
        shape = (len(checked[0]), *shapes[0][:2], k)
        width = search.shapes[0][1]
        neighbors = TensorNeighbors(
            sq_distances.float().reshape(shape),
            ranks.reshape(shape),
            torch.stack([cells // width, cells % width], dim=-1).reshape(*shape, 2),
            tuple(search.ids),
            work,
        )
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return neighbors

    def search(
        self,
        gallery: Gallery,
        query: FeaturePyramid,
        k: int,
        images: ImageSubset,
        threads: int | None,
    ) -> Neighbors:
        """Find the `k` nearest gallery cells of every cell of `query`; see `Gallery.search`."""
        subset = None if images is None else [list(ids) for ids in images]
        search = _core.Search(gallery.core, list(query.levels), k, subset)
        with _threads(threads):
            levels = [torch.from_numpy(np.array(level)).to(self.device) for level in query.levels]
            found, work = self._search(gallery, search, levels, k, threads)
        height, width, _ = query.shapes[0]
        shape = (query.n_images, height, width, k)
        sq_distances, ranks, cells = (values.cpu().numpy().reshape(shape) for values in found)
        with np.errstate(over="ignore"):  # a distance may be beyond float32, and is infinite then
            sq_distances = sq_distances.astype(np.float32)
        rows_columns = np.divmod(cells.astype(np.uint32), np.uint32(search.shapes[0][1]))
        return Neighbors(
            sq_distances,
            ranks.astype(np.uint32),
            np.stack(rows_columns, axis=-1),
            tuple(search.ids),
            work,
        )

    def _search(
        self,
        gallery: Gallery,
        search: _core.Search,
        levels: Sequence[Tensor],
        k: int,
        threads: int | None,
    ) -> tuple[_Found, Work]:
        grid = Grid([_shape(level) for level in levels], gallery.upsample, self.device)
        resident = self._resident(gallery, search)
        counts = {"leading": 0, "float64": 0, "core": 0}
        parts = []
        pairs = 0
        for image in range(len(levels[0])):
            query = [level[image] for level in levels]
            ranks = search.ranks(image)
            pairs += grid.n_cells * len(ranks) * resident.grid.n_cells
            found = self._search_image(search, resident, grid, query, image, k, threads, counts)
            if found is None:
                counts["core"] += grid.n_cells * len(ranks) * resident.grid.n_cells
                arrays = [level.cpu().numpy()[None] for level in query]
                found = _tensors(search.search(arrays, image, k, threads), self.device)
            parts.append(found)
        resident.forget(len(gallery))
        nothing = torch.zeros(0, k, device=self.device)
        parts.append((nothing.double(), nothing.long(), nothing.long()))
        sq_distances, image_ranks, cells = (torch.cat(part) for part in zip(*parts, strict=True))
        return (sq_distances, image_ranks, cells), Work(pairs, counts)

    def _search_image(
        self,
        search: _core.Search,
        resident: ResidentGallery,
        grid: Grid,
        query: Sequence[Tensor],
        image: int,
        k: int,
        threads: int | None,
        counts: dict[str, int],
    ) -> _Found | None:
        """Return the neighbours for one query image; None where the core is to find them."""
        ranks = search.ranks(image)
        if k > MAX_K:
            return None
        kept = resident.images(search, image, ranks.tolist(), search.serials(image).tolist())
        rows = [one.rows for one in kept if one.rows is not None]
        if resident.frame is None or len(rows) < len(kept):
            return None
        lead = resident.frame.lead(grid.features([level[None] for level in query])[0])
        if not lead.fits:
            return None
        queries = resident.frame.query_rows(lead)
        settler = _Settler(search, resident, grid, query, image, kept, k, threads)
        start = seeds(rows, resident.order, queries, k)
        if start is None:
            return None
        every = torch.arange(grid.n_cells, device=self.device)
        sq_distances, _, _ = settler.settle(every.repeat_interleave(k), *map(torch.flatten, start))
        frame = resident.frame

        def tighten(found: Pairs) -> Tensor:
            # The pairs that promise most set limits that leave few of the others.
            first = found.smallest(k, grid.n_cells)
            sq_distances, _, _ = settler.settle(first.queries, first.images, first.rows)
            return frame.limits(lead, sq_distances[:, -1])

        near = candidates(rows, queries, frame.limits(lead, sq_distances[:, -1]), tighten)
        if near is None:
            return None
        counts["leading"] += grid.n_cells * len(ranks) * resident.grid.n_cells
        found = settler.settle(near.queries, near.images, near.rows)
        counts["float64"] += settler.n_settled
        return found

    def _resident(self, gallery: Gallery, search: _core.Search) -> ResidentGallery:
        with self._lock:
            resident = self._galleries.get(gallery)
            if resident is None or resident.grid.shapes != search.shapes:
                if self.max_memory is None:
                    self.max_memory = _free_memory(self.device) // 2
                resident = ResidentGallery(
                    Grid(search.shapes, gallery.upsample, self.device),
                    self.dtype,
                    self.device,
                    with_levels=self._settles_itself,
                    limit=self.max_memory,
                )
                self._galleries[gallery] = resident
        return resident

    @property
    def _settles_itself(self) -> bool:
        """Whether candidates are settled on the device, not by the core."""
        return self.device.type != "cpu"


class _Settler:
    """Settles candidates for the neighbours of one query image."""

    def __init__(
        self,
        search: _core.Search,
        resident: ResidentGallery,
        grid: Grid,
        query: Sequence[Tensor],
        image: int,
        images: Sequence[ResidentImage],
        k: int,
        threads: int | None,
    ) -> None:
        self.n_settled = 0
        self._search, self._resident, self._grid = search, resident, grid
        self._query, self._image, self._k, self._threads = query, image, k, threads
        self._ranks = torch.from_numpy(search.ranks(image).astype(np.int64)).to(query[0].device)
        levels = [one.levels for one in images]
        self._levels: list[Tensor] | None = None
        if None not in levels:
            self._levels = [torch.stack(level) for level in zip(*levels, strict=True)]

    def settle(self, cells: Tensor, images: Tensor, rows: Tensor) -> _Found:
        """Return the nearest of some pairs of query cells and rows; infinitely far ones fill up.

        Parameters
        ----------
        cells, images, rows : Tensor of int64, shape (n,)
            Query cell, number of the image, and its row, of each pair.
        """
        n_cells, of_gallery = self._grid.n_cells, self._resident.grid.n_cells
        self.n_settled += len(cells)
        # In the order of query cells, then of places; the images are in the order of their ranks.
        key = (cells * len(self._ranks) + images) * of_gallery + self._resident.order[rows]
        key = key.sort().values
        cells, places = (
            key // (len(self._ranks) * of_gallery),
            key % (len(self._ranks) * of_gallery),
        )
        images, places = places // of_gallery, places % of_gallery
        if self._levels is None:
            return self._by_core(cells, images, places)
        grids = (self._grid, self._resident.grid)
        sq_distances = settle(grids, self._query, self._levels, (cells, images, places))
        sq_distances, nearest = nearest_per_query(n_cells, self._k, cells, sq_distances)
        return sq_distances, self._ranks[images][nearest], places[nearest]

    def _by_core(self, cells: Tensor, images: Tensor, places: Tensor) -> _Found:
        n_cells = self._grid.n_cells
        counts = torch.bincount(cells, minlength=n_cells).cumsum(0).numpy()
        found = self._search.settle(
            [level[None].numpy() for level in self._query],
            self._image,
            np.arange(n_cells, dtype=np.uint32),
            np.concatenate([[0], counts]).astype(np.uint64),
            self._ranks[images].numpy().astype(np.uint32),
            places.numpy().astype(np.uint32),
            self._k,
            self._threads,
        )
        return _tensors(found, torch.device("cpu"))


def _shape(level: Tensor) -> tuple[int, int, int]:
    """Return height, width and channels of a level."""
    _, height, width, channels = level.shape
    return height, width, channels


def _check_levels(levels: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return the levels of a query that is on a device."""
    for index, level in enumerate(levels):
        is_there = isinstance(level, Tensor) and level.is_floating_point()
        if not is_there or level.device != device:
            what = f"{level.dtype} on {level.device}" if isinstance(level, Tensor) else type(level)
            raise DTypeError(f"level {index}: expected a tensor of floats on {device}, got {what}")
        if level.ndim != 4 or len(level) != len(levels[0]):
            raise ShapeError(
                f"level {index}: expected (n_images, height, width, channels), with as many images "
                f"as level 0, got {tuple(level.shape)}"
            )
    if not levels:
        raise ShapeError("levels: expected at least one, got none")
    return [level.detach() for level in levels]


def _tensors(
    found: tuple[NDArray[Any], NDArray[np.uint32], NDArray[np.uint32]], device: torch.device
) -> _Found:
    """Return what the core has found as the device would."""
    sq_distances, ranks, cells = found
    return (
        torch.from_numpy(sq_distances.astype(np.float64)).to(device),
        torch.from_numpy(ranks.astype(np.int64)).to(device),
        torch.from_numpy(cells.astype(np.int64)).to(device),
    )


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        checked = torch.device(device)
    except RuntimeError:
        checked = torch.device("meta")
    if checked.type not in ("cpu", "cuda"):
        raise ParameterError(
            f"backend 'torch': expected device cpu, cuda or cuda:N, got {device!r}"
        )
    if checked.type == "cpu":
        return torch.device("cpu")
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if n_devices == 0:
        raise BackendUnavailable(
            f"backend 'torch': {device!s} was asked for, and PyTorch {torch.__version__} sees no "
            "CUDA device: use torch:cpu, or install a driver and a CUDA build of PyTorch"
        )
    index = torch.cuda.current_device() if checked.index is None else checked.index
    if index >= n_devices:
        raise BackendUnavailable(
            f"backend 'torch': cuda:{index} was asked for, there are {n_devices} CUDA devices"
        )
    return torch.device("cuda", index)


def _dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    known = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    if dtype is None:
        dtype = "bfloat16" if device.type == "cuda" or _has_fast_bfloat16() else "float32"
    if dtype not in known:
        raise ParameterError(f"dtype: expected 'bfloat16' or 'float32', got {dtype!r}")
    return known[dtype]


def _has_fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 by instructions of its own."""
    probe: Any = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return probe is not None and bool(probe())


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    """Let PyTorch use so many threads."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
