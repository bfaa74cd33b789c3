"""Methods that learn from the features of one network, side by side: what they find, and how fast.

EfficientNet-Lite0, 224 px, each method with its own defaults, on the solar cells of the demo
(``elpv``), on textures with painted defects (``brick``, ``grass``, ``gravel``; those in the middle
and at the rim), and on datasets in MVTec layout. What a seed decides is done with `--seeds` seeds.
Then all methods judge single images in turns, beside the features of the same levels alone: medians
over the images and the ratio of both, reading excluded, resizing included. ``deep_svdd+10`` also
learns from ten defective cells that are not among those judged.

Methods that are not installed are left out; what was measured before stays in the results, so that
one method can be measured alone. Nothing is fitted on test images; defaults were chosen on welds,
solar cells and painted defects together.

    python benches/python/heads.py elpv brick grass gravel weld=PATH
    python benches/python/heads.py elpv --methods pca_residual
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, ratios, spread, timed, write_result
from detectors import images_of, summary
from painted import TEXTURES, painted
from rival import PAUSE

import knnspect as ks
from knnspect import metrics
from knnspect.data import Labels, elpv_split, read_image
from knnspect.detectors import get_method, methods

#: By their words; with "+10", ten defects are learnt from, too.
METHODS = (
    "patchcore",
    "simplenet",
    "cflow",
    "deep_svdd",
    "deep_svdd+10",
    "student_teacher",
    "transformations",
    "padim",
    "pca_residual",
    "one_class_svm",
    "duad",
)


class Images:
    """What is learnt from and what is judged, with the truth of it.

    Parameters
    ----------
    name : str
        "elpv", one of `TEXTURES`, or a path of a dataset.
    """

    def __init__(self, name: str) -> None:
        self.masks: Any = None
        self.defects: list[Path] | None = None
        self._labels: Labels | None = None
        if name in TEXTURES:
            found = painted(name)
            self.train: Any = found.train
            self.test: Any = np.concatenate([found.good, found.middle, found.rim])
            self.truth = [False] * len(found.good) + [True] * (2 * len(found.good))
            none = np.zeros_like(found.middle_masks)
            self.masks = np.concatenate([none, found.middle_masks, found.rim_masks])
            return
        self.train, self.test, self.truth, dataset = images_of(name)
        if dataset is not None:
            self._labels = Labels(dataset)
        else:
            judged = {*self.test}
            more = elpv_split(n_defective=70).defective
            self.defects = [path for path in more if path not in judged]

    def figures(self, predictions: list[ks.Prediction]) -> dict[str, float]:
        """Return areas under curves."""
        maps: Any = [prediction.map for prediction in predictions]
        scores = [prediction.score for prediction in predictions]
        found = {
            "image_auroc": metrics.auroc(self.truth, scores),
            "map_max_auroc": metrics.auroc(self.truth, [float(m.max()) for m in maps]),
        }
        masks = self.masks
        if self._labels is not None:
            masks, maps = self._labels.pixels(maps)
        if masks is not None:
            found["pixel_auroc"] = metrics.pixel_auroc(masks, maps)
        return {name: round(float(value), 4) for name, value in found.items()}

    def few(self) -> list[Any]:
        """Return ten of the images that are judged, as arrays."""
        places = np.unique(np.linspace(0, len(self.test) - 1, 10).astype(int))
        some = [self.test[place] for place in places]
        return [one if isinstance(one, np.ndarray) else read_image(one) for one in some]


def measured(name: str, images: Images, seeds: int) -> tuple[dict[str, Any], Any]:
    """Return the figures of a method, and what it learnt with the first seed."""
    word, _, labelled = name.partition("+")
    kind: Any = get_method(word)
    given = {"defects": images.defects} if labelled else {}
    runs, first = [], None
    for seed in range(seeds if "seed" in kind.parameters else 1):
        detector = kind(**({"seed": seed} if "seed" in kind.parameters else {}))
        detector.backbone.device = "cpu"
        start = time.perf_counter()
        detector.fit(images.train, **given)
        seconds = time.perf_counter() - start
        runs.append(
            {"fit_seconds": round(seconds, 2), **images.figures(detector.predict(images.test))}
        )
        first = first or detector
    return {"runs": runs, **summary(runs)}, first


def latencies(images: Images, detectors: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Judge single images, all detectors in turns, and their features alone."""
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in detectors}
    for image in images.few():
        times: dict[str, tuple[list[float], list[float]]] = {n: ([], []) for n in detectors}
        for _ in range(repeats):
            for name, detector in detectors.items():
                works = (
                    lambda d=detector, i=image: d.predict([i], n_workers=0),
                    lambda d=detector, i=image: list(d.backbone.iterate([i], 1, 0, pooled=False)),
                )
                for kept, work in zip(times[name], works, strict=True):
                    time.sleep(PAUSE)
                    kept.append(timed(work)[0])
        for name, both in times.items():
            for kept, values in zip(seconds[name], both, strict=True):
                kept.append(float(np.median(values)))
    return {
        name: {
            "one_image": spread(whole),
            "features_alone": spread(alone),
            "over_features": ratios(whole, alone),
        }
        for name, (whole, alone) in seconds.items()
    }


def main() -> None:
    """Measure, and keep the figures beside those of other methods and images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+", metavar="NAME[=PATH]", help="see above")
    parser.add_argument("--methods", default=",".join(METHODS), help="separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kept = RESULTS / "heads.json"
    figures = json.loads(kept.read_text())["datasets"] if kept.exists() else {}
    chosen = [n for n in options.methods.split(",") if n.partition("+")[0] in methods()]
    for entry in options.datasets:
        name, _, path = entry.partition("=")
        images, fitted = Images(path or name), {}
        for method in chosen:
            if "+" in method and images.defects is None:
                continue
            found, fitted[method] = measured(method, images, options.seeds)
            figures.setdefault(name, {})[method] = found
            print(name, method, found, flush=True)
        for method, found in latencies(images, fitted, options.repeats).items():
            figures[name][method] |= found
            print(name, method, json.dumps(found), flush=True)
        about = {"threads": options.threads, "seeds": options.seeds, "datasets": figures}
        write_result("heads", about)


if __name__ == "__main__":
    main()
