"""faiss on a GPU gives what the Rust core gives, to the bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch  # before faiss

from knnspect import FeaturePyramid, Gallery, Neighbors
from knnspect.backends import FaissBackend, get_backend, unavailable_backends


def reason_to_skip() -> str | None:
    problem = unavailable_backends().get("faiss")
    if problem is not None:
        return problem
    if FaissBackend().device == "cpu":
        return "this faiss has no GPU support, or sees no GPU"
    return None


REASON = reason_to_skip()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

SHAPES = [(16, 16, 24), (8, 8, 40), (4, 4, 56)]


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
        elif kind == "ties":
            values = np.round(values)
        elif kind == "zeros":
            values[:] = 0
        levels.append(values.astype("f4"))
    return FeaturePyramid(levels)


def gallery_of(pyramid: FeaturePyramid, upsample: str = "bilinear") -> Gallery:
    gallery = Gallery(upsample)
    gallery.add(pyramid)
    return gallery


def assert_identical(found: Neighbors, expected: Neighbors) -> None:
    assert found.image_ids == expected.image_ids
    np.testing.assert_array_equal(found.sq_distances, expected.sq_distances)
    np.testing.assert_array_equal(found.image_index, expected.image_index)
    np.testing.assert_array_equal(found.cells, expected.cells)


def test_a_gpu_is_used_by_default() -> None:
    backend: Any = get_backend("faiss")
    assert backend.device == "cuda:0"
    assert backend.capabilities.max_k == 2048
    assert backend.capabilities.devices[:2] == ("cpu", "cuda:0")
    assert len(backend.capabilities.devices) == 1 + torch.cuda.device_count()


@pytest.mark.parametrize("kind", ["normal", "offset", "tiny", "huge", "ties", "zeros"])
@pytest.mark.parametrize("upsample", ["bilinear", "block"])
@pytest.mark.parametrize("k", [1, 5, 60])
def test_neighbors_are_those_of_the_core(kind: str, upsample: str, k: int) -> None:
    gallery, query = gallery_of(some(0, 5, kind), upsample), some(1, 2, kind)
    found = gallery.search(query, k, backend=FaissBackend("cuda"))
    assert_identical(found, gallery.search(query, k))


def test_the_gpu_does_the_work() -> None:
    gallery, query = gallery_of(some(0, 20)), some(1, 2)
    found = gallery.search(query, 3, backend="faiss")
    assert found.stats is not None
    assert found.stats.stages["faiss"] >= found.stats.pairs
    assert found.stats.stages["core"] == 0


@pytest.mark.parametrize("k", [2040, 2048, 2049, 2560])
def test_more_neighbors_than_a_gpu_gives_are_found_all_the_same(k: int) -> None:
    gallery, query = gallery_of(some(0, 10)), some(1, 1)
    assert_identical(gallery.search(query, k, backend="faiss"), gallery.search(query, k))


def test_the_last_gpu_gives_the_same() -> None:
    gallery, query = gallery_of(some(0, 5)), some(1, 2)
    last = f"faiss:cuda:{torch.cuda.device_count() - 1}"
    before = torch.cuda.current_device()
    assert_identical(gallery.search(query, 3, backend=last), gallery.search(query, 3))
    assert torch.cuda.current_device() == before


def test_threads_with_images_of_their_own_do_not_disturb_each_other() -> None:
    gallery, query = gallery_of(some(0, 6)), some(1, 1)
    ids = gallery.ids
    subsets = [ids[:2], ids[1:4], ids, ids[5:], ids]
    expected = [gallery.search(query, 3, images) for images in subsets]
    backend = FaissBackend("cuda:0")

    def search(images: list[str]) -> list[Neighbors]:
        return [gallery.search(query, 3, images, backend=backend) for _ in range(20)]

    with ThreadPoolExecutor(len(subsets)) as pool:
        for found, wanted in zip(pool.map(search, subsets), expected, strict=True):
            for each in found:
                assert_identical(each, wanted)


def test_beside_torch_on_the_same_gpu() -> None:
    gallery, query = gallery_of(some(0, 6)), some(1, 1)
    expected = gallery.search(query, 3)
    values = torch.ones(1000, 1000, device="cuda")
    for _ in range(5):
        product = values @ values
        assert_identical(gallery.search(query, 3, backend="faiss"), expected)
        assert bool((product == 1000).all())


@pytest.mark.parametrize("index", ["IVF16,Flat", "IVF16,PQ12"])
def test_approximate_indexes_find_more_with_more_lists(index: str) -> None:
    gallery, query = gallery_of(some(0, 10)), some(1, 1)
    few, all_of_them = (
        FaissBackend("cuda", index=index, nprobe=nprobe).recall(gallery, query, 3)
        for nprobe in (1, 16)
    )
    assert few < all_of_them
    if index == "IVF16,Flat":
        assert all_of_them == 1
