"""Searching a gallery in four shards by processes of a Ray cluster, against one process.

Synthetic pyramids with the shape of solar cells' (.51 MB an image), each a mixture of two real
ones. The cluster is on this machine: it is honest about processes, and not about networks. Answers
are compared to the bit; all ways take turns, with K = 50 images and with all. With 20,000 images
(10 GB) the copy in one folder may be left out, so that the memory holds all files: then "one
process" searches the shards.

    python benches/python/sharded.py [--images 2000] [--shards 4] [--queries 5] [--turns 3]
        [--folder DIR] [--raylets 1] [--only-shards] [--name sharded]
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import features_of, spread, timed, write_result
from large_gallery import synthetic

import knnspect as ks
from knnspect.backends import RayBackend
from knnspect.backends.ray_host import ShardHost, in_pieces
from knnspect.backends.ray_requests import Requests, merged
from knnspect.testing.expectations import expect_identical

N_NEIGHBORS, BATCH, N_CALLS = 50, 50, 200
LIMITS: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 200_000_000}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--turns", type=int, default=3, help="the first is not counted")
    parser.add_argument("--folder", type=Path, help="kept; what it holds already is not made anew")
    parser.add_argument("--raylets", type=int, default=1, help="nodes of the cluster, all here")
    parser.add_argument("--only-shards", action="store_true", help="no copy in one folder")
    parser.add_argument("--name", default="sharded", help="of the results")
    given = parser.parse_args()
    normal, query = features_of(None, given.queries + given.queries % 2)
    real = [np.asarray(level, np.float32) for level in normal.pyramid.levels]
    folder = Path(given.folder or tempfile.mkdtemp())
    try:
        galleries, seconds = built(folder, real, given)
        with cluster(given.raylets):
            figures = {
                "images": given.images,
                "shards": given.shards,
                "raylets": given.raylets,
                "queries": given.queries,
                "gigabytes": round(galleries["shards"].nbytes / 1e9, 3),
                "seconds_to_add": seconds,
                "cases": compared(
                    galleries, query.pyramid[: given.queries], given.turns, given.raylets
                ),
                "work": work(galleries["shards"], query.pyramid[:2]),
                "messages": messages(query.pyramid[:1]),
            }
    finally:
        if given.folder is None:
            shutil.rmtree(folder)
    write_result(given.name, figures)


def built(
    folder: Path, real: list[Any], given: argparse.Namespace
) -> tuple[dict[str, ks.Gallery], dict[str, float]]:
    """Return a gallery in several folders, and the same in one, and how long adding took."""
    folder.mkdir(exist_ok=True)
    create: dict[str, Callable[[Path], ks.Gallery]] = {
        "shards": partial(ks.ShardedGallery.create, shards=given.shards)
    }
    if not given.only_shards:
        create["one folder"] = ks.Gallery.create
    galleries, seconds = {}, {}
    for name, make in create.items():
        path = folder / name.replace(" ", "-")
        if not path.exists():
            seconds[name] = round(timed(partial(fill, make, path, real, given.images))[0], 2)
        galleries[name] = ks.Gallery.open(path)
        if len(galleries[name]) != given.images:
            raise SystemExit(f"{path}: has {len(galleries[name])} images: remove it")
    return galleries, seconds


def fill(make: Callable[[Path], ks.Gallery], path: Path, real: list[Any], n_images: int) -> None:
    """Make a gallery and add all images."""
    with make(path) as gallery:
        for first in range(0, n_images, BATCH):
            n = min(BATCH, n_images - first)
            gallery.add(synthetic(real, first, n), [f"{first + i:06d}" for i in range(n)])


@contextmanager
def cluster(n_raylets: int) -> Iterator[None]:
    """Start a cluster of some nodes on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    nodes: Any = None
    if n_raylets == 1:
        ray.init("local", log_to_driver=False, include_dashboard=False, **LIMITS)
    else:
        nodes = Cluster(True, head_node_args={"include_dashboard": False, **LIMITS})
        for _ in range(n_raylets - 1):
            nodes.add_node(**LIMITS)
        ray.init(nodes.address, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
        if nodes is not None:
            nodes.shutdown()


def compared(
    galleries: dict[str, ks.Gallery], query: ks.FeaturePyramid, n_turns: int, n_raylets: int
) -> dict[str, dict[str, Any]]:
    """Return the milliseconds of one query image by each way, in turns."""
    shards = galleries["shards"]
    assert isinstance(shards, ks.ShardedGallery)
    backends = {"ray": RayBackend()}
    n_shards = len(shards.shards.shards)
    if n_shards > n_raylets:
        backends["ray, a process for each shard"] = RayBackend(processes=n_shards)
    one = galleries.get("one folder", shards)
    searches = {"one process": partial(one.search, backend="rust")}
    if one is not shards:
        searches["shards in one process"] = partial(shards.search, backend="rust")
    for name, backend in backends.items():
        searches[name] = partial(shards.search, backend=backend)
    cases = {}
    for name, lists in lists_of(shards, query.n_images).items():
        times: dict[str, list[float]] = {way: [] for way in searches}
        for turn in range(n_turns):
            for image, images in enumerate(lists):
                found = {}
                for way, search in searches.items():
                    seconds, found[way] = timed(partial(search, query[image], 1, images))
                    if turn:  # the first is for the disk, and the processes
                        times[way].append(seconds)
                for way in searches:
                    expect_identical(way, found[way], found["one process"])
        cases[name] = {
            "ways": {way: spread(of_way) for way, of_way in times.items()},
            "overhead": {
                way: overhead(times[way], times["one process"])
                for way in searches
                if way != "one process"
            },
        }
    for backend in backends.values():
        backend.stop()
    return cases


def lists_of(gallery: ks.Gallery, n_queries: int) -> dict[str, list[list[str] | None]]:
    """Return for each case the images that each query image is compared with."""
    chance = np.random.default_rng(0)
    n_near = min(N_NEIGHBORS, len(gallery))
    near: list[list[str] | None] = [
        sorted(chance.choice(gallery.ids, n_near, replace=False).tolist()) for _ in range(n_queries)
    ]
    return {"K 50": near, "all images": [None] * n_queries}


def work(gallery: ks.Gallery, query: ks.FeaturePyramid) -> dict[str, dict[str, float]]:
    """Return the CPU milliseconds of a query image, in this process by one thread, step by step.

    Shards that are searched apart do not know of each other's distances, and each prepares the
    query.
    """
    assert isinstance(gallery, ks.ShardedGallery)
    n_shards = len(gallery.shards.shards)
    divisions = {
        "shards together": [range(n_shards)],
        "shards apart": [range(n, n + 1) for n in range(n_shards)],
    }
    figures = {}
    for name, lists in lists_of(gallery, query.n_images).items():
        spent: dict[str, list[float]] = {}

        def step(name: str, do: Callable[[], Any], spent: Any = spent) -> Any:
            start = time.process_time()
            done = do()
            spent.setdefault(name, []).append(1000 * (time.process_time() - start))
            return done

        for image, images in enumerate(lists):
            one = query[image]
            search = step("search prepared", partial(gallery.prepare, one, 1, images))
            owners = step("owners", partial(gallery.shards.owners, search.image_ids))
            for division, numbers in divisions.items():
                host = ShardHost()
                requests = Requests(search, gallery.shards, owners)
                asked = step(f"requests, {division}", lambda: [requests.of(n) for n in numbers])  # noqa: B023
                asked = [request for request in asked if request]
                for attempt in range(2):  # the first opens the shards
                    found = [
                        step(
                            division if attempt else f"{division}, opened and searched",
                            lambda: host.search(r.shards, r.asked, r.parts, None, 1, one.levels),  # noqa: B023
                        )
                        for r in asked
                    ]
                answers = list(zip(asked, found, strict=True))
                step(f"merge, {division}", partial(merged, search, answers, ()))
        figures[name] = {
            step: round(float(np.sum(times)) / query.n_images, 2) for step, times in spent.items()
        }
    return figures


def overhead(ours: list[float], others: list[float]) -> dict[str, float]:
    """Return what one way takes more than another, by the median of pairs in turns."""
    more = np.median(np.subtract(ours, others))
    return {
        "ms": round(1000 * float(more), 2),
        "percent": round(100 * float(more / np.median(others)), 1),
    }


def messages(query: ks.FeaturePyramid) -> dict[str, Any]:
    """Time what a search sends and receives, without a search."""
    import ray

    class Echo:
        def nothing(self, *_: Any) -> None:
            return None

        def answer(self, n_cells: int) -> tuple[Any, ...]:
            return tuple(np.zeros((n_cells, 1), kind) for kind in ("f8", "u4", "u4"))

    echo: Any = ray.remote(Echo)
    actor = echo.options(num_cpus=0).remote()
    levels = [np.ascontiguousarray(level) for level in query.levels]
    n_cells = levels[0].shape[1] * levels[0].shape[2]
    calls = {
        "an empty call": lambda: actor.nothing.remote(),
        "a query by way of the store": lambda: actor.nothing.remote(ray.put(levels)),
        "a query in pieces with the call": lambda: actor.nothing.remote(*in_pieces(levels)),
        "an answer": lambda: actor.answer.remote(n_cells),
    }
    times = {}

    def answered(call: Callable[[], Any]) -> None:
        ray.get(call())

    for name, call in calls.items():
        seconds = [timed(partial(answered, call))[0] for _ in range(N_CALLS)]
        times[name] = spread(seconds[10:])
    ray.kill(actor)
    return {"bytes_of_query": sum(level.nbytes for level in levels), **times}


if __name__ == "__main__":
    main()
