"""A gallery of 20,000 images in a folder: built under a limit, opened, searched, changed.

Synthetic pyramids with the shape of solar cells' (56x56x24 + 28x28x40 + 14x14x112, .51 MB an
image): each a mixture of two real ones, so that they can be pruned as real ones can. Each step is a
process of its own, watched for its anonymous memory (RssAnon every 2 ms):

- build: in batches of 16 under a limit of 1 GB;
- open: from the page cache, median of several;
- search: 10 query images against 50 images each, on the disk and the same images in memory, in
  turns, the same answers; cached, so that what is compared is not the disk;
- growth: adding 50 images to a gallery of 10,000 and to an empty one, in turns.

    python benches/python/large_gallery.py [--images 20000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import assert_same, features_of, ratios, spread, timed, write_result
from numpy.typing import NDArray

import knnspect as ks
from knnspect.memory import PeakMemory, anonymous_bytes

BATCH, N_NEIGHBORS, LIMIT = 16, 50, 10**9


def synthetic(real: list[NDArray[np.float32]], first: int, n: int) -> ks.FeaturePyramid:
    """Return images ``first`` to ``first + n``: mixtures of two real ones, the same every time."""
    rng = np.random.default_rng([first, 7])
    one, other = rng.integers(len(real[0]), size=(2, n))
    share = rng.random((n, 1, 1, 1), dtype=np.float32)
    return ks.FeaturePyramid(
        [share * level[one] + (np.float32(1) - share) * level[other] for level in real]
    )


def real_levels(file: Path) -> list[NDArray[np.float32]]:
    """Return the real pyramids that synthetic ones are mixed from, memory-mapped."""
    return [np.load(file.with_suffix(f".{level}.npy"), mmap_mode="r") for level in range(3)]


def build(folder: Path, real: list[NDArray[np.float32]], n_images: int) -> dict[str, Any]:
    """Build the gallery in batches; more memory than the limit is an error."""
    with PeakMemory() as memory:
        seconds, _ = timed(lambda: _fill(folder, real, n_images))
    assert memory.peak <= LIMIT
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {
        "images": n_images,
        "bytes": size,
        "seconds": round(seconds, 1),
        "limit_mb": LIMIT / 1e6,
        "peak_anonymous_mb": round(memory.peak / 1e6, 1),
    }


def _fill(folder: Path, real: list[NDArray[np.float32]], n_images: int) -> None:
    with ks.Gallery.create(folder) as gallery:
        for first in range(0, n_images, BATCH):
            n = min(BATCH, n_images - first)
            ids = [f"{number:06d}" for number in range(first, first + n)]
            gallery.add(synthetic(real, first, n), ids)


def open_times(folder: Path, repeats: int = 9) -> dict[str, Any]:
    """Time opening in this process, each time anew; the first one apart."""
    seconds = [timed(lambda: ks.Gallery.open(folder))[0] for _ in range(repeats + 1)]
    return {"first_ms": round(1000 * seconds[0], 1), **spread(seconds[1:])}


def search_memory(folder: Path, queries: Path) -> dict[str, Any]:
    """Open and search, as a process does that does nothing else."""
    start = anonymous_bytes() or 0
    with PeakMemory() as memory:
        gallery = ks.Gallery.open(folder)
        for query, ids in _searches(gallery.ids, queries):
            gallery.search(query, images=ids, threads=2)
    return {
        "peak_anonymous_mb": round(memory.peak / 1e6, 1),
        "of_which_before_opening_mb": round(start / 1e6, 1),
    }


def _searches(ids: list[str], queries: Path) -> Iterator[tuple[ks.FeaturePyramid, list[str]]]:
    levels = real_levels(queries)
    rng = np.random.default_rng(0)
    for image in range(len(levels[0])):
        chosen = rng.choice(len(ids), N_NEIGHBORS, replace=False)
        query = ks.FeaturePyramid([np.array(level[image : image + 1]) for level in levels])
        yield query, [ids[number] for number in sorted(chosen)]


def compare_search(folder: Path, queries: Path, repeats: int) -> dict[str, Any]:
    """Search the same images on the disk and in memory, in turns."""
    on_disk = ks.Gallery.open(folder)
    seconds: dict[str, list[float]] = {"disk": [], "memory": []}
    first = []
    for query, ids in _searches(on_disk.ids, queries):
        in_memory = ks.Gallery()
        in_memory.add(on_disk.pyramid(ids), ids)  # reads and verifies them: cached from here on
        times: dict[str, list[float]] = {"disk": [], "memory": []}
        for repeat in range(repeats + 1):
            found = {}
            for name, gallery in (("disk", on_disk), ("memory", in_memory)):
                taken, found[name] = timed(
                    lambda g=gallery, q=query, i=ids: g.search(q, images=i, threads=2)  # type: ignore[misc]
                )
                if repeat:
                    times[name].append(taken)
            if not repeat:
                assert_same(found["disk"], found["memory"])
        for name, values in times.items():
            seconds[name].append(float(np.median(values)))
        anew = timed(lambda q=query, i=ids: ks.Gallery.open(folder).search(q, images=i))  # type: ignore[misc]
        first.append(anew[0])
    return {
        "disk": spread(seconds["disk"]),
        "memory": spread(seconds["memory"]),
        "disk_over_memory": ratios(seconds["disk"], seconds["memory"]),
        "open_verify_and_search": spread(first),
    }


def growth(folder: Path, real: list[NDArray[np.float32]], repeats: int = 5) -> dict[str, Any]:
    """Add 50 images to a gallery of 10,000 and to an empty one, in turns."""
    more = synthetic(real, 10**6, 50)
    seconds: dict[str, list[float]] = {"empty": [], "10000": []}
    _fill(folder / "large", real, 10_000)
    for repeat in range(repeats):
        with ks.Gallery.create(folder / f"empty{repeat}") as gallery:
            seconds["empty"].append(timed(lambda g=gallery: g.add(more))[0])  # type: ignore[misc]
        with ks.Gallery.open(folder / "large", "r+") as gallery:
            seconds["10000"].append(timed(lambda g=gallery: g.add(more))[0])  # type: ignore[misc]
    return {
        "empty": spread(seconds["empty"]),
        "10000": spread(seconds["10000"]),
        "ratio": ratios(seconds["10000"], seconds["empty"]),
    }


def main() -> None:
    """Measure, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="where 20 GB have room")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--step", choices=["build", "open", "memory", "search", "growth"])
    options = parser.parse_args()
    if options.step:
        print(json.dumps(_step(options)))
        return
    base = Path(tempfile.mkdtemp(dir=options.folder, prefix="knnspect-bench-"))
    try:
        train, test = features_of(None, 10, n_train=64)
        for name, features in (("train", train), ("test", test)):
            for number, level in enumerate(features.pyramid.levels):
                np.save(base / f"{name}.{number}.npy", level)
        figures = {}
        for step in ("build", "open", "memory", "search", "growth"):
            command = [sys.executable, __file__, "--step", step, "--folder", str(base)]
            command += ["--images", str(options.images), "--repeats", str(options.repeats)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            figures[step] = json.loads(done.stdout)
            print(step, figures[step])
    finally:
        shutil.rmtree(base)
    write_result("large_gallery", {"n_neighbors": N_NEIGHBORS, **figures})


def _step(options: argparse.Namespace) -> dict[str, Any]:
    folder, train = options.folder / "gallery", options.folder / "train"
    if options.step == "build":
        return build(folder, real_levels(train), options.images)
    if options.step == "open":
        return open_times(folder)
    if options.step == "memory":
        return search_memory(folder, options.folder / "test")
    if options.step == "search":
        return compare_search(folder, options.folder / "test", options.repeats)
    return growth(options.folder, real_levels(train))


if __name__ == "__main__":
    main()
