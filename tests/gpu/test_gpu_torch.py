"""The torch backend on a GPU gives what the Rust core gives."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from knnspect import FeaturePyramid, Gallery, Neighbors
from knnspect.backends import get_backend
from knnspect.backends.torch import TorchBackend

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

SHAPES = [(16, 16, 24), (8, 8, 40), (4, 4, 56)]
KINDS = ["normal", "offset", "tiny", "huge", "scales", "ties", "zeros"]


def some(seed: int, n_images: int, kind: str = "normal") -> FeaturePyramid:
    rng = np.random.default_rng(seed)
    levels = []
    for shape in SHAPES:
        values = rng.normal(size=(n_images, *shape))
        if kind == "offset":
            values += 1e4
        elif kind == "tiny":
            values *= 1e-30
        elif kind == "huge":
            values *= 1e30
        elif kind == "scales":
            values *= 10.0 ** rng.integers(-9, 10, (n_images, 1, 1, 1))
        elif kind == "ties":
            values = np.round(values)
        elif kind == "zeros":
            values[:] = 0
        levels.append(values.astype("f4"))
    return FeaturePyramid(levels)


def assert_same(found: Neighbors, expected: Neighbors) -> None:
    assert found.image_ids == expected.image_ids
    np.testing.assert_allclose(found.sq_distances, expected.sq_distances, rtol=1e-6)
    np.testing.assert_array_equal(found.image_index, expected.image_index)
    np.testing.assert_array_equal(found.cells, expected.cells)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("upsample", ["bilinear", "block"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("k", [1, 7])
def test_it_finds_what_the_core_finds(kind: str, upsample: str, dtype: str, k: int) -> None:
    gallery, query = Gallery(upsample), some(1, 3, kind)
    gallery.add(some(0, 12, kind))
    backend = TorchBackend("cuda", dtype=dtype)
    assert_same(gallery.search(query, k, backend=backend), gallery.search(query, k))
    some_ids = [gallery.ids[:5], gallery.ids[3:4], gallery.ids[4:]]
    found = gallery.search(query, k, some_ids, backend=backend)
    assert_same(found, gallery.search(query, k, some_ids))


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_what_float32_may_be_multiplied_as_changes_nothing(precision: str) -> None:
    gallery, query = Gallery(), some(1, 2, "offset")
    gallery.add(some(0, 12, "offset"))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        found = gallery.search(query, backend=TorchBackend("cuda", dtype="float32"))
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert_same(found, gallery.search(query))


def test_real_structure_is_searched_on_the_device() -> None:
    y, x = np.meshgrid(np.linspace(0, 3, 56), np.linspace(0, 3, 56), indexing="ij")
    rng = np.random.default_rng(0)
    maps = (
        np.sin(y[None, :, :, None] + rng.uniform(0, 6, (1, 1, 1, 32))) + np.cos(x)[None, :, :, None]
    )
    normal = (maps + 0.1 * rng.normal(size=(20, 56, 56, 32))).astype("f4")
    gallery = Gallery()
    gallery.add(FeaturePyramid([normal]))
    query = FeaturePyramid([(maps + 0.1 * rng.normal(size=(2, 56, 56, 32))).astype("f4")])
    found = gallery.search(query, 3, backend="torch:cuda")
    assert found.stats is not None
    assert found.stats.shares["core"] == 0
    assert_same(found, gallery.search(query, 3))


def test_queries_and_answers_stay_on_the_device() -> None:
    gallery, query = Gallery(), some(1, 2)
    gallery.add(some(0, 5))
    backend = TorchBackend("cuda")
    levels = [torch.from_numpy(level.copy()).to(backend.device) for level in query.levels]
    found = backend.search_tensors(gallery.prepare(FeaturePyramid(levels), 3))
    assert found.sq_distances.device == found.cells.device == backend.device
    expected = gallery.search(query, 3)
    np.testing.assert_allclose(found.sq_distances.cpu().numpy(), expected.sq_distances, rtol=1e-6)
    np.testing.assert_array_equal(found.image_index.cpu().numpy(), expected.image_index)
    np.testing.assert_array_equal(found.cells.cpu().numpy(), expected.cells)


def test_other_streams_and_threads_find_the_same() -> None:
    gallery, query = Gallery(), some(1, 1)
    gallery.add(some(0, 12))
    expected = gallery.search(query, 3)
    backend = get_backend("torch:cuda")

    def search(number: int) -> Neighbors:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            subset = gallery.ids[number % 3 :] if number % 2 else None
            found = gallery.search(query, 3, subset, backend=backend)
        return found if subset is None else gallery.search(query, 3, backend=backend)

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(search, range(16)):
            assert_same(found, expected)


def test_little_memory_is_enough() -> None:
    gallery, query = Gallery(), some(1, 1)
    gallery.add(some(0, 40))
    backend = TorchBackend("cuda", max_memory="1MB")
    for _ in range(2):
        assert_same(gallery.search(query, 3, backend=backend), gallery.search(query, 3))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device")
def test_another_device_than_the_first_is_used() -> None:
    gallery, query = Gallery(), some(1, 1)
    gallery.add(some(0, 5))
    before = torch.cuda.memory_allocated(0)
    backend = TorchBackend("cuda:1")
    assert_same(gallery.search(query, 3, backend=backend), gallery.search(query, 3))
    assert torch.cuda.memory_allocated(0) == before
    assert torch.cuda.memory_allocated(1) > 0
