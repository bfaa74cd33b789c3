"""faiss as a backend, on the CPU or on a GPU."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.backends.faiss_installation import choose_gpu, load_faiss, on_gpu
from knnspect.backends.rows import Rows, RowsBackend
from knnspect.errors import DTypeError, ParameterError
from knnspect.forked import fork_safe
from knnspect.search import Capabilities
from knnspect.validation import check_count

__all__ = ["FaissBackend"]

#: faiss gives no more neighbours on a GPU.
MAX_K_ON_GPU = 2048


class FaissBackend(RowsBackend):
    """Searches with faiss: exactly by default, approximately on request.

    With ``index="Flat"`` the neighbours and distances are those of every other backend. Any other
    type leaves rows out: then ``capabilities.is_exact`` is False, and `recall` tells what share of
    the neighbours is found. The distances of those that are found are exact all the same.

    Indexes live in memory only; no index file is ever read or written.

    Parameters
    ----------
    device : str, optional
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; by default the first GPU where faiss has GPU
        support and sees one, else the CPU.
    index : str, default "Flat"
        The type of index, in the words of ``faiss.index_factory``: ``"Flat"``, ``"IVF256,Flat"``,
        ``"IVF256,PQ16"``, ``"PQ16"``, ... Those that are trained are trained on all rows of the
        images searched, from faiss's fixed seed.
    nprobe : int, optional
        How many lists of an ``IVF`` index are searched; faiss's default is 1.

    Attributes
    ----------
    device : str
        Where it searches: ``"cpu"`` or ``"cuda:0"``, ...

    Raises
    ------
    BackendUnavailable
        If faiss is not installed, what is installed does not work, or there is no such GPU; the
        message says what to do.
    ParameterError
        If `device` is another word or `nprobe` is given without an ``IVF`` index. When searching:
        if faiss knows no such `index`, or cannot make or train one of these rows.
    DTypeError
        If an argument is of another type.

    Examples
    --------
    >>> import numpy as np
    >>> import knnspect as ks
    >>> rng = np.random.default_rng(0)
    >>> gallery = ks.Gallery()
    >>> _ = gallery.add(ks.FeaturePyramid([rng.random((4, 16, 16, 8), dtype="f4")]))
    >>> query = ks.FeaturePyramid([rng.random((1, 16, 16, 8), dtype="f4")])
    >>> approximate = FaissBackend("cpu", index="IVF16,Flat", nprobe=8)
    >>> approximate
    FaissBackend('cpu', index='IVF16,Flat', nprobe=8, approximate)
    >>> 0.5 < approximate.recall(gallery, query, k=5) < 1
    True
    >>> FaissBackend("cpu").recall(gallery, query, k=5)
    1.0
    """

    name = "faiss"

    def __init__(
        self, device: str | None = None, *, index: str = "Flat", nprobe: int | None = None
    ) -> None:
        super().__init__()
        for name, word in (("device", device), ("index", index)):
            if not isinstance(word, str) and (name, word) != ("device", None):
                raise DTypeError(f"{name}: expected a str, got {type(word).__name__}")
        if nprobe is not None:
            check_count("nprobe", nprobe)
            if not re.search("IVF", index):
                raise ParameterError(f"nprobe: expected an IVF index, got index {index!r}")
        self._faiss = faiss = load_faiss()
        # The CPU's faiss has the function, too.
        has_gpu_support = hasattr(faiss, "StandardGpuResources")
        n_gpus = faiss.get_num_gpus() if has_gpu_support else 0
        self._gpu = choose_gpu(device, has_gpu_support, n_gpus)
        self._resources = threading.local()
        self.device = "cpu" if self._gpu is None else f"cuda:{self._gpu}"
        self.index = index
        self.nprobe = nprobe
        self.capabilities = Capabilities(
            "rows",
            devices=("cpu", *(f"cuda:{gpu}" for gpu in range(n_gpus))),
            dtypes=("float32",),
            max_k=None if self._gpu is None else MAX_K_ON_GPU,
            is_exact=index == "Flat",
        )

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return partial(FaissBackend, index=self.index, nprobe=self.nprobe), (self.device,)

    def __repr__(self) -> str:
        nprobe = "" if self.nprobe is None else f", nprobe={self.nprobe}"
        approximate = "" if self.capabilities.is_exact else ", approximate"
        return f"FaissBackend({self.device!r}, index={self.index!r}{nprobe}{approximate})"

    @fork_safe
    def build(self, rows: Rows, threads: int | None) -> Any:
        """Return an index of rows, trained where it is to be."""
        resources = self._own_resources()
        with self._using(resources, threads):
            return _Index(self._built(rows, resources), resources)

    @fork_safe
    def find(
        self, index: Any, queries: Rows, k: int, threads: int | None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the `k` nearest rows of each query, or some that are near."""
        with self._using(index.resources, threads):
            sq_distances, rows = index.index.search(np.ascontiguousarray(queries), k)
            return sq_distances, rows

    def _built(self, rows: Rows, resources: _Resources | None) -> Any:
        faiss, n_features = self._faiss, rows.shape[1]
        if self.capabilities.is_exact:
            if resources is None:
                index = faiss.IndexFlatL2(n_features)
            else:
                config = faiss.GpuIndexFlatConfig()
                config.device = self._gpu
                config.useFloat16 = False
                # How cuVS rounds is nowhere said; the error bound is that of float32 arithmetic.
                config.use_cuvs = False
                index = faiss.GpuIndexFlatL2(resources.handle, n_features, config)
        else:
            try:
                index = faiss.index_factory(n_features, self.index, faiss.METRIC_L2)
                index.train(rows)
                if resources is not None:
                    index = faiss.index_cpu_to_gpu(resources.handle, self._gpu, index)
                if self.nprobe is not None:
                    lists = faiss.extract_index_ivf(index) if resources is None else index
                    lists.nprobe = self.nprobe
            except RuntimeError as error:
                raise self._unfit(rows, error) from error
        index.add(rows)
        return index

    def _unfit(self, rows: Rows, error: RuntimeError) -> Exception:
        reason = str(error).rpartition("Error: ")[2].rpartition("failed: ")[2].strip()
        return ParameterError(
            f"index: {self.index!r} cannot be made of {rows.shape[0]} rows of {rows.shape[1]} "
            f"features; search more images, or choose another type such as 'Flat' ({reason})"
        )

    def _own_resources(self) -> _Resources | None:
        """Return what this thread keeps on the GPU, which takes about 0.1 s to make."""
        if self._gpu is None:
            return None
        try:
            resources: _Resources = self._resources.mine
        except AttributeError:
            with on_gpu(self._gpu):
                resources = _Resources(self._faiss.StandardGpuResources(), threading.Lock())
            self._resources.mine = resources
        return resources

    @contextmanager
    def _using(self, resources: _Resources | None, threads: int | None) -> Iterator[None]:
        """Let faiss use the GPU, alone, or so many threads of the CPU."""
        if resources is not None and self._gpu is not None:
            with resources.lock, on_gpu(self._gpu):
                try:
                    yield
                except RuntimeError as error:
                    if "out of memory" in str(error):
                        raise MemoryError(
                            f"{self.device} has no room for the rows: search fewer images, or "
                            "use backend 'faiss:cpu' or 'rust'"
                        ) from error
                    raise
            return
        before = self._faiss.omp_get_max_threads()  # of the calling thread
        self._faiss.omp_set_num_threads(before if threads is None else threads)
        try:
            yield
        finally:
            self._faiss.omp_set_num_threads(before)


@dataclass(frozen=True)
class _Resources:
    """Temporary memory and streams on one GPU, made by one thread.

    Nothing that uses them may do so twice at the same time, not even to read. Other threads come
    across them through the indexes that were made with them, hence a lock for the resources and
    not for each index.
    """

    handle: Any
    lock: threading.Lock


@dataclass(frozen=True)
class _Index:
    """An index, and what it uses on its GPU."""

    index: Any
    resources: _Resources | None
