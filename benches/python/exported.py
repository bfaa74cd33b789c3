"""What a model that was exported takes and says, beside the original in PyTorch.

python benches/python/exported.py [NAME=DATASET …] [--threads 2] [--repeats 3]

*Latency*: one image after the other, both models in turns; seconds of `predict`, its medians, and
the ratio of each pair. *Start-up*: a fresh process imports knnspect, loads the model and judges one
image; PyTorch is not to be imported for that. *Differences*: the largest of features, scores and
maps, as shares of their size, the scores also of each score alone; and the verdicts.

Datasets are in MVTec layout; elpv without any.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import comparison_options, ratios, timed, write_result

import knnspect as ks
from knnspect.data import MVTecDataset, elpv_split
from knnspect.detectors import Detector
from knnspect.exporting import compare, export

N_TRAIN, N_TEST, N_TIMED = 40, 30, 40

DETECTORS: dict[str, Callable[[], Detector]] = {
    "spade": ks.Spade,
    "patchcore": lambda: ks.PatchCore(coreset=0.1),
    # What they learn does not matter here.
    "simplenet": lambda: ks.SimpleNet(max_epochs=1),
    "cflow": lambda: ks.CFlow(max_epochs=1, coupling_blocks=4),
}
START = """
import json, sys, time
start = time.perf_counter()
import knnspect as ks
imported = time.perf_counter()
detector = ks.load(sys.argv[1], device="cpu")
loaded = time.perf_counter()
detector.predict(sys.argv[2])
end = time.perf_counter()
print(json.dumps({
    "import": imported - start,
    "load": loaded - imported,
    "first_prediction": end - loaded,
    "total": end - start,
    "with_torch": "torch" in sys.modules,
}))
"""


def images_of(dataset: Path | None) -> tuple[list[Path], list[Path]]:
    """Normal images, and others to judge, as files."""
    if dataset is None:
        split = elpv_split(n_train=N_TRAIN, n_functional=N_TEST // 2, n_defective=N_TEST // 2)
        return list(split.train), [*split.functional, *split.defective]
    images = MVTecDataset(dataset)
    test = [image.path for image in images.test]
    chosen = np.linspace(0, len(test) - 1, min(N_TEST, len(test))).astype(int)
    return list(images.train[:N_TRAIN]), [test[index] for index in chosen]


def latency(detector: Detector, other: Detector, images: list[Path]) -> dict[str, Any]:
    """Seconds of one image, both in turns."""
    models = {"torch": detector, "exported": other}
    for model in models.values():
        model.predict(images[:2])
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for number in range(N_TIMED):
        order = list(models) if number % 2 else list(models)[::-1]
        for name in order:
            image = images[number % len(images)]
            taken, _ = timed(lambda name=name, image=image: models[name].predict(image))  # type: ignore[misc]
            seconds[name].append(taken)
    return {
        **{f"{name}_median_ms": 1e3 * statistics.median(of) for name, of in seconds.items()},
        "exported_by_torch": ratios(seconds["exported"], seconds["torch"]),
    }


def start_up(models: dict[str, Path], image: Path, repeats: int) -> dict[str, Any]:
    """Seconds of a fresh process, the quickest of several, both in turns."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for _ in range(repeats):
        for name, model in models.items():
            done = subprocess.run(
                [sys.executable, "-c", START, model, image],
                check=True,
                capture_output=True,
                text=True,
            )
            found[name].append(json.loads(done.stdout))
    return {name: min(of, key=lambda one: one["total"]) for name, of in found.items()}


def differences(detector: Detector, other: Detector, images: list[Path]) -> dict[str, Any]:
    """The largest ones, and how many verdicts are others."""
    found = compare(detector, other, images)
    one, two = detector.scores(images), other.scores(images)
    return {
        "images": found.n_images,
        "features": found.features,
        "scores": found.scores,
        "scores_each": float(np.max(np.abs(one - two) / np.abs(one))),
        "maps": found.maps,
        "other_verdicts": len(found.other_verdicts),
    }


def main() -> None:
    datasets, options = comparison_options(__doc__.splitlines()[0])
    if os.environ.get("OMP_NUM_THREADS") != str(options.threads):
        # Both runtimes read it when they start.
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    figures: dict[str, Any] = {"threads": options.threads}
    with tempfile.TemporaryDirectory() as folder:
        for dataset, path in datasets.items():
            normal, test = images_of(path)
            for name, made in DETECTORS.items():
                detector = made().set_params(backbone__device="cpu").fit(normal)
                other = export(detector)
                files = {kind: Path(folder) / f"{kind}.ks" for kind in ("torch", "exported")}
                detector.save(files["torch"])
                other.save(files["exported"])
                found = {
                    "differences": differences(detector, other, test),
                    "latency": latency(detector, other, test),
                    "start_up": start_up(files, test[0], options.repeats),
                    "mb": {kind: file.stat().st_size / 1e6 for kind, file in files.items()},
                }
                figures[f"{dataset} {name}"] = found
                print(dataset, name, json.dumps(found, indent=1), flush=True)
    write_result("exported", figures)


if __name__ == "__main__":
    main()
