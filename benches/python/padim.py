"""PaDiM against anomalib's, in one run: the same weights, images and threads.

EfficientNet-Lite0, levels 1-3, images of 224 px as uint8 arrays in memory. anomalib keeps 100
random channels of all levels at the finest grid, as its default network has; ours runs with its
defaults, and with the paper's preset. What is drawn is drawn with three seeds. Fits take turns:
from images to a model that judges, ours with its calibration, anomalib's without one. Then all
judge the test images one by one. anomalib runs in its own interpreter, and does nothing between its
turns.

    python benches/python/padim.py hazelnut=PATH transistor=PATH --anomalib PYTHON
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from common import spread, timed, write_result
from numpy.typing import NDArray
from PIL import Image
from rival import PAUSE, Rival

import knnspect as ks
from knnspect import metrics
from knnspect.data import Geometry, MVTecDataset, read_image, read_mask

SIDE, SEEDS = 224, 3

#: Answers lines: "fit" and a seed, "judge" and the number of an image, then "save" and the seed.
ANOMALIB = """
import json, random, sys, time
from importlib.metadata import version
from pathlib import Path
import numpy as np
import torch
from anomalib.models.image.padim.torch_model import PadimModel

folder, weights, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.set_num_threads(threads)
train, test = np.load(folder / "train.npy"), np.load(folder / "test.npy")

def new(seed):
    random.seed(seed)
    model = PadimModel(
        backbone="tf_efficientnet_lite0",
        layers=["blocks.1", "blocks.2", "blocks.4"],
        pre_trained=False,
        n_features=100,
    )
    load_weights(model.feature_extractor.feature_extractor, weights)
    return model

def fit(model):
    model.train()
    model.feature_extractor.eval()
    for start in range(0, len(train), 16):
        model(batch(train[start : start + 16]))
    model.fit()
    model.eval()

found = {}
print(json.dumps(version("anomalib")), flush=True)
for line in sys.stdin:
    kind, number = line.split()
    if kind == "fit":
        model = new(int(number))
    start = time.perf_counter()
    if kind == "fit":
        fit(model)
    elif kind == "judge":
        with torch.inference_mode():
            result = model(batch(test[int(number)][None]))
        found[int(number)] = float(result.pred_score[0]), result.anomaly_map.numpy()[0, 0]
    else:
        np.save(folder / f"scores{number}.npy", np.array([found[i][0] for i in range(len(test))]))
        np.save(folder / f"maps{number}.npy", np.stack([found[i][1] for i in range(len(test))]))
    print(time.perf_counter() - start, flush=True)
"""


def images_of(
    dataset: Path, n_train: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[bool], list[NDArray[np.bool_]]]:
    """Images to learn from and to judge, which of them are defective, and where."""
    found, geometry = MVTecDataset(dataset), Geometry((SIDE, SIDE))

    def prepared(path: Path) -> NDArray[np.uint8]:
        image = geometry.prepare(read_image(path)).transpose(1, 2, 0)
        rounded: NDArray[np.uint8] = np.round(image * 255).astype("u1")
        return rounded

    def mask(path: Path | None) -> NDArray[np.bool_]:
        if path is None:
            return np.zeros((SIDE, SIDE), bool)
        resized = Image.fromarray(read_mask(path)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        return np.asarray(resized, bool)

    train = np.stack([prepared(path) for path in found.train[:n_train]])
    test = np.stack([prepared(each.path) for each in found.test])
    truth = [each.is_defective for each in found.test]
    return train, test, truth, [mask(each.mask) for each in found.test]


def ours(seed: int) -> dict[str, ks.Padim]:
    """Return our detectors, not fitted."""
    paper = ks.Padim.from_preset("paper", seed=seed)
    for each in (found := {"default": ks.Padim(seed=seed), "paper": paper}).values():
        each.backbone.set_params(image_size=SIDE, device="cpu")
    return found


def compare(dataset: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure all on one dataset."""
    train, test, truth, masks = images_of(dataset, options.train)
    fits: dict[str, list[float]] = {"anomalib": [], "default": [], "paper": []}
    judged: dict[str, list[float]] = {name: [] for name in fits}
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in fits}

    def measure(name: str, scores: Any, maps: Any) -> None:
        figures[name].append(
            {
                "image_auroc": metrics.auroc(truth, list(map(float, scores))),
                "pixel_auroc": metrics.pixel_auroc(masks, list(maps)),
            }
        )

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "train.npy", train)
        np.save(folder / "test.npy", test)
        anomalib = Rival(options.anomalib, ANOMALIB, folder, options.threads)
        anomalib.ask("fit 0")  # warms up
        ours(0)["default"].fit(train)
        for seed in range(SEEDS):
            detectors = ours(seed)
            order = list(fits)[:: 1 if seed % 2 else -1]
            for kind in order:
                if kind == "anomalib":
                    fits[kind].append(anomalib.ask(f"fit {seed}"))
                else:
                    fits[kind].append(timed(partial(detectors[kind].fit, train))[0])
                time.sleep(PAUSE)
            found: dict[str, list[ks.Prediction]] = {kind: [] for kind in detectors}
            for number in range(len(test)):
                judged["anomalib"].append(anomalib.ask(f"judge {number}"))
                time.sleep(PAUSE)
                for kind, each in detectors.items():
                    seconds, prediction = timed(partial(each.predict, test[number : number + 1]))
                    judged[kind].append(seconds)
                    found[kind] += prediction
                    time.sleep(PAUSE)
            anomalib.ask(f"save {seed}")
            scores, maps = (np.load(folder / f"{what}{seed}.npy") for what in ("scores", "maps"))
            measure("anomalib", scores, maps)
            for kind, predictions in found.items():
                measure(kind, [p.score for p in predictions], [p.map for p in predictions])
        anomalib.finish()
    means = {
        kind: {what: round(float(np.mean([one[what] for one in of])), 4) for what in of[0]}
        for kind, of in figures.items()
    }
    return {
        "train_images": len(train),
        "test_images": len(test),
        "seeds": SEEDS,
        "anomalib_version": anomalib.version,
        "means": means,
        "each": figures,
        "fit_seconds": {kind: [round(each, 2) for each in of] for kind, of in fits.items()},
        "anomalib_fit_over_ours": {
            kind: round(median(fits["anomalib"]) / median(of), 2) for kind, of in fits.items()
        },
        "ms_an_image": {kind: spread(of) for kind, of in judged.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+", metavar="NAME=PATH")
    parser.add_argument("--anomalib", required=True, metavar="PYTHON")
    parser.add_argument("--train", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures: dict[str, Any] = {"threads": options.threads}
    for entry in options.datasets:
        name, _, path = entry.partition("=")
        figures[name] = compare(Path(path), options)
        print(name, {k: v for k, v in figures[name].items() if k != "each"}, flush=True)
    write_result("padim", figures)


if __name__ == "__main__":
    main()
