"""A coreset of a gallery in four shards, picked by processes of a Ray cluster, against one process.

Synthetic pyramids with the shape of solar cells' (3,136 rows an image), each a mixture of two real
ones; 192 images are 602,112 rows, of which 1 % is picked. The cluster is on this machine: it is
honest about processes, and not about networks. Both pick the same rows in the same order, and have
all cores of the machine; they take turns. The coreset in two rounds is timed beside them.

    python benches/python/cluster_coreset.py [--images 192] [--shards 4] [--size .01] [--turns 3]
"""

from __future__ import annotations

import argparse
import os
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import features_of, ratios, spread, timed, write_result
from large_gallery import synthetic

import knnspect as ks

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--size", type=float, default=0.01)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    normal, _ = features_of(None, 2, n_train=64)
    real = [np.asarray(level, np.float32) for level in normal.pyramid.levels]
    folder = Path(tempfile.mkdtemp())
    try:
        with ks.ShardedGallery.create(folder / "sharded", shards=given.shards) as gallery:
            for first in range(0, given.images, BATCH):
                n = min(BATCH, given.images - first)
                gallery.add(
                    synthetic(real, first, n),
                    [f"{number:06d}" for number in range(first, first + n)],
                )
        figures = measured(ks.ShardedGallery.open(folder / "sharded"), given.size, given.turns)
    finally:
        shutil.rmtree(folder)
    write_result("cluster_coreset", {"shards": given.shards, "share": given.size, **figures})


def measured(gallery: ks.ShardedGallery, size: float, turns: int) -> dict[str, Any]:
    """Return the seconds of each way, in turns, and how the coresets compare."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    limits: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 200_000_000}
    ray.init("local", log_to_driver=False, include_dashboard=False, **limits)
    ways = {
        "one process": {},
        "ray": {"cluster": "auto"},
        "ray, two rounds": {"cluster": "auto", "two_rounds": True},
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    coresets = {}
    try:
        for turn in range(turns + 1):
            for way, how in ways.items():
                taken, coresets[way] = timed(lambda how=how: gallery.coreset(size, **how))  # type: ignore[misc]
                print(way, round(taken, 2), flush=True)
                if turn:  # the first is for the disk
                    seconds[way].append(taken)
            assert pickle.dumps(coresets["ray"]) == pickle.dumps(coresets["one process"])
    finally:
        ray.shutdown()
    return {
        "rows": gallery.n_rows,
        "picked": len(coresets["ray"]),
        "same_picks": True,
        "ways": {way: spread(of_way) for way, of_way in seconds.items()},
        "ray_over_one_process": ratios(seconds["ray"], seconds["one process"]),
        "two_rounds_over_one_process": ratios(seconds["ray, two rounds"], seconds["one process"]),
        "radius": {way: round(float(np.sqrt(c.sq_radius or 0)), 3) for way, c in coresets.items()},
        "radius_of_two_rounds_as_found": round(
            found_radius(gallery, coresets["ray, two rounds"]), 3
        ),
    }


def found_radius(gallery: ks.Gallery, coreset: ks.Coreset) -> float:
    """Return how far the farthest row is from a coreset."""
    ids = gallery.ids
    parts = [gallery.pyramid(ids[start : start + BATCH]) for start in range(0, len(ids), BATCH)]
    return max(float(np.sqrt(coreset.search(part).sq_distances.max())) for part in parts)


if __name__ == "__main__":
    main()
