"""SPADE's pixel stage: the rust backend against faiss-cpu's flat index, in one run.

Same features, same threads. For each query image the rivals take turns, the rust backend's
exhaustive matcher among them; faiss is timed as ``add + search`` on rows that are concatenated
beforehand, which favours it. Answers are compared in the first turn: those of the matchers must
be the same to the bit, distances must agree with faiss's to 1e-4, and where faiss names other
cells, the float64 distances must say that ours are no farther.

    python benches/python/matching.py hazelnut=PATH transistor=PATH
    python benches/python/matching.py            # without a dataset: solar cells
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
from common import (
    assert_same,
    comparison_options,
    concatenated,
    features_of,
    ratios,
    spread,
    timed,
    write_result,
)
from numpy.typing import NDArray

import knnspect as ks
from knnspect.backends import RustBackend

#: Network, upsampling and k of each comparison.
CASES = [
    ("efficientnet_lite0", "block", 1),
    ("efficientnet_lite0", "bilinear", 1),
    ("efficientnet_lite0", "bilinear", 5),
    ("efficientnet_lite2", "bilinear", 1),
]


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
    atol: float = 0,
) -> float:
    """Fail when the answers differ by more than faiss's rounding; return the share that agrees.

    `atol` is what faiss's distances may be off where they are small beside the features' norms.
    """
    ours, theirs = row_numbers(neighbors), flat[1]
    sq_distances = neighbors.sq_distances.reshape(ours.shape)
    np.testing.assert_allclose(sq_distances, flat[0], rtol=1e-4, atol=atol)
    # Where places differ, in float64: rank by rank, nothing of theirs is nearer than ours.
    for cell in np.nonzero((ours != theirs).any(axis=1))[0]:
        mine = np.square(gallery[ours[cell]] - query[cell]).sum(axis=1)
        other = np.sort(np.square(gallery[theirs[cell]] - query[cell]).sum(axis=1))
        assert (mine <= other * (1 + 1e-12)).all(), f"query cell {cell}: {mine} and {other}"
    return float((ours == theirs).mean())


def compare(
    train: ks.FeaturePyramid,
    test: ks.FeaturePyramid,
    upsample: str,
    k: int,
    threads: int,
    repeats: int,
) -> dict[str, Any]:
    """Time all rivals on every query image and return the figures."""
    gallery = ks.Gallery(upsample=upsample)
    gallery.add(train)
    rows = concatenated(train, upsample)
    exact_rows = concatenated(train, upsample, np.float64)
    faiss.omp_set_num_threads(threads)
    seconds: dict[str, list[float]] = {"faiss": [], "exhaustive": [], "rust": []}
    agreements = []
    shares: dict[str, list[float]] = {}
    for image in range(test.n_images):
        query = test[image]
        query_rows = concatenated(query, upsample)

        def flat(query_rows: NDArray[np.float32] = query_rows) -> Any:
            index = faiss.IndexFlatL2(rows.shape[1])
            index.add(rows)
            return index.search(query_rows, k)

        def search(matcher: str, query: ks.FeaturePyramid = query) -> ks.Neighbors:
            return gallery.search(query, k=k, threads=threads, backend=RustBackend(matcher=matcher))

        rivals: dict[str, Callable[[], Any]] = {
            "faiss": flat,
            "exhaustive": lambda search=search: search("exhaustive"),  # type: ignore[misc]
            "rust": lambda search=search: search("auto"),  # type: ignore[misc]
        }
        times: dict[str, list[float]] = {name: [] for name in rivals}
        for repeat in range(repeats):
            found = {}
            for name, rival in rivals.items():
                taken, found[name] = timed(rival)
                times[name].append(taken)
            if repeat == 0:
                assert_same(found["rust"], found["exhaustive"])
                exact_query = concatenated(query, upsample, np.float64)
                agreements.append(
                    check_equal(found["rust"], found["faiss"], exact_query, exact_rows)
                )
                for stage, share in found["rust"].stats.shares.items():
                    shares.setdefault(stage, []).append(share)
        for name in rivals:
            seconds[name].append(float(np.median(times[name])))
    return {
        "upsample": upsample,
        "k": k,
        "gallery_images": len(gallery),
        "threads": threads,
        **{name: spread(values) for name, values in seconds.items()},
        "faiss_ratio": ratios(seconds["faiss"], seconds["rust"]),
        "exhaustive_ratio": ratios(seconds["exhaustive"], seconds["rust"]),
        "shares": {stage: round(float(np.median(s)), 5) for stage, s in shares.items()},
        "places_equal": round(float(np.mean(agreements)), 6),
    }


def main() -> None:
    """Run the comparison and keep its figures."""
    datasets, options = comparison_options(__doc__.splitlines()[0])
    figures: list[dict[str, Any]] = []
    for backbone, upsample, k in CASES:
        for name, path in datasets.items():
            train, test = features_of(path, 10, backbone=backbone)
            entry = compare(
                train.pyramid, test.pyramid, upsample, k, options.threads, options.repeats
            )
            figures.append({"dataset": name, "backbone": backbone, **entry})
            print(
                f"{name} {backbone} {upsample} k={k}: faiss {entry['faiss']['median_ms']} ms, "
                f"exhaustive {entry['exhaustive']['median_ms']} ms, "
                f"rust {entry['rust']['median_ms']} ms, ratio {entry['faiss_ratio']}, "
                f"places equal {entry['places_equal']}",
                flush=True,
            )
            write_result("matching", {"faiss": faiss.__version__, "comparisons": figures})


if __name__ == "__main__":
    main()
