"""Every row of 400 images, searched exactly, against a flat index on a part of the rows.

A coreset is what other tools search instead of the whole gallery. How long faiss-cpu's
``IndexFlatL2`` takes depends on the number of rows alone, so those of the "coresets" are picked at
random. Solar cells, EfficientNet-Lite0, levels 1-3, 224 px, bilinear, k 1; rivals take turns. Also
told: how much farther the nearest row of the part is than that of the whole.

    python benches/python/coreset.py
"""

from __future__ import annotations

import argparse
from typing import Any

import faiss
import numpy as np
from common import concatenated, features_of, ratios, spread, timed, write_result
from numpy.typing import NDArray

import knnspect as ks


def picked_rows(pyramid: ks.FeaturePyramid, share: float) -> NDArray[np.float32]:
    """Return a share of the rows of every image, chosen at random."""
    rng = np.random.default_rng(0)
    parts = []
    for image in range(pyramid.n_images):
        rows = concatenated(pyramid[image], "bilinear")
        n = round(share * len(rows))
        parts.append(rows[rng.choice(len(rows), n, replace=False)])
    return np.concatenate(parts)


def main() -> None:
    """Measure, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    faiss.omp_set_num_threads(options.threads)
    train, test = features_of(None, 6, n_train=400)
    gallery = ks.Gallery()
    gallery.add(train.pyramid)
    parts = {share: picked_rows(train.pyramid, share) for share in (0.01, 0.1)}
    seconds: dict[str, list[float]] = {"rust": [], **{str(share): [] for share in parts}}
    farther: dict[str, list[float]] = {str(share): [] for share in parts}
    for image in range(test.pyramid.n_images):
        query = test.pyramid[image]
        rows = concatenated(query, "bilinear")

        def flat(part: NDArray[np.float32], rows: NDArray[np.float32] = rows) -> Any:
            index = faiss.IndexFlatL2(part.shape[1])
            index.add(part)
            return index.search(rows, 1)

        times: dict[str, list[float]] = {name: [] for name in seconds}
        for _ in range(options.repeats):
            taken, exact = timed(lambda q=query: gallery.search(q, threads=options.threads))  # type: ignore[misc]
            times["rust"].append(taken)
            for share, part in parts.items():
                taken, found = timed(lambda p=part: flat(p))  # type: ignore[misc]
                times[str(share)].append(taken)
                nearest = exact.sq_distances.ravel()
                assert (found[0].ravel() >= nearest * (1 - 1e-4) - 1e-4).all()
                farther[str(share)].append(float(np.median(np.sqrt(found[0].ravel() / nearest))))
        for name in seconds:
            seconds[name].append(float(np.median(times[name])))
    figures = {
        "gallery_images": len(gallery),
        "rust": spread(seconds["rust"]),
        "parts": {
            str(share): {
                "rows": len(part),
                "faiss": spread(seconds[str(share)]),
                "ratio": ratios(seconds[str(share)], seconds["rust"]),
                "nearest_is_farther_by": round(float(np.median(farther[str(share)])), 3),
            }
            for share, part in parts.items()
        },
    }
    print(figures)
    write_result("coreset", {"faiss": faiss.__version__, **figures})


if __name__ == "__main__":
    main()
