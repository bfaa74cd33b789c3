"""The faiss backend beyond the contract: types of indexes, threads, and how it uses a GPU."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from knnspect import (
    BackendUnavailable,
    DTypeError,
    FeaturePyramid,
    Gallery,
    KnnspectError,
    ParameterError,
)
from knnspect.backends import FaissBackend, get_backend
from knnspect.testing import Oracle, assert_same_neighbors

faiss = pytest.importorskip("faiss")
needs_cpu_faiss = pytest.mark.skipif(
    hasattr(faiss, "StandardGpuResources"), reason="this faiss has GPU support"
)


def some(seed: int, n_images: int, side: int = 16) -> FeaturePyramid:
    rng = np.random.default_rng(seed)
    return FeaturePyramid([rng.normal(size=(n_images, side, side, 8)).astype("f4")])


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    gallery = Gallery()
    gallery.add(some(0, 4))
    return gallery


@pytest.fixture(scope="module")
def query() -> FeaturePyramid:
    return some(1, 1)


def same(found: Any, other: Any) -> bool:
    return (
        np.array_equal(found.sq_distances, other.sq_distances)
        and np.array_equal(found.image_index, other.image_index)
        and np.array_equal(found.cells, other.cells)
    )


# -------------------------------------------------------------------------------- what it says


def test_it_says_what_it_can() -> None:
    flat = FaissBackend("cpu")
    assert flat.device == "cpu"
    assert flat.capabilities.searches == "rows"
    assert flat.capabilities.is_exact
    assert flat.capabilities.max_k is None
    assert "cpu" in flat.capabilities.devices
    assert repr(flat) == "FaissBackend('cpu', index='Flat')"
    approximate = FaissBackend("cpu", index="IVF4,Flat", nprobe=2)
    assert not approximate.capabilities.is_exact
    assert repr(approximate) == "FaissBackend('cpu', index='IVF4,Flat', nprobe=2, approximate)"
    assert get_backend("faiss:cpu") is get_backend("faiss:cpu")


@needs_cpu_faiss
def test_a_faiss_without_gpu_support_is_for_the_cpu() -> None:
    assert get_backend("faiss").device == "cpu"  # type: ignore[attr-defined]
    for word in ("faiss:cuda", "faiss:cuda:0"):
        with pytest.raises(BackendUnavailable, match=r"has none: .*pip install faiss-gpu"):
            get_backend(word)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"device": "tpu"}, ParameterError, "device: expected 'cpu', 'cuda' .*got 'tpu'"),
        ({"device": 0}, DTypeError, "device: expected a str, got int"),
        ({"index": None}, DTypeError, "index: expected a str, got NoneType"),
        ({"nprobe": 4}, ParameterError, "nprobe: expected an IVF index, got index 'Flat'"),
        ({"index": "IVF4,Flat", "nprobe": 0}, ParameterError, "nprobe"),
        ({"index": "IVF4,Flat", "nprobe": 1.5}, DTypeError, "nprobe"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: dict[str, Any], error: type[KnnspectError], message: str
) -> None:
    with pytest.raises(error, match=message):
        FaissBackend(**arguments)


# ---------------------------------------------------------------------------- types of indexes


@pytest.mark.parametrize(
    ("index", "nprobe", "least"),
    [
        ("IVF16,Flat", 1, 0.2),
        ("IVF16,Flat", 8, 0.8),
        ("IVF8,PQ4x5", 4, 0.2),
        ("PQ4x5", None, 0.3),
        ("SQ8", None, 0.95),
        ("HNSW16", None, 0.7),
    ],
)
def test_what_an_approximate_index_finds_is_near_and_its_distances_exact(
    gallery: Gallery, query: FeaturePyramid, index: str, nprobe: int | None, least: float
) -> None:
    backend = FaissBackend("cpu", index=index, nprobe=nprobe)
    recall = backend.recall(gallery, query, k=3)
    assert least < recall <= 1
    found = gallery.search(query, 3, backend=backend)
    images = gallery.pyramid().levels[0]
    rows = images[found.image_index, found.cells[..., 0], found.cells[..., 1]].astype("f8")
    sq_distances = np.square(rows - query.levels[0][:, :, :, None]).sum(axis=-1)
    np.testing.assert_array_equal(found.sq_distances, sq_distances.astype("f4"))
    assert (np.diff(found.sq_distances, axis=-1) >= 0).all()


def test_more_lists_find_more(gallery: Gallery, query: FeaturePyramid) -> None:
    recalls = [
        FaissBackend("cpu", index="IVF16,Flat", nprobe=nprobe).recall(gallery, query, k=3)
        for nprobe in (1, 4, 16)
    ]
    assert recalls[0] < recalls[1] < recalls[2] == 1
    unsaid = FaissBackend("cpu", index="IVF16,Flat").recall(gallery, query, k=3)
    assert unsaid == recalls[0]


@pytest.mark.parametrize("index", ["IVF16,Flat", "IVF8,PQ4x4", "PQ4x4"])
def test_training_is_seeded(gallery: Gallery, query: FeaturePyramid, index: str) -> None:
    first = gallery.search(query, 3, backend=FaissBackend("cpu", index=index))
    np.random.seed(5)  # noqa: NPY002 - whose state must not matter
    again = gallery.search(query, 3, threads=1, backend=FaissBackend("cpu", index=index))
    assert same(again, first)


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("IVF2000,Flat", "training points"),
        ("PQ4x12", "training points"),
        ("PQ3", "multiple"),
        ("Nonsense", "could not parse"),
        ("", "could not parse"),
    ],
)
def test_an_index_that_cannot_be_made_is_an_error(
    gallery: Gallery, query: FeaturePyramid, index: str, reason: str
) -> None:
    backend = FaissBackend("cpu", index=index)
    expected = f"index: {index!r} cannot be made of 1024 rows of 8 features; .*{reason}"
    with pytest.raises(ParameterError, match=expected):
        gallery.search(query, backend=backend)


def test_too_few_rows_in_a_subset_are_an_error(gallery: Gallery, query: FeaturePyramid) -> None:
    backend = FaissBackend("cpu", index="IVF300,Flat")
    assert gallery.search(query, backend=backend).k == 1
    with pytest.raises(ParameterError, match=r"of 256 rows .*search more images.*300"):
        gallery.search(query, images=gallery.ids[:1], backend=backend)


def test_no_file_is_written(
    gallery: Gallery, query: FeaturePyramid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("write_index", "read_index"):
        monkeypatch.setattr(faiss, name, lambda *_: pytest.fail("an index file"))
    FaissBackend("cpu", index="IVF16,PQ4x4").recall(gallery, query)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("threads", [None, 1, 3])
@pytest.mark.parametrize("index", ["Flat", "IVF16,Flat"])
def test_the_number_of_threads_is_set_for_the_call_alone(
    gallery: Gallery,
    query: FeaturePyramid,
    threads: int | None,
    index: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    class Watched(FaissBackend):
        def _built(self, *arguments: Any) -> Any:
            seen.append(faiss.omp_get_max_threads())
            return super()._built(*arguments)

        def find(self, index: Any, *arguments: Any) -> Any:
            inner = index.index

            def search(*arguments: Any) -> Any:
                seen.append(faiss.omp_get_max_threads())
                return inner.search(*arguments)

            return super().find(
                SimpleNamespace(index=SimpleNamespace(search=search), resources=None), *arguments
            )

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        gallery.search(query, threads=threads, backend=Watched("cpu", index=index))
        assert seen == [threads or 2] * 2
        assert faiss.omp_get_max_threads() == 2
        with pytest.raises(ParameterError):
            gallery.search(query, threads=threads, backend=FaissBackend("cpu", index="Wrong"))
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)


# ----------------------------------------------------------------------------- how a GPU is used


class FakeGpus(SimpleNamespace):
    """What of faiss's GPU support the backend uses, on the CPU; it notices what breaks a GPU."""

    def __init__(self, n_gpus: int, room: int = 2**40) -> None:
        fake = self
        self.made: list[Any] = []
        self.devices: list[int] = []
        self.broken: list[str] = []

        class StandardGpuResources:
            def __init__(self) -> None:
                self.thread = threading.get_ident()
                self.busy = threading.Lock()
                fake.made.append(self)

            def use(self) -> None:
                if not self.busy.acquire(blocking=False):
                    fake.broken.append("two threads use the same resources")
                    return
                time.sleep(0.002)
                self.busy.release()

        class Index:
            def __init__(self, resources: Any, index: Any) -> None:
                self.resources, self.index = resources, index
                if threading.get_ident() != resources.thread:
                    fake.broken.append("made with the resources of another thread")

            def add(self, rows: Any) -> None:
                if rows.nbytes > room:
                    raise RuntimeError("Error: alloc fail (cudaMalloc error out of memory [2])")
                self.resources.use()
                self.index.add(rows)

            def search(self, queries: Any, k: int) -> Any:
                if k > 2048 or not queries.flags.c_contiguous:
                    fake.broken.append("what a GPU cannot do")
                self.resources.use()
                return self.index.search(queries, k)

        def flat(resources: Any, n_features: int, config: Any) -> Any:
            fake.devices.append(config.device)
            assert not config.use_cuvs
            assert not config.useFloat16
            return Index(resources, faiss.IndexFlatL2(n_features))

        super().__init__(
            StandardGpuResources=StandardGpuResources,
            GpuIndexFlatConfig=SimpleNamespace,
            GpuIndexFlatL2=flat,
            get_num_gpus=lambda: n_gpus,
        )


