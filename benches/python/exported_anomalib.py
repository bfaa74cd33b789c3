"""Exported PatchCores, ours and anomalib's, each beside its own original in PyTorch, in one run.

The same weights (EfficientNet-Lite0), images, levels 1-3, patch size 3, coreset of 1 %,
9 neighbours and threads. All four judge images of 224 px, uint8 arrays, one at a time and in turns;
their time is that of normalising, the network, matching, score and map. anomalib runs in its own
interpreter, and does nothing between its turns; its graph is the one that `Patchcore.to_onnx`
writes, without post-processing, and onnxruntime runs it. That needs onnxscript; its coreset takes a
minute.

    python benches/python/exported_anomalib.py [NAME=PATH …] --anomalib PYTHON

Datasets are in MVTec layout; elpv without a path, and where none is named. Those that are not named
keep their figures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, ratios, spread, timed, write_result
from numpy.typing import NDArray
from rival import PAUSE, Rival

import knnspect as ks
from knnspect.data import Geometry, MVTecDataset, elpv_split, read_image
from knnspect.exporting import export

ROUNDS = 3

#: Answers lines: "fit", then "torch" or "onnx" and the number of an image, then "save".
ANOMALIB = """
import json, sys, time
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
import numpy as np
import onnxruntime
import torch
from anomalib.models import Patchcore
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Normalize

folder, weights, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.set_num_threads(threads)
np.random.seed(0)
torch.manual_seed(0)
patchcore = Patchcore(
    backbone="tf_efficientnet_lite0",
    layers=["blocks.1", "blocks.2", "blocks.4"],
    pre_trained=False,
    pre_processor=PreProcessor(transform=Normalize([0.5] * 3, [0.5] * 3)),
    post_processor=False,
    evaluator=False,
    visualizer=False,
)
load_weights(patchcore.model.feature_extractor.feature_extractor, weights)
train, test = np.load(folder / "train.npy"), np.load(folder / "test.npy")

def inputs(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / 255

def fit():
    patchcore.model.train()
    for start in range(0, len(train), 8):
        patchcore.model(batch(train[start : start + 8]))
    patchcore.model.subsample_embedding(0.01)
    patchcore.eval()
    with redirect_stdout(sys.stderr):  # it says much
        # By default its graph takes two images at a time with this network, and no others; and
        # the oldest version of operators that it asks for cannot be had.
        path = patchcore.to_onnx(
            folder, input_size=(224, 224), dynamic_shapes=None, opset_version=18
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])

def judge(kind, number):
    image = inputs(test[number : number + 1])
    if kind == "torch":
        with torch.inference_mode():
            found = patchcore(torch.from_numpy(image))
        return float(found.pred_score[0]), found.anomaly_map.numpy()
    found = dict(zip(names, session.run(names, {session.get_inputs()[0].name: image})))
    return float(found["pred_score"].ravel()[0]), found["anomaly_map"]

