"""SPADE's pixel stage: the rust backend against faiss-cpu's flat index, in one run.

Same features, same threads. For each query image the rivals take turns; faiss is timed as
``add + search`` on rows that are concatenated beforehand, which favours it. Answers are compared
before anything is timed: distances must agree to 1e-4, and where faiss names other cells, the
float64 distances must say that ours are no farther.

    python benches/python/matching.py hazelnut=PATH transistor=PATH
    python benches/python/matching.py            # without a dataset: solar cells
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from common import concatenated, features_of, spread, write_result
from numpy.typing import NDArray

import knnspect as ks


def row_numbers(neighbors: ks.Neighbors) -> NDArray[np.int64]:
    """Return neighbours as row numbers of the concatenated gallery, shape (n_cells, k)."""
    _, height, width, k = neighbors.sq_distances.shape
    cells = neighbors.cells.astype(np.int64)
    rows = neighbors.image_index * (height * width) + cells[..., 0] * width + cells[..., 1]
    places: NDArray[np.int64] = rows.astype(np.int64).reshape(-1, k)
    return places


def check_equal(
    neighbors: ks.Neighbors,
    flat: tuple[NDArray[np.float32], NDArray[np.int64]],
    query: NDArray[np.float64],
    gallery: NDArray[np.float64],
) -> float:
    """Fail when the answers differ by more than faiss's rounding; return the share that agrees."""
    ours, theirs = row_numbers(neighbors), flat[1]
    sq_distances = neighbors.sq_distances.reshape(ours.shape)
    np.testing.assert_allclose(sq_distances, flat[0], rtol=1e-4)
    # Where places differ, in float64: rank by rank, nothing of theirs is nearer than ours.
    for cell in np.nonzero((ours != theirs).any(axis=1))[0]:
        mine = np.square(gallery[ours[cell]] - query[cell]).sum(axis=1)
        other = np.sort(np.square(gallery[theirs[cell]] - query[cell]).sum(axis=1))
        assert (mine <= other * (1 + 1e-12)).all(), f"query cell {cell}: {mine} and {other}"
    return float((ours == theirs).mean())


def compare(
    dataset: Path | None, upsample: str, k: int, threads: int, repeats: int
) -> dict[str, Any]:
    """Time both rivals on every query image and return the figures."""
    train, test = features_of(dataset, 10)
    gallery = ks.Gallery(upsample=upsample)
    gallery.add(train.pyramid)
    rows = concatenated(train.pyramid, upsample)
    exact_rows = concatenated(train.pyramid, upsample, np.float64)
    faiss.omp_set_num_threads(threads)
    flat_seconds, rust_seconds, ratios, agreements = [], [], [], []
    for image in range(test.pyramid.n_images):
        query = test.pyramid[image]
        query_rows = concatenated(query, upsample)
        flat_times, rust_times = [], []
        for repeat in range(repeats):
            start = time.perf_counter()
            index = faiss.IndexFlatL2(rows.shape[1])
            index.add(rows)
            flat = index.search(query_rows, k)
            flat_times.append(time.perf_counter() - start)
            start = time.perf_counter()
            neighbors = gallery.search(query, k=k, threads=threads, backend="rust")
            rust_times.append(time.perf_counter() - start)
            if repeat == 0:
                exact_query = concatenated(query, upsample, np.float64)
                agreements.append(check_equal(neighbors, flat, exact_query, exact_rows))
        flat_seconds.append(float(np.median(flat_times)))
        rust_seconds.append(float(np.median(rust_times)))
        ratios.append(flat_seconds[-1] / rust_seconds[-1])
    return {
        "upsample": upsample,
        "k": k,
        "gallery_images": len(gallery),
        "threads": threads,
        "faiss": spread(flat_seconds),
        "rust": spread(rust_seconds),
        "ratio": {
            "min": round(min(ratios), 2),
            "median": round(float(np.median(ratios)), 2),
            "max": round(max(ratios), 2),
        },
        "places_equal": round(float(np.mean(agreements)), 6),
    }


def main() -> None:
    """Run the comparison and keep its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="*", metavar="NAME=PATH", help="in MVTec layout")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    datasets = dict(entry.split("=", 1) for entry in options.datasets) or {"elpv": None}
    figures: list[dict[str, Any]] = []
    for name, path in datasets.items():
        for upsample in ("bilinear", "block"):
            for k in (1, 5):
                entry = compare(
                    Path(path) if path else None, upsample, k, options.threads, options.repeats
                )
                figures.append({"dataset": name, **entry})
                print(
                    f"{name} {upsample} k={k}: faiss {entry['faiss']['median_ms']} ms, "
                    f"rust {entry['rust']['median_ms']} ms, ratio {entry['ratio']['median']}, "
                    f"places equal {entry['places_equal']}"
                )
    write_result("matching", {"faiss": faiss.__version__, "comparisons": figures})


if __name__ == "__main__":
    main()
