"""Position windows: how much faster a search is that compares only what lies near, in one run.

For each query image searches with and without a window take turns, and so do searches of two levels
of equal size and of the same features concatenated into one. Before times count, answers are
compared: with the exhaustive matcher's, to the bit; for some cells with float64 distances to all
that lies within; those of equal levels with those of one.

    python benches/python/window.py hazelnut=PATH transistor=PATH
    python benches/python/window.py            # without a dataset: solar cells

`--accuracy` also judges the test images of datasets by PatchCore, all rows of levels 2 and 3, with
3x3 averaging, with windows of several sizes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import assert_same, concatenated, features_of, ratios, spread, timed, write_result

import knnspect as ks
from knnspect.backends import RustBackend
from knnspect.data import MVTecDataset
from knnspect.evaluation import evaluate

#: In cells of the finest level.
WINDOWS = (4, 0, 1, 2, 8, 16)
#: Cells of a query image that are compared with float64 distances.
N_CHECKED = 20
#: A pause before each search lets other processes' threads come to rest.
PAUSE = 0.01


def clock(by_cpu: bool) -> Callable[[Callable[[], Any]], tuple[float, Any]]:
    """Return what times a call: the time that passes, or what the process spends on all threads."""
    if not by_cpu:
        return timed

    def spent(call: Callable[[], Any]) -> tuple[float, Any]:
        start = time.process_time()
        result = call()
        return time.process_time() - start, result

    return spent


def check_within(
    found: ks.Neighbors, query: ks.FeaturePyramid, rows: Any, upsample: str, window: int
) -> None:
    """Fail unless some cells have the nearest of all that lies within, by float64 distances."""
    _, height, width, _ = found.sq_distances.shape
    queries = concatenated(query, upsample, np.float64)
    places = np.indices((height, width)).reshape(2, -1)
    for cell in np.random.default_rng(0).choice(height * width, N_CHECKED, replace=False):
        near = (np.abs(places - places[:, [cell]]) <= window).all(axis=0)
        candidates = rows.reshape(-1, height * width, rows.shape[-1])[:, near]
        sq_distances = np.square(candidates - queries[cell]).sum(axis=-1)
        nearest = found.sq_distances.reshape(-1)[cell]
        np.testing.assert_allclose(nearest, sq_distances.min(), rtol=1e-5)


def in_turns(
    searches: dict[str, Callable[[int], ks.Neighbors]], n_images: int, options: Any
) -> dict[str, list[float]]:
    """Return the median seconds of each search for each query image."""
    measure = clock(options.cpu)
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    for image in range(n_images):
        times: dict[str, list[float]] = {name: [] for name in searches}
        for _ in range(options.repeats):
            for name, search in searches.items():
                time.sleep(PAUSE)
                times[name].append(measure(lambda s=search, i=image: s(i))[0])  # type: ignore[misc]
        for name in searches:
            seconds[name].append(float(np.median(times[name])))
    return seconds


def with_and_without(
    train: ks.FeaturePyramid, test: ks.FeaturePyramid, upsample: str, options: Any
) -> dict[str, Any]:
    """Compare searches with windows with the search without one."""
    gallery = ks.Gallery(upsample)
    gallery.add(train)
    rows = concatenated(train, upsample, np.float64)

    def search(image: int, window: int | None, matcher: str = "auto") -> ks.Neighbors:
        backend = RustBackend(matcher=matcher)
        return gallery.search(test[image], threads=options.threads, backend=backend, window=window)

    shares = {}
    for window in WINDOWS:
        found = search(0, window)
        assert_same(found, search(0, window, "exhaustive"))
        check_within(found, test[0], rows, upsample, window)
        assert found.stats is not None
        shares[window] = {stage: round(n, 4) for stage, n in found.stats.shares.items()}
    searches: dict[str, Callable[[int], ks.Neighbors]] = {
        str(window): lambda image, window=window: search(image, window)  # type: ignore[misc]
        for window in (None, *WINDOWS)
    }
    seconds = in_turns(searches, test.n_images, options)
    return {
        "upsample": upsample,
        "gallery_images": len(gallery),
        "without": spread(seconds["None"]),
        "windows": {
            window: {
                **spread(seconds[str(window)]),
                "times_faster": ratios(seconds["None"], seconds[str(window)]),
                "shares_of_pairs_within": shares[window],
            }
            for window in WINDOWS
        },
    }


def equal_levels(train: ks.FeaturePyramid, test: ks.FeaturePyramid, options: Any) -> dict[str, Any]:
    """Compare two levels of equal size with the same features in one level."""
    rows = [ks.FeaturePyramid([part.concatenated("bilinear")]) for part in (train, test)]
    n_first = rows[0].shapes[0][2] // 3
    halves = [
        ks.FeaturePyramid([level[..., :n_first].copy(), level[..., n_first:].copy()])
        for level in (part.levels[0] for part in rows)
    ]
    searches: dict[str, Callable[[int], ks.Neighbors]] = {}
    for name, (normal, query) in (("two", halves), ("one", rows)):
        gallery = ks.Gallery()
        gallery.add(normal)

        def search(
            image: int, gallery: ks.Gallery = gallery, query: ks.FeaturePyramid = query
        ) -> ks.Neighbors:
            return gallery.search(query[image], threads=options.threads)

        searches[name] = search
    for image in range(test.n_images):  # also fits and projects before the clock runs
        assert_same(searches["two"](image), searches["one"](image))
    seconds = in_turns(searches, test.n_images, options)
    return {
        "shapes": [list(shape) for shape in halves[0].shapes],
        "stages": list(searches["two"](0).stats.stages),  # type: ignore[union-attr]
        **{name: spread(values) for name, values in seconds.items()},
        "two_over_one": ratios(seconds["two"], seconds["one"]),
    }


def accuracy(path: Path) -> dict[str, float]:
    """Return the pixel AUROC of PatchCore with windows of several sizes, and with none."""
    images = MVTecDataset(path)
    figures = {}
    for window in (None, 0, 1, 2):
        backbone = ks.Backbone(levels=(2, 3), patch_size=3)
        detector = ks.PatchCore(backbone, coreset=None, window=window)
        evaluation, _ = evaluate(detector, images)
        figures[str(window)] = round(evaluation.pixel_auroc or float("nan"), 4)
        print(f"  pixel AUROC, window {window}: {figures[str(window)]}", flush=True)
    return figures


def main() -> None:
    """Run the comparison and keep its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("datasets", nargs="*", metavar="NAME=PATH", help="in MVTec layout")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cpu", action="store_true", help="time of the CPU, on busy machines")
    parser.add_argument("--accuracy", action="store_true", help="pixel AUROC of PatchCore, too")
    options = parser.parse_args()
    named = [entry.split("=", 1) for entry in options.datasets]
    datasets: dict[str, Path | None] = {name: Path(path) for name, path in named} or {"elpv": None}
    figures: list[dict[str, Any]] = []
    for name, path in datasets.items():
        train, test = features_of(path, 10)
        entry: dict[str, Any] = {"dataset": name}
        for upsample in ("bilinear", "block"):
            entry[upsample] = with_and_without(train.pyramid, test.pyramid, upsample, options)
            for window, of in entry[upsample]["windows"].items():
                print(f"{name} {upsample}: window {window} {of['times_faster']} times faster")
        entry["equal_levels"] = equal_levels(train.pyramid, test.pyramid, options)
        print(f"{name}: two levels over one {entry['equal_levels']['two_over_one']}", flush=True)
        if options.accuracy and path is not None:
            entry["pixel_auroc"] = accuracy(path)
        figures.append(entry)
        write_result(
            "window",
            {
                "threads": options.threads,
                "clock": "cpu" if options.cpu else "wall",
                "runs": figures,
            },
        )


if __name__ == "__main__":
    main()
