"""What a model that was exported takes and says, beside the original in PyTorch.

python benches/python/exported.py [NAME=DATASET …] [--threads 2] [--repeats 3] [--train 40]
    [--only agreement]

*Agreement*: the largest difference of features, scores and maps, as shares of their size, the
scores also of each score alone; and the verdicts. Also of the network in int8, with the AUROC of
both. *Latency*: one image after the other, all models in turns; seconds of `predict`, its medians,
and the ratio of each pair. *Start-up*: a fresh process imports knnspect, loads the model and judges
one image; PyTorch is not to be imported for that. ``--only agreement`` or ``timings`` measures that
part, and leaves the figures of the other one, and those of other datasets, in the file.

Datasets are in MVTec layout; elpv without a path, and where none is named.
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
import timm
import torch
from common import RESULTS, comparison_options, machine, ratios, timed
from safetensors.torch import save_file

import knnspect as ks
from knnspect.data import MVTecDataset, elpv_split
from knnspect.detectors import Detector
from knnspect.exporting import compare, export, quantize

N_TEST, N_TIMED = 30, 40
#: Of AnomalyDINO: a transformer, whose weights are random.
TRANSFORMER = "vit_small_patch16_224"

DETECTORS: dict[str, Callable[[Path], Detector]] = {
    "spade": lambda _: ks.Spade(),
    "patchcore": lambda _: ks.PatchCore(coreset=0.1),
    "anomalydino": lambda folder: ks.AnomalyDINO(transformer(folder)),
    "padim": lambda _: ks.Padim(),
    "pca_residual": lambda _: ks.PcaResidual(),
    "one_class_svm": lambda _: ks.OneClassSvm(),
    # What they learn does not matter here.
    "simplenet": lambda _: ks.SimpleNet(max_epochs=1),
    "cflow": lambda _: ks.CFlow(max_epochs=1, coupling_blocks=4),
}
#: Those whose latency and start-up are measured.
TIMED = ("spade", "patchcore", "simplenet", "cflow")
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


def transformer(folder: Path) -> ks.Backbone:
    """A vision transformer of random weights."""
    torch.manual_seed(0)
    file = folder / "transformer.safetensors"
    save_file(timm.create_model(TRANSFORMER).state_dict(), file)
    return ks.Backbone(TRANSFORMER, (5,), 112, file, unit=True, norm=True)


def images_of(dataset: Path | None, n_train: int) -> tuple[list[Path], list[Path], list[bool]]:
    """Normal images, others to judge, as files, and which of these are defective."""
    if dataset is None:
        split = elpv_split(n_train=n_train, n_functional=N_TEST // 2, n_defective=N_TEST // 2)
        defective = np.repeat([False, True], N_TEST // 2).tolist()
        return list(split.train), [*split.functional, *split.defective], defective
    images = MVTecDataset(dataset)
    chosen = np.linspace(0, len(images.test) - 1, min(N_TEST, len(images.test))).astype(int)
    test = [images.test[index] for index in chosen]
    defective = [image.is_defective for image in test]
    return list(images.train[:n_train]), [image.path for image in test], defective


def latency(detector: Detector, other: Detector, images: list[Path]) -> dict[str, Any]:
    """Seconds of one image, all in turns."""
    models = {"torch": detector, "exported": other, "int8": quantize(other, images)}
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
        "int8_by_exported": ratios(seconds["int8"], seconds["exported"]),
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


def agreement(
    detector: Detector, other: Detector, images: list[Path], defective: list[bool]
) -> dict[str, Any]:
    """The largest differences, how many verdicts are others, and the same in int8."""
    int8 = quantize(other, images)
    models = {"torch": detector, "float32": other, "int8": int8}
    scores = {name: model.scores(images) for name, model in models.items()}

    def differences(name: str) -> dict[str, Any]:
        found = compare(detector, models[name], images)
        each = np.abs(scores[name] - scores["torch"]) / np.abs(scores["torch"])
        verdicts = {"other_verdicts": len(found.other_verdicts)} if found.has_verdicts else {}
        return {
            "features": found.features,
            "scores": found.scores,
            "scores_each": float(each.max()),
            "maps": float(found.maps),
            **verdicts,
        }

    auroc = {name: ks.metrics.auroc(defective, of) for name, of in scores.items()}
    return {
        "images": len(images),
        **differences("float32"),
        "int8": differences("int8"),
        "auroc": auroc,
    }


def main() -> None:
    datasets, options = comparison_options(
        __doc__.splitlines()[0], ("agreement", "timings"), list(DETECTORS)
    )
    if os.environ.get("OMP_NUM_THREADS") != str(options.threads):
        # Both runtimes read it when they start.
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    file = RESULTS / "exported.json"
    document: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for part in ("agreement", "timings"):
        if options.only in (None, part):
            about = {"machine": machine(), "threads": options.threads}
            about["train_images"] = options.train
            document[part] = document.get(part, {}) | about
    with tempfile.TemporaryDirectory() as folder:
        for dataset, path in datasets.items():
            normal, test, defective = images_of(path, options.train)
            for name in options.methods:
                made = DETECTORS[name]
                if options.only == "timings" and name not in TIMED:
                    continue
                place = Path(folder)
                detector = made(place).set_params(backbone__device="cpu").fit(normal)
                other = export(detector)
                found: dict[str, Any] = {}
                if options.only != "timings":
                    found["agreement"] = agreement(detector, other, test, defective)
                if options.only != "agreement" and name in TIMED:
                    files = {kind: place / f"{kind}.ks" for kind in ("torch", "exported")}
                    detector.save(files["torch"])
                    other.save(files["exported"])
                    found["timings"] = {
                        "latency": latency(detector, other, test),
                        "start_up": start_up(files, test[0], options.repeats),
                        "mb": {kind: of.stat().st_size / 1e6 for kind, of in files.items()},
                    }
                print(dataset, name, json.dumps(found, indent=1), flush=True)
                for part, figures in found.items():
                    document[part][f"{dataset} {name}"] = figures
                file.write_text(json.dumps(document, indent=2) + "\n")
    print(f"written: {file}")


if __name__ == "__main__":
    main()
