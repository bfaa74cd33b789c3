"""Learning normal images by two processes of a Ray cluster, against one process.

Solar cells (all of elpv) and mirrored copies of them, as files of a small size; features of
EfficientNet-Lite0 go to a folder, in shards or not. The cluster is on this machine: it is honest
about processes, and not about networks. The galleries are compared to the bit with that of one
process with as many threads as each process of the cluster has; features depend on these.

    python benches/python/cluster_fit.py [--images 5000] [--size 128] [--actors 2] [--folder DIR]
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
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result
from PIL import Image, ImageOps

import knnspect as ks
from knnspect.data import elpv_split
from knnspect.normal_features import Run, extract

#: Of each way: threads of each process, and whether it is on a cluster.
WAYS = {"one process, 1 thread": (1, False), "one process, 2 threads": (2, False)}
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--way", help="used by the script itself")
    given = parser.parse_args()
    if given.way is not None:
        learn(given.folder, given.way, given.size, given.actors)
        return
    folder = Path(given.folder or tempfile.mkdtemp())
    try:
        write_images(folder / "images", given.images, given.size)
        ways = {**WAYS, f"{given.actors} processes of a cluster, 1 thread each": (1, True)}
        figures = {way: measured(folder, way, given, *how) for way, how in ways.items()}
        one, two, cluster = (ks.Gallery.open(folder / way / "gallery") for way in ways)
        result = {
            "images": given.images,
            "size": given.size,
            "gigabytes": round(one.nbytes / 1e9, 3),
            "ways": figures,
            "cluster_is_bit_equal": n_other(one, cluster) == 0,
            "images_that_two_threads_round_otherwise": n_other(one, two),
        }
        assert result["cluster_is_bit_equal"]
    finally:
        if given.folder is None:
            shutil.rmtree(folder)
    write_result("cluster_fit", result)


def write_images(folder: Path, n_images: int, size: int) -> None:
    """Write solar cells, then mirrored ones, then upside down."""
    folder.mkdir(parents=True)
    cells = sorted(Path(elpv_split(1, 1, 1).train[0]).parent.glob("*.png"))
    for number in range(n_images):
        turn, cell = divmod(number, len(cells))
        with Image.open(cells[cell]) as opened:
            picture = opened.convert("L").resize((size, size), Image.Resampling.BILINEAR)
        if turn:
            picture = ImageOps.mirror(picture) if turn == 1 else ImageOps.flip(picture)
        picture.save(folder / f"{turn}-{cells[cell].name}")


def measured(
    folder: Path, way: str, given: argparse.Namespace, n_threads: int, on_cluster: bool
) -> dict[str, Any]:
    """Return the seconds of one way, in a process of its own, which has so many threads."""
    command = [sys.executable, __file__, "--folder", folder, "--way", way, "--size", given.size]
    command += ["--actors", given.actors if on_cluster else 0]
    environment = {**os.environ, "OMP_NUM_THREADS": str(n_threads)}
    done = subprocess.run(
        list(map(str, command)), env=environment, check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def learn(folder: Path, way: str, size: int, n_actors: int) -> None:
    """Learn the images in one way, and print the seconds."""
    start = time.perf_counter()
    cluster = None
    if n_actors:
        import ray

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        limits: dict[str, Any] = {"num_cpus": n_actors, "object_store_memory": 400_000_000}
        ray.init("local", log_to_driver=False, include_dashboard=False, **limits)
        cluster = ks.OnCluster(actors=n_actors, shards=n_actors, num_gpus=0)
    backbone = ks.Backbone(image_size=size, device="cpu")
    backbone.geometry  # noqa: B018 - loads it
    ready = time.perf_counter()
    run = Run(batch_size=BATCH, folder=folder / way, on_cluster=cluster)
    normal = extract(backbone, folder / "images", ks.Gallery(), run)
    end = time.perf_counter()
    seconds = {
        "seconds_to_start": round(ready - start, 2),
        "seconds": round(end - ready, 2),
        "images_a_second": round(len(normal.gallery) / (end - ready), 1),
    }
    sys.stdout.write(f"{json.dumps(seconds)}\n")


def n_other(one: ks.Gallery, other: ks.Gallery) -> int:
    """Return of how many images the features are not the same to the bit."""
    assert one.ids == other.ids
    return sum(
        any(
            not np.array_equal(a, b)
            for a, b in zip(one.pyramid([id_]).levels, other.pyramid([id_]).levels, strict=True)
        )
        for id_ in one.ids
    )


if __name__ == "__main__":
    main()
