"""What a search costs where it is made as shards and images grow, measured piece by piece.

The pieces: a message to a process of a Ray cluster on this machine, empty, with a query, and with
an answer; the manifest of 1,000 shards, and the owners of ids; opening journals, and preparing
searches; and the merge of what 1,000 shards find for an image of solar cells' shape, flat and as a
tree. Answers of shards are made up, and merged by what merges real ones; the tree's merge is
compared with the flat one to the bit.

    python benches/python/cluster_growth.py [--shards 1000] [--ids 1000000] [--calls 300]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import spread, timed, write_result

import knnspect as ks
from knnspect import _core
from knnspect.cluster import Cluster, Worker
from knnspect.gallery.manifest import Manifest, read_manifest
from knnspect.search.shards import Shard, Shards

#: The shape of features of solar cells: levels 1 to 3 of EfficientNet-Lite0, of 224 pixels.
LEVELS = ((56, 56, 24), (28, 28, 40), (14, 14, 112))
N_CELLS = 56 * 56
#: How many answers one process merges where they are merged as a tree.
FAN_IN = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--ids", type=int, default=1_000_000)
    parser.add_argument("--calls", type=int, default=300)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        figures = {
            "shards": given.shards,
            "messages": messages(given.calls),
            "manifest": manifest(folder, given.shards, given.ids),
            "journals": journals(folder, given.ids),
            "merges": [merges(given.shards, k) for k in (1, 5)],
        }
    finally:
        shutil.rmtree(folder)
    write_result("cluster_growth", figures)


class Echo(Worker):
    """Answers with what it is asked for."""

    def nothing(self, *_: Any) -> None:
        """Take anything."""

    def answer(self, k: int) -> list[Any]:
        """Return as much as the nearest `k` of each cell of an image."""
        n = (N_CELLS, k)
        return [np.zeros(n), np.zeros(n, np.uint32), np.zeros(n, np.uint32)]


def messages(n_calls: int) -> dict[str, Any]:
    """Milliseconds of calls of one process of the cluster, one after the other and all at once."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    limits: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 400_000_000}
    ray.init("local", log_to_driver=False, include_dashboard=False, **limits)
    try:
        start = time.perf_counter()
        echo, _ = Cluster(None, "a benchmark").start(Echo)
        starting = time.perf_counter() - start
        query = [np.random.default_rng(0).random(size, "f4") for size in LEVELS]
        stored = ray.put(query)
        calls: dict[str, Callable[[], Any]] = {
            "empty": lambda: echo.nothing.remote(),
            "with a query in it": lambda: echo.nothing.remote(*query),
            "with a query that is put into the store each time": lambda: echo.nothing.remote(
                ray.put(query)
            ),
            "with a query that was put into the store": lambda: echo.nothing.remote(stored),
            "answer with k = 1": lambda: echo.answer.remote(1),
            "answer with k = 5": lambda: echo.answer.remote(5),
        }
        found: dict[str, Any] = {"seconds_to_start_a_process": round(starting, 2)}
        for name, call in calls.items():
            times = [timed(lambda: ray.get(call()))[0] for _ in range(n_calls)]  # noqa: B023
            together, _ = timed(lambda: ray.get([call() for _ in range(n_calls)]))  # noqa: B023
            found[name] = {
                "one_after_the_other": spread(times),
                "ms_each_of_many_at_once": round(1000 * together / n_calls, 3),
            }
        return found
    finally:
        ray.shutdown()


def manifest(folder: Path, n_shards: int, n_ids: int) -> dict[str, Any]:
    """Seconds to write and read the manifest of many shards, and to say where ids belong."""
    state = "0123456789abcdef" * 2
    shards = tuple(
        Shard(f"shard-{n:04d}", Path(f"/disks/{n % 50}/part-{n:04d}"), state, 10_000)
        for n in range(n_shards)
    )
    made = Manifest(1, "bilinear", "float32", Shards(folder, shards), n_shards)
    ids = [f"line-7/2026-11-27/{n:09d}.png" for n in range(n_ids)]
    return {
        "bytes": len(json.dumps([[s.name, str(s.path), s.state, s.n_images] for s in shards])),
        "write": spread([timed(made.write)[0] for _ in range(5)]),
        "read": spread([timed(lambda: read_manifest(folder))[0] for _ in range(5)]),
        "ids": n_ids,
        "owners_seconds_of_a_million_ids": round(
            timed(lambda: made.shards.owners(ids))[0] * 1e6 / n_ids, 2
        ),
    }


