"""The search of pyramids with PyTorch."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from knnspect.backends.torch.cache import GalleryCache
from knnspect.backends.torch.gpu_search import has_kernels
from knnspect.backends.torch.image_search import Found, ImageSearch, tensors_of
from knnspect.backends.torch.upsampling import Grid
from knnspect.errors import BackendUnavailable, ParameterError
from knnspect.forked import check_cuda, fork_safe
from knnspect.memory import parse_bytes
from knnspect.search import Capabilities, Neighbors, Search, SearchStats

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
    stats : SearchStats
        The pairs that the search compared.
    """

    sq_distances: Tensor
    image_index: Tensor
    cells: Tensor
    image_ids: tuple[str, ...]
    stats: SearchStats


#: For a larger k the core searches.
MAX_K = 64


class TorchBackend:
    """Searches with matrix products, on the CPU or on a CUDA device.

    Features are turned to their principal directions. The products of some leading coordinates
    bound all distances from below (see `knnspect.backends.torch.bounds`); the few pairs that these
    leave are rescored by their exact distances, in float64. Leading coordinates of a gallery image
    are made when it is first searched, and stay on the device; concatenated features exist for a
    few images at a time only. Where bounds cannot decide (ties without end) the Rust core searches,
    and where there is a position window.

    Parameters
    ----------
    device : str or torch.device, optional
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; CUDA where there is a device, else the CPU.
    dtype : {"bfloat16", "float32"}, optional
        The type of the products, which only decide what is rescored. By default bfloat16 where it
        is fast, else float32.
    max_memory : int or str, optional
        The share of the device's memory for galleries, in bytes or such as ``"4GB"``; half of what
        is free at the first search by default. Images that were not searched for longest give way.

    Raises
    ------
    BackendUnavailable
        If there is no such device.
    ParameterError
        If the device or the type is of another kind.

    Examples
    --------
    >>> TorchBackend("cpu", dtype="float32")
    TorchBackend('cpu', dtype='float32')
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
        self._caches: WeakKeyDictionary[object, GalleryCache] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        dtype = str(self.dtype).removeprefix("torch.")
        return partial(TorchBackend, dtype=dtype, max_memory=self.max_memory), (str(self.device),)

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{type(self).__name__}({str(self.device)!r}, dtype={dtype!r})"

    @property
    def capabilities(self) -> Capabilities:
        """Its abilities on this machine."""
        dtype = str(self.dtype).removeprefix("torch.")
        return Capabilities("pyramids", (str(self.device),), (dtype,), max_k=MAX_K)

    @fork_safe
    def search_tensors(self, search: Search) -> TensorNeighbors:
        """Find neighbours without leaving the device; the same as `Gallery.search` finds.

        Parameters
        ----------
        search : Search
            The search, from `Gallery.prepare`. Tensors that are on this backend's device stay
            there, and images of the gallery that were searched before are there already.

        Returns
        -------
        TensorNeighbors
            On the device, complete.

        Raises
        ------
        MemoryError
            If the device has no room for the search.

        Examples
        --------
        >>> import numpy as np, knnspect as ks
        >>> gallery = ks.Gallery()
        >>> _ = gallery.add(ks.FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]), ids=["a", "b"])
        >>> query = ks.FeaturePyramid([torch.ones(1, 4, 4, 3)])
        >>> found = TorchBackend("cpu").search_tensors(gallery.prepare(query))
        >>> found.sq_distances[0, 0, 0]
        tensor([3.])
        """
        check_cuda(self.device.type)
        with _threads(search.threads), _naming_memory(self.device):
            (sq_distances, ranks, cells), stats = self._search(search)
        height, width, _ = search.query.shapes[0]
        shape = (search.query.n_images, height, width, search.k)
        grid_width = search.shapes[0][1]
        neighbors = TensorNeighbors(
            sq_distances.float().reshape(shape),
            ranks.reshape(shape),
            torch.stack([cells // grid_width, cells % grid_width], dim=-1).reshape(*shape, 2),
            search.image_ids,
            stats,
        )
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return neighbors

    @fork_safe
    def search(self, search: Search) -> Neighbors:
        """Find the `k` nearest gallery cells of every cell of the query; see `Gallery.search`."""
        check_cuda(self.device.type)
        with _threads(search.threads), _naming_memory(self.device):
            found, stats = self._search(search)
        sq_distances, ranks, cells = (values.cpu().numpy() for values in found)
        return search.found(sq_distances, ranks, cells, stats)

    def _search(self, search: Search) -> tuple[Found, SearchStats]:
        levels = [_tensor(level, self.device) for level in search.query.arrays]
        cache = self._cache_of(search)
        grid = cache.grid
        if search.query.shapes != grid.shapes:
            grid = Grid(search.query.shapes, search.upsample, self.device)
        counts = {"leading": 0, "float64": 0, "core": 0}
        parts = []
        pairs = 0
        for image in range(search.query.n_images):
            n_pairs = search.n_pairs(image)
            pairs += n_pairs
            of_image = [level[image] for level in levels]
            one = ImageSearch(search, cache, grid, of_image, image, self._has_kernels)
            found = one.run() if search.k <= MAX_K and search.window is None else None
            counts["float64"] += one.n_rescored
            if found is None:
                found = tensors_of(search.image_by_core(image), self.device)
                counts["core"] += n_pairs
            else:
                counts["leading"] += n_pairs
            parts.append(found)
        cache.forget(search.n_stored)
        nothing = torch.zeros(0, search.k, device=self.device)
        parts.append((nothing.double(), nothing.long(), nothing.long()))
        sq_distances, image_ranks, cells = (torch.cat(part) for part in zip(*parts, strict=True))
        return (sq_distances, image_ranks, cells), SearchStats(pairs, counts)

    def _cache_of(self, search: Search) -> GalleryCache:
        with self._lock:
            cache = self._caches.get(search.source)
            if cache is None or cache.grid.shapes != search.shapes:
                if self.max_memory is None:
                    self.max_memory = _free_memory(self.device) // 2
                cache = GalleryCache(
                    Grid(search.shapes, search.upsample, self.device),
                    self.dtype,
                    self.device,
                    with_levels=self._rescores_on_device,
                    limit=self.max_memory,
                    is_split=self._has_kernels and self.dtype == torch.bfloat16,
                )
                self._caches[search.source] = cache
        return cache

    @property
    def _rescores_on_device(self) -> bool:
        """Whether candidates are rescored on the device, not by the core."""
        return self.device.type != "cpu"

    @property
    def _has_kernels(self) -> bool:
        """Whether kernels of our own do what they can."""
        return self.device.type != "cpu" and has_kernels(self.device)


def _tensor(level: Any, device: torch.device) -> Tensor:
    """Return a level of a query as a tensor on a device, copied only where that is needed."""
    if isinstance(level, Tensor):
        return level.to(device)
    # PyTorch warns of arrays that must not be written to, though nothing here would.
    return torch.from_numpy(level if level.flags.writeable else level.copy()).to(device)


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
def _naming_memory(device: torch.device) -> Iterator[None]:
    """Say what to do where the memory of a device is too small."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise MemoryError(
            f"{device} has no room for the search: search fewer images at a time, give "
            "TorchBackend a lower max_memory, or use backend 'rust'"
        ) from error


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