results = {"torch": {}, "onnx": {}}
print(json.dumps(version("anomalib")), flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    kind, *rest = line.split()
    if kind == "fit":
        session = fit()
        names = [output.name for output in session.get_outputs()]
    elif kind == "save":
        for name, of in results.items():
            np.save(folder / f"{name}.npy", np.array([of[i][0] for i in range(len(test))]))
            np.save(folder / f"{name}_maps.npy", np.stack([of[i][1] for i in range(len(test))]))
    else:
        results[kind][int(rest[0])] = judge(kind, int(rest[0]))
    print(time.perf_counter() - start, flush=True)
"""


def images_of(
    dataset: Path | None, n_train: int, n_images: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images to learn from and to judge, as the network sees them before normalising."""
    if dataset is None:
        split = elpv_split(
            n_train=n_train, n_functional=n_images // 2, n_defective=n_images - n_images // 2
        )
        train, test = list(split.train), [*split.functional, *split.defective]
    else:
        images = MVTecDataset(dataset)
        train, test = list(images.train[:n_train]), [image.path for image in images.test[:n_images]]
    geometry = Geometry((224, 224))
    both = [
        np.stack([np.round(geometry.prepare(read_image(path)) * 255).astype("u1") for path in of])
        for of in (train, test)
    ]
    one, other = (np.ascontiguousarray(images.transpose(0, 2, 3, 1)) for images in both)
    return one, other


def differences(one: Any, other: Any) -> dict[str, float]:
    """How far scores and maps of two models differ, as shares of the largest of each image."""
    scores = np.abs(other["scores"] - one["scores"]) / np.abs(one["scores"])
    maps = [np.abs(b - a).max() / np.abs(a).max() for a, b in zip(one["maps"], other["maps"])]  # noqa: B905
    return {"scores": float(scores.max()), "maps": float(max(maps))}


def compare(path: Path | None, options: argparse.Namespace) -> dict[str, Any]:
    """Measure all four on one dataset."""
    train, test = images_of(path, options.train, options.images)
    backbone = ks.Backbone("efficientnet_lite0", image_size=224, patch_size=3, device="cpu")
    original = ks.PatchCore(backbone, coreset=0.01, threads=options.threads).fit(train)
    ours = {"torch": original, "onnx": export(original)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "train.npy", train)
        np.save(folder / "test.npy", test)
        anomalib = Rival(options.anomalib, ANOMALIB, folder, options.threads)
        anomalib.ask("fit")
        found: dict[str, dict[int, ks.Prediction]] = {kind: {} for kind in ours}

        def judge(kind: str, number: int) -> float:
            seconds, (prediction,) = timed(lambda: ours[kind].predict(test[number : number + 1]))
            found[kind][number] = prediction
            return float(seconds)

        judges: dict[str, Callable[[int], float]] = {
            "torch": lambda number: judge("torch", number),
            "onnx": lambda number: judge("onnx", number),
            "anomalib torch": lambda number: anomalib.ask(f"torch {number}"),
            "anomalib onnx": lambda number: anomalib.ask(f"onnx {number}"),
        }
        seconds: dict[str, list[float]] = {kind: [] for kind in judges}
        for turn in range(ROUNDS + 1):
            for number in range(len(test)):
                order = list(judges) if (number + turn) % 2 else list(judges)[::-1]
                for kind in order:
                    taken = judges[kind](number)
                    time.sleep(PAUSE)
                    if turn:  # the first round warms up
                        seconds[kind].append(taken)
        anomalib.ask("save")
        anomalib.finish()
        theirs = {
            kind: {
                "scores": np.load(folder / f"{kind}.npy"),
                "maps": np.load(folder / f"{kind}_maps.npy"),
            }
            for kind in ours
        }
    own = {
        kind: {
            "scores": np.array([of[number].score for number in range(len(test))]),
            "maps": [of[number].map for number in range(len(test))],
        }
        for kind, of in found.items()
    }
    return {
        "train_images": len(train),
        "test_images": len(test),
        "rounds": ROUNDS,
        "anomalib_version": anomalib.version,
        "ms": {kind: spread(of) for kind, of in seconds.items()},
        "onnx_by_torch": {
            "knnspect": ratios(seconds["onnx"], seconds["torch"]),
            "anomalib": ratios(seconds["anomalib onnx"], seconds["anomalib torch"]),
        },
        "knnspect_onnx_by_anomalib_onnx": ratios(seconds["onnx"], seconds["anomalib onnx"]),
        "onnx_from_torch": {
            "knnspect": differences(own["torch"], own["onnx"]),
            "anomalib": differences(theirs["torch"], theirs["onnx"]),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="*", metavar="NAME=PATH", default=["elpv"])
    parser.add_argument("--anomalib", required=True, metavar="PYTHON")
    parser.add_argument("--train", type=int, default=20)
    parser.add_argument("--images", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != str(options.threads):
        # Both runtimes read it when they start.
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    file = RESULTS / "exported_anomalib.json"
    figures: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    figures.pop("machine", None)
    figures["threads"] = options.threads
    for entry in options.datasets:
        name, _, path = entry.partition("=")
        figures[name] = compare(Path(path) if path else None, options)
        print(name, json.dumps(figures[name], indent=1), flush=True)
    write_result("exported_anomalib", figures)


if __name__ == "__main__":
    main()