#: What a process of its own says of a gallery: memory that another has given back hides nothing.
OPENING = """
import json, os, sys, time
from pathlib import Path
import numpy as np
import knnspect as ks
from knnspect import _core
from knnspect.gallery.manifest import read_manifest

def measured(name, work):
    before, start = resident(), time.perf_counter()
    value = work()
    found[f"seconds_{name}"] = time.perf_counter() - start
    found[f"mb_{name}"] = (resident() - before) / 1e6
    return value

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

path, found = Path(sys.argv[1]), {}
query = ks.FeaturePyramid([np.ones((1, side, side, 1), "f4") for side in (4, 2, 1)])
shards = read_manifest(path).shards.shards
if sys.argv[2] == "journals":
    cores = measured(
        "to_open_journals",
        lambda: [_core.Gallery.open_at(one.path, False, one.state) for one in shards],
    )
else:
    gallery = measured("to_open_the_gallery", lambda: ks.Gallery.open(path))
    ids = measured("to_list_ids", lambda: gallery.ids)
    measured("to_prepare_a_search_of_all", lambda: gallery.prepare(query))
    measured("to_prepare_a_search_of_50", lambda: gallery.prepare(query, images=ids[:50]))
print(json.dumps(found))
"""


def journals(folder: Path, n_ids: int) -> dict[str, Any]:
    """Seconds and memory that opening takes, of images so small that these are the journal's."""
    path = folder / "gallery"
    batch = 50_000
    with ks.ShardedGallery.create(path, shards=4) as gallery:
        for first in range(0, n_ids, batch):
            n = min(batch, n_ids - first)
            ids = [f"line-7/2026-11-27/{first + i:09d}.png" for i in range(n)]
            levels = [np.ones((n, side, side, 1), "f4") for side in (4, 2, 1)]
            gallery.add(ks.FeaturePyramid(levels), ids)
    found: dict[str, float] = {}
    for what in ("journals", "gallery"):
        command = [sys.executable, "-c", OPENING, str(path), what]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found |= json.loads(done.stdout)
    found["mb_of_journals_on_the_disk"] = (
        sum(part.stat().st_size for part in path.rglob("journal")) / 1e6
    )
    by_million = {name: round(value * 1e6 / n_ids, 3) for name, value in found.items()}
    return {"ids": n_ids, "of_a_million_images": by_million}


def merges(n_shards: int, k: int) -> dict[str, Any]:
    """Milliseconds to merge what shards find for an image, flat, and as a tree."""
    rng = np.random.default_rng(k)
    found = []
    for _ in range(n_shards):
        sq_distances = np.sort(rng.chisquare(8, (N_CELLS, k)), axis=1)
        ranks = rng.integers(0, 10_000_000, (N_CELLS, k), np.uint32)
        cells = rng.integers(0, N_CELLS, (N_CELLS, k), np.uint32)
        found.append((sq_distances, ranks, cells))
    arrays = sum(part.nbytes for one in found for part in one)
    flat = [timed(lambda: _core.merge_found(found, k)) for _ in range(3)]
    groups = [found[at : at + FAN_IN] for at in range(0, n_shards, FAN_IN)]
    first = [timed(lambda: rescored(_core.merge_found(group, k))) for group in groups]  # noqa: B023
    last, merged = timed(lambda: _core.merge_found([one for _, one in first], k))
    for name in ("sq_distances", "ranks", "cells"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(flat[0][1], name))
    nearest = np.sort(np.concatenate([one[0] for one in found], axis=1), axis=1)[:, :k]
    np.testing.assert_array_equal(merged.sq_distances, nearest)
    return {
        "k": k,
        "mb_of_answers": round(arrays / 1e6, 1),
        "flat": spread([seconds for seconds, _ in flat]),
        "tree_of": FAN_IN,
        "tree_first_merges_each": spread([seconds for seconds, _ in first]),
        "tree_last_merge_ms": round(1000 * last, 2),
        "mb_of_answers_to_the_last": round(arrays / 1e6 * len(groups) / n_shards, 1),
    }


def rescored(merged: Any) -> tuple[Any, Any, Any]:
    """Return what was merged as what a shard has found."""
    return merged.sq_distances, merged.ranks, merged.cells


if __name__ == "__main__":
    main()
