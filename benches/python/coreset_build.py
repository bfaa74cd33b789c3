"""Greedy k-centre coresets: `Gallery.coreset` against anomalib's `KCenterGreedy`, in one run.

1 % and 10 % of the rows of 50 normal images, EfficientNet-Lite0, levels 1-3, 224 px, bilinear.
Both rivals get the same rows and as many threads; anomalib runs in its own interpreter, at 1 % only
(10 % takes it some twenty minutes), and its time is that of `select_coreset_idxs`. The
covering radius is the largest distance of any row to its nearest picked row, for both in the
features as they are.
Before anything is timed, the first picks are compared with a pass over all rows after each pick in
float64, and the radius with distances to all picks. Datasets that are not named keep their figures.

    python benches/python/coreset_build.py hazelnut=PATH transistor=PATH --anomalib PYTHON
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, features_of, spread, timed, write_result
from numpy.typing import NDArray

import knnspect as ks

Rows = NDArray[np.float32]

ANOMALIB = """
import json, sys, time
from importlib.metadata import version
import numpy as np
import torch
from anomalib.models.components import KCenterGreedy

torch.set_num_threads(int(sys.argv[2]))
torch.manual_seed(0)
sampler = KCenterGreedy(torch.from_numpy(np.load(sys.argv[1])), float(sys.argv[3]))
start = time.perf_counter()
picks = sampler.select_coreset_idxs()
seconds = time.perf_counter() - start
print(json.dumps({"version": version("anomalib"), "seconds": seconds, "picks": picks}))
"""


def anomalib_picks(python: str, rows: Rows, share: float, threads: int) -> dict[str, Any]:
    """Return the picks of anomalib, and the seconds they took."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "rows.npy", rows)
        arguments = [str(Path(folder) / "rows.npy"), str(threads), str(share)]
        done = subprocess.run(
            [python, "-c", ANOMALIB, *arguments], check=True, capture_output=True, text=True
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def radius(rows: Rows, picks: Rows) -> float:
    """Return the largest distance of a row to its nearest pick, found by float32 products."""
    mean = rows.mean(axis=0)
    all_rows, all_picks = torch.from_numpy(rows - mean), torch.from_numpy(picks - mean)
    norms = all_picks.square().sum(1)
    largest = 0.0
    for start in range(0, len(rows), 4096):
        some = all_rows[start : start + 4096]
        nearest = torch.addmm(norms, some, all_picks.T, alpha=-2).argmin(1).numpy()
        differences = rows[start : start + 4096].astype("f8") - picks[nearest]
        largest = max(largest, float(np.square(differences).sum(axis=1).max()))
    return float(np.sqrt(largest))


def check_greedy(rows: Rows, picks: NDArray[np.int64], n: int) -> None:
    """Fail unless the first picks are those of a pass over all rows after each pick."""
    exact = rows.astype("f8")
    nearest = np.full(len(rows), np.inf)
    for last, following in pairwise(picks[:n]):
        sq_distances = np.square(exact - exact[last]).sum(axis=1)
        np.minimum(nearest, sq_distances, out=nearest)
        assert nearest.argmax() == following, (last, following)


def places(coreset: ks.Coreset) -> NDArray[np.int64]:
    """Return the numbers of the rows in the order in which they were picked."""
    height, width, _ = coreset.shapes[0]
    numbers = (coreset.image_index * height + coreset.cells[:, 0]) * width + coreset.cells[:, 1]
    return numbers[coreset.order]


def measure(train: ks.FeaturePyramid, options: argparse.Namespace) -> dict[str, Any]:
    """Measure all rivals on the features of some normal images."""
    gallery = ks.Gallery()
    gallery.add(train)
    rows = train.concatenated().reshape(-1, sum(channels for _, _, channels in train.shapes))
    figures: dict[str, Any] = {"rows": len(rows), "features": rows.shape[1], "knnspect": []}
    for share, projection in ((0.01, None), (0.1, None), (0.01, 64)):
        coreset = gallery.coreset(share, projection=projection, threads=options.threads)
        covering = radius(rows, coreset.rows)
        if projection is None:
            check_greedy(rows, places(coreset), 60)
            assert coreset.sq_radius is not None
            # Products in float32 may take another pick for the nearest, which is hardly farther.
            np.testing.assert_allclose(coreset.sq_radius**0.5, covering, rtol=1e-4)
        for threads in sorted({1, options.threads}):
            seconds = []
            for _ in range(options.repeats):
                taken, again = timed(
                    lambda s=share, p=projection, t=threads: gallery.coreset(  # type: ignore[misc]
                        s, projection=p, threads=t
                    )
                )
                np.testing.assert_array_equal(again.rows, coreset.rows)
                seconds.append(taken)
            entry = {
                "share": share,
                "picks": len(coreset),
                "projection": projection,
                "threads": threads,
                **spread(seconds),
                "radius": round(covering, 4),
            }
            figures["knnspect"].append(entry)
            print(entry, flush=True)
    if options.anomalib:
        found = anomalib_picks(options.anomalib, rows, 0.01, options.threads)
        ours = figures["knnspect"][1 if options.threads > 1 else 0]
        figures["anomalib"] = {
            "version": found["version"],
            "share": 0.01,
            "picks": len(set(found["picks"])),
            "threads": options.threads,
            "seconds": round(found["seconds"], 2),
            "radius": round(radius(rows, rows[found["picks"]]), 4),
            "over_knnspect": round(1000 * found["seconds"] / ours["median_ms"], 1),
        }
        print(figures["anomalib"], flush=True)
    return figures


def main() -> None:
    """Run the comparison and keep its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+", metavar="NAME=PATH", help="in MVTec layout")
    parser.add_argument("--anomalib", metavar="PYTHON", help="an interpreter that has anomalib")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kept = RESULTS / "coreset_build.json"
    datasets = json.loads(kept.read_text())["datasets"] if kept.exists() else {}
    for entry in options.datasets:
        name, path = entry.split("=", 1)
        datasets[name] = measure(features_of(Path(path), 1)[0].pyramid, options)
    write_result("coreset_build", {"datasets": datasets})


if __name__ == "__main__":
    main()
