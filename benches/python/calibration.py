"""Whether normal images are called anomalous as often as was asked for, on solar cells.

The functional monocrystalline cells of elpv (588) are split at random: some are learnt from, for
split conformal prediction as many others calibrate, and the rest is judged. The share of it that is
called anomalous is held against the false-alarm rate asked for; of one split it varies with the
calibration images (by the Beta distribution), so means over many splits are given, with the
standard error that independent splits would have. Features of 96 px are computed once; fit,
calibration and judging are those of the library.

    python benches/python/calibration.py --only held     # calibration_held.json: by other images
    python benches/python/calibration.py --only left     # leave-one-image-out
    python benches/python/calibration.py --only trained  # by images that training held out
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from common import write_result

import knnspect as ks
from knnspect.data import open_images
from knnspect.data.elpv import _labelled

RATES = (0.01, 0.02, 0.05, 0.1, 0.2)


class StoredBackbone(ks.Backbone):
    """Gives features that were computed before, by the id of an image."""

    stored: ClassVar[dict[str, ks.Features]]

    def iterate(self, images: Any, batch_size: int = 16, *_: Any, **__: Any) -> Iterator[Any]:
        """Yield batches of stored features; files are read, for their digests."""
        ids = []
        reader = self.reader()
        for item in open_images(images):
            item.read(reader)
            ids.append(item.id)
        for start in range(0, len(ids), batch_size):
            yield ks.Features.concatenate(
                self.stored[id_] for id_ in ids[start : start + batch_size]
            )


def stored_features(files: list[Path]) -> dict[str, ks.Features]:
    """Return the features of each file, for itself."""
    network = ks.Backbone(image_size=96, patch_size=3)
    found = {}
    for batch in network.iterate([str(file) for file in files], 16):
        for index, id_ in enumerate(batch.ids):
            found[id_] = ks.Features(
                batch.pyramid[index],
                batch.pooled[index : index + 1],
                [id_],
                [batch.placements[index]],
                [None],
            )
    return found


def realised(
    make: Any, files: list[str], n_learnt: int, n_calibrated: int, n_splits: int
) -> dict[str, Any]:
    """Return the shares of normal images that were called anomalous, by the rate asked for."""
    shares: dict[float, list[float]] = {rate: [] for rate in RATES}
    n_images, n_blocks, started = [], [], time.perf_counter()
    for split in range(n_splits):
        drawn = [files[i] for i in np.random.default_rng(split).permutation(len(files))]
        learnt, rest = drawn[:n_learnt], drawn[n_learnt:]
        held, judged = rest[:n_calibrated], rest[n_calibrated:]
        detector = make().fit(learnt, calibration_images=held or None)
        calibration = detector.calibration_
        n_images.append(len(calibration))
        n_blocks.append(calibration.n_blocks)
        scores = detector.scores(judged)
        for rate in RATES:
            if rate >= calibration.smallest_rate:
                shares[rate].append(float(np.mean(scores > calibration.threshold(rate))))
    return {
        "learnt": n_learnt,
        "judged": len(judged),
        "splits": n_splits,
        "calibration_images": round(float(np.mean(n_images)), 1),
        "of_them_apart": round(float(np.mean(n_blocks)), 1),
        "seconds": round(time.perf_counter() - started, 1),
        "realised": {
            str(rate): None
            if not values
            else {
                "mean": round(float(np.mean(values)), 4),
                "times_asked": round(float(np.mean(values)) / rate, 2),
                "standard_error": round(float(np.std(values) / max(1, len(values) - 1) ** 0.5), 4),
            }
            for rate, values in shares.items()
        },
    }


def main() -> None:
    """Run all, or what is asked for, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["held", "left", "trained"], required=True)
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--few-splits", type=int, default=10)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    paths = _labelled()[0]
    StoredBackbone.stored = stored_features(paths)
    files = sorted(StoredBackbone.stored)
    backbone = StoredBackbone(image_size=96, patch_size=3)
    runs = []

    def run(name: str, make: Any, *sizes: int) -> None:
        runs.append({"detector": name, **realised(make, files, *sizes)})
        print(runs[-1], flush=True)

    if options.only == "held":
        run("patchcore, other images", lambda: ks.PatchCore(backbone), 100, 100, options.splits)
    if options.only == "left":
        for n in (50, 200):
            run("spade, leave one out", lambda: ks.Spade(backbone), n, 0, options.few_splits)
            run(
                "patchcore, leave one out", lambda: ks.PatchCore(backbone), n, 0, options.few_splits
            )
    if options.only == "trained":
        for n in (50, 200):
            few = max(2, options.few_splits // 4)
            run("simplenet, held out", lambda: ks.SimpleNet(backbone, max_epochs=3), n, 0, few)
            run("cflow, held out", lambda: ks.CFlow(backbone, max_epochs=3), n, 0, few)
    write_result(f"calibration_{options.only}", {"asked": RATES, "runs": runs})


if __name__ == "__main__":
    main()
