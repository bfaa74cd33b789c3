"""What the defaults of SPADE and PatchCore are worth, beside other choices.

On the sets of ``judged`` (textures with painted defects, solar cells, datasets in MVTec layout);
EfficientNet-Lite0. Nothing is fitted on test images, and every choice is one for all sets. The
image scores are the method's own, the maximum of the map, and the mean of its top 1 % and 3 %.

    python benches/python/defaults.py weld=PATH hazelnut=PATH transistor=PATH
    python benches/python/defaults.py … --only default        # the defaults alone
    python benches/python/defaults.py weld=PATH --seconds     # one image, over its features alone
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import RESULTS, timed, write_result
from judged import Set, figures, sets

import knnspect as ks
from knnspect import metrics
from knnspect.data import read_image
from knnspect.detectors.maps import mean_of_top

Make = Callable[[], Any]


def near(kind: Any, levels: tuple[int, ...], size: int, patch_size: int, **more: Any) -> Make:
    """Return what makes a detector on other features than the default ones."""
    return lambda: kind(
        ks.Backbone(levels=levels, image_size=size, patch_size=patch_size), score="map", **more
    )


#: By name: those called "default" are what users get.
CHOICES: dict[str, Make] = {
    "SPADE default": ks.Spade,
    "PatchCore default": ks.PatchCore,
    "SPADE paper": lambda: ks.Spade.from_preset("paper"),
    "PatchCore paper": lambda: ks.PatchCore.from_preset("paper"),
    **{
        f"SPADE levels {levels} {size} px {patch_size}x{patch_size}": near(
            ks.Spade, levels, size, patch_size
        )
        for levels, size, patch_size in [
            ((1, 2, 3), 224, 3),
            ((2, 3), 224, 3),
            ((2, 3), 256, 3),
            ((2, 3), 320, 3),
        ]
    },
    **{
        f"PatchCore {share:.0%} levels {levels} {size} px {patch_size}x{patch_size}": near(
            ks.PatchCore, levels, size, patch_size, coreset=share
        )
        for share, levels, size, patch_size in [
            (0.01, (1, 2, 3), 224, 3),
            (0.01, (2, 3), 256, 3),
            (0.1, (2, 3), 256, 3),
        ]
    },
}


def measure(images: Set, detector: Any) -> dict[str, Any]:
    """Return the figures of a detector by each of its image scores."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # K larger than a small set
        seconds, _ = timed(lambda: detector.fit(images.train))
        predictions = detector.set_params(score="image").predict(images.test)
    maps = [prediction.map for prediction in predictions]
    found: dict[str, Any] = figures(images, maps, [float(map_.max()) for map_ in maps])
    others = {"own": [prediction.score for prediction in predictions]}
    for top in (0.01, 0.03):
        others[f"top_{top}"] = [mean_of_top(map_, top) for map_ in maps]
    is_defective = [kind != "good" for kind in images.kinds]
    for name, scores in others.items():
        found[f"image_auroc_{name}"] = round(metrics.auroc(is_defective, scores), 4)
    return found | {"fit_seconds": round(seconds, 1)}


def latency(images: Set, threads: int) -> dict[str, Any]:
    """Return the seconds of one image with the defaults, over its features alone, in turns."""
    pictures = [read_image(file) for file in images.test[:10]]
    found = {}
    for name in ("SPADE default", "PatchCore default"):
        detector = CHOICES[name]().set_params(threads=threads).fit(images.train)
        pooled = isinstance(detector, ks.Spade)
        pairs = []
        for picture in [pictures[0], *pictures]:
            features, _ = timed(partial(detector.backbone.extract, [picture]))
            whole, _ = timed(partial(detector.predict, [picture], n_workers=0))
            pairs.append((features, whole))
        pairs = pairs[1:]  # the first is slower, whatever is done
        found[name] = {
            "features_seconds": median(f for f, _ in pairs),
            "predict_seconds": median(p for _, p in pairs),
            "ratio": round(median(p / f for f, p in pairs), 3),
            "pooled_features": pooled,
        }
    return found


def main() -> None:
    """Measure all sets with all choices, or the time of one image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="*", metavar="NAME=PATH", help="in MVTec layout")
    parser.add_argument("--only", default="", help="choices whose name has this")
    parser.add_argument("--seconds", action="store_true", help="measure the time of one image")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    paths = {name: Path(path) for name, _, path in (e.partition("=") for e in options.datasets)}
    file = RESULTS / "defaults.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    found = {key: before.get(key, {}) for key in ("sets", "seconds")}
    for name, images in sets(paths):
        if options.seconds and name in paths:
            found["seconds"][name] = latency(images, options.threads)
            print(name, found["seconds"][name], flush=True)
        for choice, make in CHOICES.items():
            if options.only in choice and not options.seconds:
                detector = make().set_params(threads=options.threads, backbone__device="cpu")
                values = measure(images, detector)
                found["sets"].setdefault(name, {})[choice] = values
                print(name, choice, values, flush=True)
        write_result("defaults", {"threads": options.threads, **found})


if __name__ == "__main__":
    main()
