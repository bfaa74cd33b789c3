"""The contract of exactness for galleries in shards, whose answers are merged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from on_shards import OnShards, merging_here

from knnspect import FeaturePyramid, Gallery, ShardedGallery
from knnspect.backends import Backend
from knnspect.testing import Check, backend_checks
from knnspect.testing.expectations import expect_identical

pytest.importorskip("ray")


def every_check() -> Iterator[Any]:
    # Each shard by a process of its own, or several by one.
    backends = {
        f"{n_shards}-shards-{n_processes}-processes": OnShards(merging_here(n_processes), n_shards)
        for n_shards, n_processes in ((1, 1), (2, 2), (4, 1), (7, 3))
    }
    for check in backend_checks(n_cases=12):
        for name, backend in backends.items():
            yield pytest.param(check, backend, id=f"{check}-{name}")


@pytest.mark.parametrize(("check", "backend"), list(every_check()))
def test_shards(check: Check[Backend], backend: Backend) -> None:
    check(backend)


def coarse_values(n: int, seed: int) -> FeaturePyramid:
    """Pyramids of few values, whose distances are often equal."""
    rng = np.random.default_rng(seed)
    sizes = ((n, 6, 6, 3), (n, 3, 3, 2))
    return FeaturePyramid([rng.integers(-1, 2, size).astype("f4") for size in sizes])


@pytest.mark.parametrize("n_processes", [1, 2, 5])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_every_dtype_window_and_k_with_ties_across_shards(
    tmp_path: Path, dtype: str, n_processes: int
) -> None:
    with ShardedGallery.create(tmp_path / "g", dtype=dtype, shards=5) as gallery:
        gallery.add(coarse_values(14, 0))
    whole = Gallery(dtype=dtype)
    whole.add(coarse_values(14, 0))
    query, backend = coarse_values(3, 1), merging_here(n_processes)
    smallest = min(shard.n_images for shard in gallery.shards.shards)
    for k in (1, 9, 36 * smallest + 1):
        expected = whole.search(query, k)
        expect_identical(f"k = {k}", gallery.search(query, k, backend=backend), expected)
    ties = expected.sq_distances[..., 1:] == expected.sq_distances[..., :-1]
    owners = gallery.shards.owners(whole.ids)[expected.image_index]
    assert np.any(ties & (owners[..., 1:] != owners[..., :-1])), "no tie across shards"
    for window, k in ((0, 3), ((2, None), 20), (1, 56)):
        expected = whole.search(query, k, window=window)
        found = gallery.search(query, k, window=window, backend=backend)
        expect_identical(f"window {window}", found, expected)
    lists = [whole.ids[:1], whole.ids[3:], whole.ids]
    expect_identical(
        "lists", gallery.search(query, 5, lists, backend=backend), whole.search(query, 5, lists)
    )
