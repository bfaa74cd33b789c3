"""A PatchCore bank (rows without levels): the rust backend against faiss-cpu, in one run.

The bank is a tenth of the rows of 50 normal images, picked as PatchCore picks them (greedy k-centre
on a random projection to 32 dimensions), or at random; a bank of random numbers, in which nothing
can be pruned, is compared with the exhaustive matcher instead. Same rows, same threads; for each
query image the rivals take turns, and faiss is timed as ``add + search``. Answers are compared
before anything is timed, as in ``matching.py``. The first search also makes the gallery ready, and
is told separately.

    python benches/python/flat.py hazelnut=PATH transistor=PATH
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import torch
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
from matching import check_equal
from numpy.typing import NDArray

import knnspect as ks
from knnspect.backends import RustBackend

Rows = NDArray[np.float32]


def greedy_k_centre(rows: Rows, n: int) -> NDArray[np.int64]:
    """Pick rows, each the farthest from those picked before, on a projection to 32 dimensions."""
    generator = torch.Generator().manual_seed(0)
    points = torch.from_numpy(rows - rows.mean(0))
    points = points @ torch.randn(rows.shape[1], 32, generator=generator)
    norms = points.square().sum(1)
    nearest = torch.full((len(points),), torch.inf)
    picked = [0]
    for _ in range(n - 1):
        last = picked[-1]
        torch.minimum(
            nearest, torch.addmv(norms, points, points[last], alpha=-2) + norms[last], out=nearest
        )
        nearest[last] = -1  # what rounding leaves of it must not be picked again
        picked.append(int(nearest.argmax()))
    return np.array(picked)


def banks_of(rows: Rows) -> dict[str, Rows]:
    """Return the banks to compare; each a tenth of the rows."""
    n = len(rows) // 10
    rng = np.random.default_rng(0)
    return {
        "coreset": rows[greedy_k_centre(rows, n)],
        "sample": rows[rng.choice(len(rows), n, replace=False)],
        "noise": rng.standard_normal((n, rows.shape[1]), dtype=np.float32),
    }


def compare(
    bank: Rows, query: ks.FeaturePyramid, k: int, threads: int, repeats: int
) -> dict[str, Any]:
    """Time all rivals on every query image and return the figures."""
    _, height, width, channels = query.levels[0].shape
    images = ks.FeaturePyramid([bank.reshape(-1, height, width, channels)])

    def flat(rows: Rows) -> Any:
        index = faiss.IndexFlatL2(channels)
        index.add(bank)
        return index.search(rows, k)

    faiss.omp_set_num_threads(threads)
    first = []
    for _ in range(repeats):
        gallery = ks.Gallery()
        gallery.add(images)
        first.append(timed(lambda: gallery.search(query[0], k=k, threads=threads))[0])  # noqa: B023
    seconds: dict[str, list[float]] = {"faiss": [], "exhaustive": [], "rust": []}
    agreements = []
    for image in range(query.n_images):
        one = query[image]
        rows = one.levels[0].reshape(-1, channels)
        rivals: dict[str, Callable[[], Any]] = {
            "faiss": lambda: flat(rows),  # noqa: B023
            "exhaustive": lambda: gallery.search(
                one,  # noqa: B023
                k=k,
                threads=threads,
                backend=RustBackend(matcher="exhaustive"),
            ),
            "rust": lambda: gallery.search(one, k=k, threads=threads),  # noqa: B023
        }
        ours, others = rivals["rust"](), rivals["exhaustive"]()
        assert_same(ours, others)
        exact = rows.astype(np.float64), bank.astype(np.float64)
        agreements.append(check_equal(ours, rivals["faiss"](), *exact))
        times: dict[str, list[float]] = {name: [] for name in rivals}
        for _ in range(repeats):
            for name, search in rivals.items():
                times[name].append(timed(search)[0])
        for name in rivals:
            seconds[name].append(float(np.median(times[name])))

    return {
        "rows": len(bank),
        "channels": channels,
        "queries": height * width,
        "k": k,
        "threads": threads,
        **{name: spread(values) for name, values in seconds.items()},
        "first_search": spread(first),
        "faiss_over_rust": ratios(seconds["faiss"], seconds["rust"]),
        "exhaustive_over_rust": ratios(seconds["exhaustive"], seconds["rust"]),
        "places_equal": round(float(np.mean(agreements)), 6),
    }


def main() -> None:
    """Run the comparison and keep its figures."""
    datasets, options = comparison_options(__doc__.splitlines()[0])
    figures: list[dict[str, Any]] = []
    for name, path in datasets.items():
        train, test = features_of(path, 10)
        height, width, _ = train.pyramid.shapes[0]
        rows = concatenated(test.pyramid, "bilinear")
        real = ks.FeaturePyramid([rows.reshape(-1, height, width, rows.shape[1])])
        numbers = np.random.default_rng(1).standard_normal(real.levels[0].shape, dtype=np.float32)
        for kind, bank in banks_of(concatenated(train.pyramid, "bilinear")).items():
            query = ks.FeaturePyramid([numbers]) if kind == "noise" else real
            for k in (1, 5):
                entry = compare(bank, query, k, options.threads, options.repeats)
                figures.append({"dataset": name, "bank": kind, **entry})
                print(
                    f"{name} {kind} k={k}: faiss {entry['faiss']['median_ms']} ms, "
                    f"exhaustive {entry['exhaustive']['median_ms']} ms, "
                    f"rust {entry['rust']['median_ms']} ms "
                    f"(the first {entry['first_search']['median_ms']} ms), "
                    f"ratio {entry['faiss_over_rust']['median']}, "
                    f"places equal {entry['places_equal']}",
                    flush=True,
                )
    write_result("flat", {"faiss": faiss.__version__, "comparisons": figures})


if __name__ == "__main__":
    main()
