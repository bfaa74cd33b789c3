"""Searching a gallery in four shards by processes of a Ray cluster, against one process.

Synthetic pyramids with the shape of solar cells' (.51 MB an image), each a mixture of two real
ones. The cluster is on this machine: it is honest about processes, and not about networks. Answers
are compared to the bit; both take turns, with K = 50 images and with all.

    python benches/python/sharded.py [--images 2000] [--shards 4] [--queries 5] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import features_of, spread, timed, write_result
from large_gallery import synthetic

import knnspect as ks
from knnspect.backends import RayBackend
from knnspect.testing.expectations import expect_identical

N_NEIGHBORS, BATCH = 50, 50


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    normal, query = features_of(None, given.queries + given.queries % 2)
    real = [np.asarray(level, np.float32) for level in normal.pyramid.levels]
    folder = Path(given.folder or tempfile.mkdtemp())
    try:
        whole, sharded, seconds = built(folder, real, given.images, given.shards)
        figures = {
            "images": given.images,
            "shards": given.shards,
            "queries": given.queries,
            "gigabytes": round(whole.nbytes / 1e9, 3),
            "seconds_to_add": seconds,
            "cases": compared(whole, sharded, query.pyramid[: given.queries]),
        }
    finally:
        if given.folder is None:
            shutil.rmtree(folder)
    write_result("sharded", figures)


def built(
    folder: Path, real: list[Any], n_images: int, n_shards: int
) -> tuple[ks.Gallery, ks.Gallery, dict[str, float]]:
    """Return a gallery in one folder, the same in several, and how long adding took.

    What is there already is opened, and not filled again.
    """
    seconds = {}
    create = {
        "whole": ks.Gallery.create,
        "sharded": partial(ks.ShardedGallery.create, shards=n_shards),
    }
    for name, create_it in create.items():
        path = folder / name
        if path.exists() and len(ks.Gallery.open(path)) == n_images:
            continue

        def fill(path: Path = path, create_it: Callable[[Path], ks.Gallery] = create_it) -> None:
            with create_it(path) as gallery:
                for first in range(0, n_images, BATCH):
                    n = min(BATCH, n_images - first)
                    ids = [f"{first + i:06d}" for i in range(n)]
                    gallery.add(synthetic(real, first, n), ids)

        seconds[name] = round(timed(fill)[0], 2)
    return ks.Gallery.open(folder / "whole"), ks.Gallery.open(folder / "sharded"), seconds


def compared(
    whole: ks.Gallery, sharded: ks.Gallery, query: ks.FeaturePyramid
) -> dict[str, dict[str, Any]]:
    """Return the milliseconds of one query image by either way, in turns."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    limits: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 200_000_000}
    ray.init("local", log_to_driver=False, include_dashboard=False, **limits)
    backend = RayBackend()
    chance = np.random.default_rng(0)
    near = [
        sorted(chance.choice(whole.ids, min(N_NEIGHBORS, len(whole)), replace=False).tolist())
        for _ in range(query.n_images)
    ]
    cases = {}
    try:
        for name, lists in (("K 50", near), ("all images", [None] * query.n_images)):
            times: dict[str, list[float]] = {"one process": [], "in-process shards": [], "ray": []}
            for turn in range(3):
                for image, images in enumerate(lists):
                    ways = {
                        "one process": lambda: whole.search(query[image], 1, images),  # noqa: B023
                        "in-process shards": lambda: sharded.search(query[image], 1, images),  # noqa: B023
                        "ray": lambda: sharded.search(query[image], 1, images, backend=backend),  # noqa: B023
                    }
                    found = {}
                    for way, search in ways.items():
                        seconds, found[way] = timed(search)
                        if turn:  # the first is for the disk, and the processes
                            times[way].append(seconds)
                    for way in ways:
                        expect_identical(way, found[way], found["one process"])
            median = {way: 1000 * float(np.median(of_way)) for way, of_way in times.items()}
            overhead = median["ray"] - median["one process"]
            cases[name] = {
                "ways": {way: spread(of_way) for way, of_way in times.items()},
                "ray_overhead_ms": round(overhead, 2),
                "ray_overhead_percent": round(100 * overhead / median["one process"], 1),
            }
    finally:
        backend.stop()
        ray.shutdown()
    return cases


if __name__ == "__main__":
    main()
