"""An epoch of CFLOW-AD against anomalib's, in one run: the same features, vectors and threads.

EfficientNet-Lite0, levels 1-3, 50 images of 224 px. anomalib runs the `training_step` of its
`Cflow` with its defaults (8 coupling blocks, 64 vectors a step), in its own interpreter, in 4
batches of images; it extracts features in every epoch, and that time is told apart. Ours, once with
its defaults and once with 8 blocks, trains on features that were extracted beforehand, and passes
through all images, none held out; standardizing and calibrating are part of its time. Epochs take
turns; both go through every cell of every image once.

    python benches/python/cflow_epoch.py hazelnut=PATH --anomalib PYTHON
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import timed, write_result
from patchcore import resized
from rival import PAUSE, Rival

import knnspect as ks
from knnspect.data import MVTecDataset
from knnspect.detectors.heads.networks.cflow import CFlowNetwork
from knnspect.training.loop import Training, TrainingSettings
from knnspect.training.sources import FeatureSource

#: Answers "epoch" and "features" with seconds; writes features last.
ANOMALIB = """
import json, sys, time
from importlib.metadata import version
from pathlib import Path
import numpy as np
from anomalib.data import ImageBatch
from anomalib.models import Cflow

folder, weights, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.set_num_threads(threads)
layers = ["blocks.1", "blocks.2", "blocks.4"]
module = Cflow(backbone="tf_efficientnet_lite0", layers=layers, pre_trained=False)
load_weights(module.model.encoder.feature_extractor, weights)
optimizer = module.configure_optimizers()
# What a trainer would give it.
module.optimizers = lambda: optimizer
module.manual_backward = lambda loss: loss.backward()
module.log = lambda *args, **kwargs: None
batches = [batch(part) for part in np.array_split(np.load(folder / "train.npy"), 4)]
print(json.dumps(version("anomalib")), flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    if line.strip() == "epoch":
        module.train()
        module.model.encoder.eval()
        for images in batches:
            module.training_step(ImageBatch(image=images))
    else:
        with torch.no_grad():
            found = [module.model.encoder(images) for images in batches]
    print(time.perf_counter() - start, flush=True)
for number, layer in enumerate(layers):
    features = torch.cat([part[layer] for part in found]).permute(0, 2, 3, 1)
    np.save(folder / f"level{number}.npy", features.numpy())
"""


def our_training(
    gallery: ks.Gallery, coupling_blocks: int, n_epochs: int
) -> Training[ks.FeaturePyramid]:
    """Return a training that has not begun."""
    torch.manual_seed(0)
    network = CFlowNetwork(gallery.shapes, coupling_blocks, 2e-3)
    settings = TrainingSettings(n_epochs, None, 0, mixed_precision=False)
    return Training(network, FeatureSource(gallery), gallery.ids, [], settings)


def compare(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure all rivals on one dataset."""
    train = resized(MVTecDataset(path).train[:50])
    backbone = ks.Backbone("efficientnet_lite0", image_size=224, device="cpu")
    backbone.extract(train[:1])  # loads the network
    feature_seconds, features = timed(lambda: backbone.extract(train))
    gallery = ks.Gallery()
    gallery.add(features.pyramid)
    n_vectors = sum(len(train) * height * width for height, width, _ in gallery.shapes)
    seconds: dict[str, list[float]] = {"anomalib": [], "4 blocks": [], "8 blocks": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "train.npy", train)
        anomalib = Rival(options.anomalib, ANOMALIB, folder, options.threads)
        for _ in range(options.epochs):
            time.sleep(PAUSE)
            seconds["anomalib"].append(anomalib.ask("epoch"))
            for n_blocks in (4, 8):
                time.sleep(PAUSE)
                training = our_training(gallery, n_blocks, 1)
                taken, _ = timed(lambda t=training: t.run(progress=False))  # type: ignore[misc]
                seconds[f"{n_blocks} blocks"].append(taken)
        time.sleep(PAUSE)
        their_features = anomalib.ask("features")
        anomalib.finish()
        for number, level in enumerate(features.pyramid.levels):
            theirs = np.load(folder / f"level{number}.npy")
            np.testing.assert_allclose(level, theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())
    medians = {rival: float(np.median(values)) for rival, values in seconds.items()}
    return {
        "images": len(train),
        "vectors": n_vectors,
        "anomalib_version": anomalib.version,
        "seconds": {rival: [round(v, 2) for v in values] for rival, values in seconds.items()},
        "median_seconds": {rival: round(value, 2) for rival, value in medians.items()},
        "feature_seconds": {
            "anomalib": round(their_features, 2),
            "ours": round(feature_seconds, 2),
        },
        "anomalib_over_ours": {
            rival: round(medians["anomalib"] / medians[rival], 2)
            for rival in ("4 blocks", "8 blocks")
        },
        "anomalib_without_features_over_ours": {
            rival: round((medians["anomalib"] - their_features) / medians[rival], 2)
            for rival in ("4 blocks", "8 blocks")
        },
    }


def main() -> None:
    """Run the comparison and keep its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+", metavar="NAME=PATH", help="in MVTec layout")
    parser.add_argument("--anomalib", metavar="PYTHON", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures: dict[str, Any] = {}
    for entry in options.datasets:
        name, path = entry.split("=", 1)
        figures[name] = compare(Path(path), options)
        print(name, json.dumps(figures[name], indent=1), flush=True)
    write_result("cflow_epoch", {"threads": options.threads, "datasets": figures})


if __name__ == "__main__":
    main()
