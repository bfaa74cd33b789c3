"""What images say of each other: batches of solar cells of which none is known to be normal.

Draws of 200 monocrystalline cells of ELPV, of which 10 % and 30 % are defective (labels 0 and 1 of
the data set), are scored by `MutualScoring` with its defaults (EfficientNet-Lite0, levels 2 and 3,
224 px). Image AUROC of each draw: mean, standard deviation and worst. Labels are used for the
figures alone. The default `share` was chosen on draws of 100 cells by another seed, on welds and on
painted textures.

    python benches/python/mutual.py
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from common import write_result

import knnspect as ks
from knnspect import metrics
from knnspect.data import elpv_split

#: Shares of defective images.
CONTAMINATIONS = (0.1, 0.3)


def draw(contamination: float, n_images: int, seed: int) -> dict[str, float]:
    """Return the image AUROC of a draw, and the seconds that it took."""
    n_defective = round(contamination * n_images)
    split = elpv_split(0, n_images - n_defective, n_defective, seed=seed)
    images = {path.name: path for path in (*split.functional, *split.defective)}
    names = {path.name for path in split.defective}
    start = time.perf_counter()
    scores = ks.MutualScoring().compare(images).scores
    seconds = time.perf_counter() - start
    auroc = metrics.auroc([name in names for name in images], scores)
    print(f"{contamination:.0%} defective, draw {seed}: {auroc:.4f}  {seconds:.0f} s", flush=True)
    return {"image_auroc": round(auroc, 4), "seconds": round(seconds, 1)}


def summary(draws: list[dict[str, float]]) -> dict[str, Any]:
    """Return mean, spread and worst of the draws, and the draws themselves."""
    values = np.array([found["image_auroc"] for found in draws])
    return {
        "mean": round(float(values.mean()), 4),
        "standard_deviation": round(float(values.std()), 4),
        "worst": round(float(values.min()), 4),
        "draws": draws,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--try-out", action="store_true", help="write no results")
    options = parser.parse_args()
    draws: dict[str, list[dict[str, float]]] = {str(share): [] for share in CONTAMINATIONS}
    for seed in range(options.draws):  # each is written as it comes: they take minutes
        for share in CONTAMINATIONS:
            draws[str(share)].append(draw(share, options.images, seed))
        figures = {
            "command": "python benches/python/mutual.py",
            "n_images": options.images,
            "defective": {share: summary(found) for share, found in draws.items()},
        }
        if not options.try_out:
            write_result("mutual", figures)
    for of_share, found in draws.items():
        print(f"{of_share} defective: {summary(found)}")


if __name__ == "__main__":
    main()