@pytest.fixture
def fake_gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    def start(n_gpus: int, **arguments: Any) -> FakeGpus:
        fake = FakeGpus(n_gpus, **arguments)
        monkeypatch.setattr("knnspect.backends.faiss.load_faiss", lambda: fake)
        return fake

    return start


def test_a_gpu_is_used_where_there_is_one(
    fake_gpus: Any, gallery: Gallery, query: FeaturePyramid
) -> None:
    fake = fake_gpus(2)
    backend = FaissBackend()
    assert backend.device == "cuda:0"
    assert backend.capabilities.devices == ("cpu", "cuda:0", "cuda:1")
    assert backend.capabilities.max_k == 2048
    second = FaissBackend("cuda:1")
    assert FaissBackend("cpu").capabilities.max_k is None
    for each in (backend, second, backend):
        assert same(gallery.search(query, 3, backend=each), gallery.search(query, 3))
    assert fake.devices == [0, 1]
    assert len(fake.made) == 2, "once per device"
    assert fake.broken == []


def test_more_neighbors_than_a_gpu_gives_are_for_the_core(
    fake_gpus: Any, query: FeaturePyramid
) -> None:
    fake = fake_gpus(1)
    gallery = Gallery()
    gallery.add(some(0, 10))
    for k, core in ((100, False), (2049, True)):
        found = gallery.search(query, k, backend=FaissBackend("cuda"))
        assert same(found, gallery.search(query, k))
        assert found.stats is not None
        assert (found.stats.stages["core"] == found.stats.pairs) == core
    assert fake.broken == []


