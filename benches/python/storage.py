"""What float16 and int8 galleries save, and what that changes: memory and accuracy of SPADE.

A detector is fitted and judged anew for each way of keeping features; all else is the same. Without
a dataset, and besides them, the demo's solar cells are judged.

python benches/python/storage.py hazelnut=PATH transistor=PATH
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import write_result

import knnspect as ks
from knnspect import metrics
from knnspect.data import MVTecDataset, elpv_split
from knnspect.evaluation import evaluate

DTYPES = ("float32", "float16", "int8")


def backbone(patch_size: int) -> ks.Backbone:
    """Return the network of all measurements."""
    return ks.Backbone(
        "efficientnet_lite0", levels=(1, 2, 3), image_size=224, patch_size=patch_size
    )


def dataset_figures(path: Path, patch_size: int, dtype: Any) -> dict[str, float]:
    """Fit on a dataset's normal images and judge its test images."""
    spade = ks.Spade(backbone(patch_size), gallery_dtype=dtype)
    evaluation, _ = evaluate(spade, MVTecDataset(path))
    return {
        "gallery_bytes": spade.gallery_.nbytes,
        **{
            name: area
            for name in ("pixel_auroc", "map_max_auroc")
            if (area := getattr(evaluation, name)) is not None
        },
    }


def demo_figures(dtype: Any) -> dict[str, float]:
    """Do what the demo does."""
    split = elpv_split()
    spade = ks.Spade(backbone(1), score="map", gallery_dtype=dtype).fit(split.train)
    predictions = spade.predict([*split.functional, *split.defective])
    is_defective = [False] * len(split.functional) + [True] * len(split.defective)
    scores = [prediction.score for prediction in predictions]
    return {
        "gallery_bytes": spade.gallery_.nbytes,
        "image_auroc": metrics.auroc(is_defective, scores),
    }


def compared(figures: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Add memory and changes of accuracy relative to float32."""
    base = figures["float32"]
    result: dict[str, Any] = {}
    for dtype, own in figures.items():
        areas = {name: value for name, value in own.items() if name.endswith("auroc")}
        result[dtype] = {
            "gallery_bytes": own["gallery_bytes"],
            "memory": round(own["gallery_bytes"] / base["gallery_bytes"], 4),
            **{name: round(value, 6) for name, value in areas.items()},
            "change": {name: round(value - base[name], 6) + 0.0 for name, value in areas.items()},
        }
        print(dtype, result[dtype], flush=True)
    return result


def main() -> None:
    """Measure and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="*", metavar="NAME=PATH", help="in MVTec layout")
    options = parser.parse_args()
    entries: list[dict[str, Any]] = []
    for name, path in (entry.split("=", 1) for entry in options.datasets):
        for patch_size in (1, 3):
            print(f"{name}, patch_size={patch_size}")
            figures = {dtype: dataset_figures(Path(path), patch_size, dtype) for dtype in DTYPES}
            entries.append({"dataset": name, "patch_size": patch_size, **compared(figures)})
    print("demo")
    figures = {dtype: demo_figures(dtype) for dtype in DTYPES}
    entries.append({"dataset": "demo", "patch_size": 1, **compared(figures)})
    write_result("storage", {"comparisons": entries})


if __name__ == "__main__":
    main()
