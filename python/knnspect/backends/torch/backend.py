"""The search of pyramids with PyTorch."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from knnspect import _core
from knnspect.backends.torch.image_search import Found, ImageSearch, tensors_of
from knnspect.backends.torch.resident import ResidentGallery
from knnspect.backends.torch.upsampling import Grid
from knnspect.errors import (
    BackendUnavailable,
    DTypeError,
    ImageError,
    ParameterError,
    ShapeError,
)
from knnspect.forked import check_cuda, fork_safe
from knnspect.memory import parse_bytes
from knnspect.search import Capabilities, Neighbors, SearchStats

if TYPE_CHECKING:
    from knnspect.gallery import ReadOnlyGallery
    from knnspect.pyramid import FeaturePyramid
    from knnspect.search import ImageSubset

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
        What the search did.
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
    bound all distances from below (see `knnspect.backends.torch.lead`); the few pairs that these
    leave are settled by their exact distances, in float64. Leading coordinates of a gallery image
    are made when it is first searched, and stay on the device; concatenated features exist for a
    few images at a time only. What this cannot decide (ties without end) the Rust core does.

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
        self._galleries: WeakKeyDictionary[ReadOnlyGallery, ResidentGallery] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        dtype = str(self.dtype).removeprefix("torch.")
        return partial(TorchBackend, dtype=dtype, max_memory=self.max_memory), (str(self.device),)

    @property
    def capabilities(self) -> Capabilities:
        """What it can do here."""
        dtype = str(self.dtype).removeprefix("torch.")
        return Capabilities("pyramids", (str(self.device),), (dtype,), max_k=MAX_K)

    @fork_safe
    def search_tensors(
        self,
        gallery: ReadOnlyGallery,
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
        MemoryError
            If the device has no room for the search.

        Examples
        --------
        >>> import knnspect as ks
        >>> gallery = ks.Gallery()
        >>> _ = gallery.add(ks.FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]), ids=["a", "b"])
        >>> found = TorchBackend("cpu").search_tensors(gallery, [torch.ones(1, 4, 4, 3)])
        >>> found.sq_distances[0, 0, 0]
        tensor([3.])
        """
        check_cuda(self.device.type)
        subset = None if images is None else [list(ids) for ids in images]
        checked = _check_levels(levels, self.device)
        shapes = [_shape(level) for level in checked]
        search = _core.Search.of(gallery.core, shapes, len(checked[0]), k, subset)
        for index, level in enumerate(checked):
            is_finite = level.flatten(1).isfinite().all(dim=1)
            if not bool(is_finite.all()):
                image = int(is_finite.long().argmin())
                raise ImageError(f"query image {image}, level {index}: a feature is not finite")
        with _naming_memory(self.device):
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

    @fork_safe
    def search(
        self,
        gallery: ReadOnlyGallery,
        query: FeaturePyramid,
        k: int,
        images: ImageSubset,
        threads: int | None,
    ) -> Neighbors:
        """Find the `k` nearest gallery cells of every cell of `query`; see `Gallery.search`."""
        check_cuda(self.device.type)
        subset = None if images is None else [list(ids) for ids in images]
        search = _core.Search(gallery.core, list(query.levels), k, subset)
        with _threads(threads), _naming_memory(self.device):
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
        gallery: ReadOnlyGallery,
        search: _core.Search,
        levels: Sequence[Tensor],
        k: int,
        threads: int | None,
    ) -> tuple[Found, SearchStats]:
        grid = Grid([_shape(level) for level in levels], gallery.upsample, self.device)
        resident = self._resident(gallery, search)
        counts = {"leading": 0, "float64": 0, "core": 0}
        parts = []
        pairs = 0
        for image in range(len(levels[0])):
            query = [level[image] for level in levels]
            n_pairs = grid.n_cells * len(search.ranks(image)) * resident.grid.n_cells
            pairs += n_pairs
            one = ImageSearch(search, resident, grid, query, image, k, threads)
            found = one.run() if k <= MAX_K else None
            counts["float64"] += one.n_settled
            if found is None:
                arrays = [level.cpu().numpy()[None] for level in query]
                found = tensors_of(search.search(arrays, image, k, threads), self.device)
                counts["core"] += n_pairs
            else:
                counts["leading"] += n_pairs
            parts.append(found)
        resident.forget(len(gallery))
        nothing = torch.zeros(0, k, device=self.device)
        parts.append((nothing.double(), nothing.long(), nothing.long()))
        sq_distances, image_ranks, cells = (torch.cat(part) for part in zip(*parts, strict=True))
        return (sq_distances, image_ranks, cells), SearchStats(pairs, counts)

    def _resident(self, gallery: ReadOnlyGallery, search: _core.Search) -> ResidentGallery:
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
