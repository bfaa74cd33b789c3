"""How long calibration takes where a folder has 20,000 images: some of them, left out one by one.

The images are crops of 500 functional solar cells, at random places, as files; seen by the network
at 32 px, so that their features take minutes and not hours. All detectors learn from one folder of
features. Each is fitted again when all images are there: then stage "gallery" is the calibration
alone.

    python benches/python/big_folder.py [--images 20000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result
from PIL import Image

import knnspect as ks
from knnspect.data import elpv_split

CELLS, CROP = 500, 128
#: Stages that only the first fit has.
FILLING = ("decode", "features")


def write_images(folder: Path, n_images: int) -> None:
    """Write crops of solar cells, the same every time, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = elpv_split(n_train=CELLS, n_functional=1, n_defective=0).train
    rng = np.random.default_rng(0)
    tops, lefts = rng.integers(300 - CROP, size=(2, n_images))
    for cell, file in enumerate(cells):
        with Image.open(file) as image:
            image.load()
            for at in range(cell, n_images, CELLS):
                to = folder / f"{at % CELLS:03}-{at // CELLS:03}.png"
                if not to.exists():
                    left, top = int(lefts[at]), int(tops[at])
                    image.crop((left, top, left + CROP, top + CROP)).save(to, compress_level=1)


def peak_mb() -> int:
    """Return the largest resident memory of this process so far, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def fit(detector: ks.Detector, images: Path, folder: Path) -> dict[str, Any]:
    """Fit in a folder, and say how long it took, on the clock and of the processor."""
    start, used = time.perf_counter(), time.process_time()
    detector.fit(images, folder=folder)
    assert detector.calibration_ is not None
    return {
        "seconds": {stage: round(value, 1) for stage, value in detector.seconds_.items()},
        "all": round(time.perf_counter() - start, 1),
        "processor": round(time.process_time() - used, 1),
        "peak_mb": peak_mb(),
        "calibration": detector.calibration_.summary,
    }


def main() -> None:
    """Fill the folder, then fit each detector over all that is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="where images and features are kept")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    backbone = ks.Backbone(image_size=32, patch_size=3)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        write_images(images := folder / "images", options.images)
        figures: dict[str, Any] = {}
        for name, detector in (
            ("spade, filling the folder", ks.Spade(backbone, threads=options.threads)),
            ("spade", ks.Spade(backbone, threads=options.threads)),
            (
                "patchcore, coreset=5000",
                ks.PatchCore(backbone, coreset=5000, threads=options.threads),
            ),
        ):
            figures[name] = found = fit(detector, images, folder / "model")
            if name.endswith("filling the folder"):  # calibration is not a stage of its own there
                figures[name] = {"seconds": {k: found["seconds"].get(k) for k in FILLING}}
            print(name, figures[name], flush=True)
    run = {"images": options.images, "threads": options.threads}
    load = round(os.getloadavg()[0], 1)  # other processes count, too
    write_result("big_folder", {**run, "load": load, "detectors": figures})


if __name__ == "__main__":
    main()
