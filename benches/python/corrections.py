"""How soon corrections take effect, and what ten accepted false alarms change.

``python benches/python/corrections.py [--images 10000] [--image-size 128]``

*Latency*: a model in a folder of so many images (solar cells, each in many cut-outs); one image is
accepted, and judged again, which has to find itself. The time of the network is not counted.

*Ten false alarms*: solar cells; a detector learns 100 functional monocrystalline ones and never saw
a polycrystalline one. Ten functional polycrystalline ones are accepted, one after the other. Then
the next ones of the kind are judged, and defective cells of both kinds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from elpv_dataset.utils import load_dataset
from numpy.typing import NDArray

from knnspect import Backbone, PatchCore, Spade, load
from knnspect.detectors.nearest.base import NearestDetector

RESULTS = Path(__file__).parent.parent / "results" / "corrections.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--only", choices=["latency", "kinds"])
    args = parser.parse_args()
    images, probability, kinds = load_dataset()
    figures: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    cells = np.asarray(images)
    if args.only != "kinds":
        figures["latency"] = latency(cells, args.images, args.image_size)
    if args.only != "latency":
        figures["ten false alarms"] = ten_false_alarms(cells, probability, np.asarray(kinds))
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")


def latency(cells: NDArray[np.uint8], n_images: int, size: int) -> dict[str, Any]:
    def cut_out(number: int) -> NDArray[np.uint8]:
        row, column = np.random.default_rng(number).integers(0, 40, 2)
        cell: NDArray[np.uint8] = cells[number % len(cells)]
        return cell[row : row + 256, column : column + 256]

    def batches() -> Iterator[NDArray[np.uint8]]:
        for start in range(0, n_images, 100):
            yield np.stack([cut_out(number) for number in range(start, start + 100)])

    figures: dict[str, Any] = {}
    for name, made in (
        ("spade", Spade(Backbone(image_size=size, patch_size=3))),
        (
            "patchcore, coreset of 20,000",
            PatchCore(Backbone(image_size=size, patch_size=3), coreset=20_000),
        ),
    ):
        n = n_images if name == "spade" else min(n_images, 1000)  # picking rows takes hours
        n_images = n
        with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
            folder = Path(scratch) / "model"
            made.fit(batches(), folder=folder, batch_size=32)
            made.save(folder)
            detector = load(folder)
            assert isinstance(detector, NearestDetector)
            detector.predict([cut_out(10**6)])  # warm
            seconds = []
            for number in range(12):
                image = cut_out(10**6 + 1 + number)
                (prediction,) = detector.predict([image])
                start = time.perf_counter()
                detector.accept(prediction, image, id=f"accepted {number}")
                took = time.perf_counter() - start - detector.seconds_["features"]
                (again,) = detector.predict([image])
                if name == "spade":
                    assert again.score == 0
                assert again.score <= again.threshold
                seconds.append(took)
            figures[name] = {
                "images": n_images,
                "image size": size,
                "median ms": round(1000 * statistics.median(seconds), 1),
                "max ms": round(1000 * max(seconds), 1),
            }
            print(name, figures[name], flush=True)
    return figures


def ten_false_alarms(
    cells: NDArray[np.uint8], probability: NDArray[np.float64], kinds: NDArray[np.str_]
) -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def some(kind: str, is_defective: bool) -> NDArray[np.uint8]:
        chosen = (kinds == kind) & (probability == float(is_defective))
        found: NDArray[np.uint8] = cells[rng.permutation(np.flatnonzero(chosen))]
        return found

    mono, poly = some("mono", False), some("poly", False)
    mono_bad, poly_bad = some("mono", True)[:60], some("poly", True)[:60]
    figures = {}
    for made in (
        Spade(Backbone(image_size=128, patch_size=3)),
        PatchCore(Backbone(image_size=128, patch_size=3), coreset=0.02),
    ):
        detector = made.fit(mono[:100])
        judged = {
            "next ten of the kind": poly[10:20],
            "next hundred of the kind": poly[10:110],
            "functional, known kind": mono[100:200],
            "defective, known kind": mono_bad,
            "defective, new kind": poly_bad,
        }
        rows: dict[str, Any] = {
            name: {"images": len(images), "called anomalous before": count(detector, images)}
            for name, images in judged.items()
        }
        waits = []
        for number, image in enumerate(poly[:10]):
            (prediction,) = detector.predict([image])
            start = time.perf_counter()
            detector.accept(prediction, image, id=f"accepted {number}")
            waits.append(time.perf_counter() - start - detector.seconds_["features"])
        start = time.perf_counter()
        _ = detector.uncalibrated  # scores of those that were accepted are found anew
        settled = time.perf_counter() - start
        for name, images in judged.items():
            rows[name]["after ten were accepted"] = count(detector, images)
        rows["ms to accept, median"] = round(1000 * statistics.median(waits), 1)
        rows["ms until the threshold is known"] = round(1000 * settled, 1)
        figures[detector.method] = rows
        print(detector.method, json.dumps(rows, indent=2), flush=True)
    return figures


def count(detector: NearestDetector, images: NDArray[np.uint8]) -> int:
    return sum(prediction.is_anomalous for prediction in detector.iter_predict(images))


if __name__ == "__main__":
    main()
