"""SPADE, PatchCore, SimpleNet and CFLOW-AD on the same images and weights.

EfficientNet-Lite0, 224 px, levels 1-3, each detector with its own defaults (SPADE also with
``patch_size=3``), on MVTec-layout datasets and on the solar cells of the demo. What is drawn at
random is drawn three times: `--seeds`. Each detector is fitted, judged, measured and saved in a
process of its own; then all models of the first seed judge single images in turns, beside the
features of the same levels alone: medians over the images, reading excluded, resizing included.

    python benches/python/detectors.py hazelnut=PATH transistor=PATH elpv
    python benches/python/detectors.py --chart FILE     # draws what was measured
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, ratios, spread, timed, write_result
from rival import PAUSE

import knnspect as ks
from knnspect import metrics
from knnspect.bench import check_matplotlib
from knnspect.data import Labels, MVTecDataset, elpv_split, read_image
from knnspect.evaluation import peak_memory_mb

#: Names, and whether the seed decides anything.
DETECTORS = {
    "SPADE": False,
    "SPADE, 3x3": False,
    "PatchCore": True,
    "SimpleNet": True,
    "CFLOW-AD": True,
}


def make(name: str, seed: int) -> Any:
    """Return a detector that is not fitted yet."""
    if name.startswith("SPADE"):
        patch_size = 3 if name.endswith("3x3") else 1
        return ks.Spade(ks.Backbone(patch_size=patch_size, device="cpu"), score="map")
    kinds: dict[str, Any] = {
        "PatchCore": ks.PatchCore,
        "SimpleNet": ks.SimpleNet,
        "CFLOW-AD": ks.CFlow,
    }
    detector = kinds[name](seed=seed)
    detector.backbone.device = "cpu"
    return detector


def images_of(dataset: str) -> tuple[list[Path], list[Path], list[bool], MVTecDataset | None]:
    """Return what to learn from, what to judge, and which of it is defective."""
    if dataset == "elpv":
        split = elpv_split()
        truth = [False] * len(split.functional) + [True] * len(split.defective)
        return split.train, [*split.functional, *split.defective], truth, None
    found = MVTecDataset(dataset)
    test = [image.path for image in found.test]
    return found.train[:50], test, [image.is_defective for image in found.test], found


def measure(dataset: str, name: str, seed: int, model: Path) -> dict[str, Any]:
    """Fit, judge and save one detector: the work of a process of its own."""
    train, test, truth, found = images_of(dataset)
    detector = make(name, seed)
    fit_seconds, _ = timed(lambda: detector.fit(train))
    predictions = detector.predict(test)
    peak = peak_memory_mb()
    detector.save(model)
    maps = [prediction.map for prediction in predictions]
    figures = {
        "fit_seconds": round(fit_seconds, 2),
        "image_auroc": round(metrics.auroc(truth, [p.score for p in predictions]), 4),
        "map_max_auroc": round(metrics.auroc(truth, [float(m.max()) for m in maps]), 4),
    }
    if found is not None:
        masks, maps = Labels(found).pixels(maps)
        figures["pixel_auroc"] = round(metrics.pixel_auroc(masks, maps), 4)
        figures["aupro"] = round(metrics.aupro(masks, maps), 4)
    figures["peak_memory_mb"] = round(peak)
    figures["model_mb"] = round(model.stat().st_size / 1e6, 1)
    if hasattr(detector, "history_"):
        figures["epochs"], figures["best_epoch"] = len(detector.history_), detector.best_epoch_
    return figures


def latencies(dataset: str, models: dict[str, Path], repeats: int) -> dict[str, Any]:
    """Judge single images, all detectors in turns, and their features alone."""
    _, test, _, _ = images_of(dataset)
    paths = [test[i] for i in np.unique(np.linspace(0, len(test) - 1, 10).astype(int))]
    detectors: dict[str, Any] = {name: ks.load(path) for name, path in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in detectors}
    features: dict[str, list[float]] = {name: [] for name in detectors}
    for path in paths:
        image = [read_image(path)]
        times: dict[str, list[list[float]]] = {name: [[], []] for name in detectors}
        for _ in range(repeats):
            for name, detector in detectors.items():
                # SPADE's image stage needs the network's last features, too.
                pooled = isinstance(detector, ks.Spade)
                works = (
                    lambda d=detector, i=image: d.predict(i, n_workers=0),
                    lambda d=detector, i=image, p=pooled: list(
                        d.backbone.iterate(i, 1, 0, pooled=p)
                    ),
                )
                for place, work in enumerate(works):
                    time.sleep(PAUSE)
                    times[name][place].append(timed(work)[0])
        for name, (whole, alone) in times.items():
            seconds[name].append(float(np.median(whole)))
            features[name].append(float(np.median(alone)))
    return {
        name: {
            "one_image": spread(seconds[name]),
            "features_alone": spread(features[name]),
            "over_features": ratios(seconds[name], features[name]),
        }
        for name in detectors
    }


def compare(dataset: str, seeds: int, repeats: int) -> dict[str, Any]:
    """Measure all detectors on one dataset."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        models: dict[str, Path] = {}
        for name, is_random in DETECTORS.items():
            runs = []
            for seed in range(seeds if is_random else 1):
                model = Path(folder) / f"{name} {seed}"
                models.setdefault(name, model)
                command = [sys.executable, __file__, "--one", dataset, name, str(seed), str(model)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                runs.append(json.loads(done.stdout))
                print(dataset, name, seed, runs[-1], flush=True)
            figures[name] = {"runs": runs, **summary(runs)}
        for name, found in latencies(dataset, models, repeats).items():
            figures[name] |= found
            print(dataset, name, json.dumps(found), flush=True)
    return figures


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over the seeds, and the smallest and the largest of areas."""
    names = [name for name in runs[0] if name.endswith("auroc") or name == "aupro"]
    areas = {
        name: {
            "mean": round(float(np.mean([run[name] for run in runs])), 4),
            "min": min(run[name] for run in runs),
            "max": max(run[name] for run in runs),
        }
        for name in names
    }
    others = ("fit_seconds", "peak_memory_mb", "model_mb")
    return areas | {
        name: float(np.median([run[name] for run in runs])) for name in others if name in runs[0]
    }


def draw(figures: dict[str, Any], path: Path) -> None:
    """Draw accuracy against latency: a dot for each detector, a panel for each dataset."""
    check_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(figures), 3.8), layout="constrained")
    colors = dict(
        zip(DETECTORS, ("#1b6ca8", "#74b3e0", "#2a9d5c", "#e07a1f", "#b5306b"), strict=True)
    )
    for place, (dataset, detectors) in enumerate(figures.items(), 1):
        axes = figure.add_subplot(1, len(figures), place)
        area = "pixel_auroc" if "pixel_auroc" in detectors["SPADE"] else "image_auroc"
        for name, found in detectors.items():
            latency, values = found["one_image"]["median_ms"], found[area]
            low, high = values["mean"] - values["min"], values["max"] - values["mean"]
            axes.errorbar(
                latency, values["mean"], yerr=[[low], [high]], fmt="o", capsize=3,
                color=colors[name], label=name,
            )  # fmt: skip
        axes.set_title(dataset)
        axes.set_xlabel("one image, network included (ms)")
        axes.set_ylabel(area.replace("_", " ").replace("auroc", "AUROC"))
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run the comparison and keep its figures, or draw those that were kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="*", metavar="NAME=PATH", help="in MVTec layout; or elpv")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--chart", type=Path)
    parser.add_argument("--one", nargs=4, metavar=("DATASET", "DETECTOR", "SEED", "MODEL"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        dataset, name, seed, model = options.one
        print(json.dumps(measure(dataset, name, int(seed), Path(model))))
        return
    kept = RESULTS / "detectors.json"
    figures = json.loads(kept.read_text())["datasets"] if kept.exists() else {}
    for entry in options.datasets:
        name, _, path = entry.partition("=")
        figures[name] = compare(path or name, options.seeds, options.repeats)
    if options.datasets:
        about = {"threads": options.threads, "seeds": options.seeds, "datasets": figures}
        write_result("detectors", about)
    if options.chart is not None:
        draw(figures, options.chart)


if __name__ == "__main__":
    main()