def test_threads_have_resources_of_their_own_and_never_share_them(
    fake_gpus: Any, query: FeaturePyramid
) -> None:
    fake = fake_gpus(1)
    gallery = Gallery()
    normal = some(0, 3, 6)
    query = some(1, 1, 6)
    gallery.add(normal, ["a", "b", "c"])
    oracle = Oracle.of(list(query.levels), list(normal.levels), ["a", "b", "c"], "bilinear")
    backend = FaissBackend("cuda:0")
    # Whoever is first builds what the others find.
    gallery.search(query, 2, backend=backend)
    start = threading.Barrier(4)

    def search(number: int) -> None:
        start.wait()
        for turn in range(6):
            if (turn + number) % 3:
                found = gallery.search(query, 2, backend=backend)
                assert_same_neighbors(found, oracle)
            else:
                gallery.search(query, 2, ["abc"[number % 3]], backend=backend)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(search, range(4)))
    assert fake.broken == []
    assert len(fake.made) == 5, "once per thread"
    assert len({resources.thread for resources in fake.made}) == 5


def test_a_gpu_without_room_says_so(
    fake_gpus: Any, gallery: Gallery, query: FeaturePyramid
) -> None:
    fake_gpus(1, room=1000)
    backend = FaissBackend()
    with pytest.raises(MemoryError, match="cuda:0 has no room for the rows: search fewer images"):
        gallery.search(query, backend=backend)
    with pytest.raises(MemoryError):  # and nothing is left locked
        gallery.search(query, backend=backend)
