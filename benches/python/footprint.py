"""Memory of a fitted Spade, and the time that ``import knnspect`` takes.

python benches/python/footprint.py DATASET
python benches/python/footprint.py            # without a dataset: solar cells
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import concatenated, write_result

import knnspect as ks
from knnspect.data import MVTecDataset, elpv_split


def import_seconds(repeats: int = 9) -> dict[str, float]:
    """Time ``import knnspect`` in fresh processes in which torch is installed."""
    code = "import time; t = time.perf_counter(); import knnspect; print(time.perf_counter() - t)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(repeats)
    ]
    return {"median": round(float(np.median(seconds)), 4), "max": round(max(seconds), 4)}


def fitted_memory(dataset: Path | None) -> dict[str, Any]:
    """Compare what a fitted Spade keeps with the concatenated float32 features."""
    train = elpv_split(n_train=50).train if dataset is None else MVTecDataset(dataset).train
    backbone = ks.Backbone("efficientnet_lite0", levels=(1, 2, 3), image_size=224)
    spade = ks.Spade(backbone, image_neighbors=len(train)).fit(train)
    flat = concatenated(spade.gallery_.pyramid(), "bilinear").nbytes
    return {
        "images": len(train),
        "spade_bytes": spade.nbytes_,
        "concatenated_bytes": flat,
        "ratio": round(spade.nbytes_ / flat, 4),
    }


def main() -> None:
    """Measure and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", nargs="?", type=Path, help="in MVTec layout")
    options = parser.parse_args()
    figures = {
        "dataset": options.dataset.name if options.dataset else "elpv",
        "memory": fitted_memory(options.dataset),
        "import_seconds": import_seconds(),
    }
    print(figures)
    write_result("footprint", figures)


if __name__ == "__main__":
    main()
