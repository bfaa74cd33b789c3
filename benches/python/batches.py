"""How many images a second SPADE judges in batches on a GPU, and what share of it is matching.

The whole prediction, from files to maps: the gallery and the query stay on the device with
``backend="torch"``; the core matches on the CPU. Both give the same maps but for the rounding of
the network. Stages are those of `seconds_`; the rest is waiting for files, and maps.

    python benches/python/batches.py hazelnut=PATH --device cuda --backbone wide_resnet50_2 \\
        --random-weights
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write_result
from torch_backend import random_weights

import knnspect as ks
from knnspect.data import MVTecDataset

#: So many images are judged, in batches: those of the data set, again and again.
N_IMAGES = 320


def compare(path: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Judge the same images with both backends, in turns."""
    weights = str(random_weights(options.backbone)) if options.random_weights else "auto"
    dataset = MVTecDataset(path)
    files = [Path(image.path) for image in dataset.test]
    images = []
    for index in range(N_IMAGES):  # a file for each, as no image may come twice
        images.append(folder / f"{index:04d}.png")
        shutil.copy(files[index % len(files)], images[-1])
    detectors = {}
    for backend in ("torch", "rust"):
        backbone = ks.Backbone(
            options.backbone, image_size=224, patch_size=3, weights=weights, device=options.device
        )
        detectors[backend] = ks.Spade(backbone, backend=backend).fit(dataset.train[:50])
        detectors[backend].predict(images[: options.batch], batch_size=options.batch)
    seconds: dict[str, list[float]] = {name: [] for name in detectors}
    stages: dict[str, list[dict[str, float]]] = {name: [] for name in detectors}
    maps: dict[str, Any] = {}
    for _ in range(options.repeats):
        for name, detector in detectors.items():
            started = time.perf_counter()
            judged = detector.iter_predict(
                images, batch_size=options.batch, n_workers=options.workers
            )
            maps[name] = [prediction.map for prediction in judged][:10]
            seconds[name].append(time.perf_counter() - started)
            stages[name].append(dict(detector.seconds_))
    for ours, core in zip(maps["torch"], maps["rust"], strict=True):
        np.testing.assert_allclose(ours, core, rtol=1e-2)
    figures: dict[str, Any] = {"backbone": options.backbone, "batch": options.batch}
    for name, taken in seconds.items():
        best = int(np.argmin(taken))
        figures[name] = {
            "images_per_second": round(N_IMAGES / taken[best], 1),
            "share_of_stages": {
                stage: round(value / taken[best], 3) for stage, value in stages[name][best].items()
            },
        }
    return figures


def main() -> None:
    """Run the comparison and keep its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+", metavar="NAME=PATH", help="in MVTec layout")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backbone", default="wide_resnet50_2")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    figures = []
    for entry in options.datasets:
        name, path = entry.split("=", 1)
        with tempfile.TemporaryDirectory() as folder:
            figures.append({"dataset": name, **compare(Path(path), Path(folder), options)})
        print(figures[-1])
    write_result("batches", {"device": torch.cuda.get_device_name(0), "runs": figures})


if __name__ == "__main__":
    main()
