"""PatchCore against anomalib's, in one run: the same weights, images, levels and threads.

EfficientNet-Lite0, levels 1-3, patch size 3, 1 % coreset, 9 neighbours, sigma 4. Both get images
that were resized to 224 px beforehand, as uint8 arrays, one at a time and in turns; their time is
that of normalising, the network, matching, score and map at 224 px, the median of `--repeats` for
each image. anomalib (its `PatchcoreModel` in evaluation mode) runs in its own interpreter and does
nothing between its turns. Its coreset takes minutes. The features of both must agree. Also told:
ours with every cell of every normal image (`coreset=None`), with a coreset of 10 %, and how much
accuracy varies with the row that a coreset of 1 % begins with (five seeds, exact and projected).
Datasets that are not named keep their figures.

    python benches/python/patchcore.py hazelnut=PATH transistor=PATH --anomalib PYTHON
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
from common import RESULTS, ratios, spread, timed, write_result
from numpy.typing import NDArray
from PIL import Image
from rival import PAUSE, Rival

import knnspect as ks
from knnspect import metrics
from knnspect.data import Geometry, MVTecDataset, read_image, read_mask

Images = NDArray[np.uint8]

#: Answers lines: "fit SEED", the number of an image to judge, "save NAME". Writes features last.
ANOMALIB = """
import json, sys, time
from importlib.metadata import version
from pathlib import Path
import numpy as np
import torch
from anomalib.models.image.patchcore.torch_model import PatchcoreModel

folder, weights, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.set_num_threads(threads)
layers = ["blocks.1", "blocks.2", "blocks.4"]
model = PatchcoreModel(layers=layers, backbone="tf_efficientnet_lite0", pre_trained=False)
load_weights(model.feature_extractor.feature_extractor, weights)
train, test = np.load(folder / "train.npy"), np.load(folder / "test.npy")

def fit():
    model.train()
    for start in range(0, len(train), 16):
        model(batch(train[start : start + 16]))
    model.subsample_embedding(0.01)
    model.eval()

maps, scores = {}, {}
print(json.dumps(version("anomalib")), flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    word, *rest = line.split()
    if word == "fit":
        torch.manual_seed(int(rest[0]))  # the row to begin with
        np.random.seed(int(rest[0]))  # the projection
        fit()
    elif word == "save":
        np.save(folder / f"maps{rest[0]}.npy", np.stack([maps[i] for i in range(len(test))]))
        np.save(folder / f"scores{rest[0]}.npy", np.array([scores[i] for i in range(len(test))]))
    else:
        image = int(line)
        with torch.no_grad():
            found = model(batch(test[image : image + 1]))
        maps[image], scores[image] = found.anomaly_map[0, 0].numpy(), float(found.pred_score[0])
    print(time.perf_counter() - start, flush=True)
model.train()
with torch.no_grad():
    np.save(folder / "features.npy", model(batch(test[:1])).numpy())
"""


def resized(paths: list[Path]) -> Images:
    """Images as the network sees them, before its own normalisation."""
    geometry = Geometry((224, 224))
    prepared = [geometry.prepare(read_image(path)) for path in paths]
    return np.stack([np.round(image.transpose(1, 2, 0) * 255).astype("u1") for image in prepared])


def masks_of(dataset: MVTecDataset) -> list[NDArray[np.bool_]]:
    """Masks at 224 px."""
    masks = []
    for image in dataset.test:
        mask = np.zeros((224, 224), bool)
        if image.mask is not None:
            picture = Image.fromarray(read_mask(image.mask))
            mask = np.asarray(picture.resize((224, 224), Image.Resampling.NEAREST))
        masks.append(mask)
    return masks


def accuracy(dataset: MVTecDataset, maps: Any, scores: Any) -> dict[str, float]:
    """Return areas under the ROC curves of pixels and images."""
    truth = [image.is_defective for image in dataset.test]
    return {
        "pixel_auroc": round(metrics.pixel_auroc(masks_of(dataset), list(maps)), 4),
        "image_auroc": round(metrics.auroc(truth, list(scores)), 4),
    }


def compare(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure all rivals on one dataset."""
    dataset = MVTecDataset(path)
    train, test = resized(dataset.train[:50]), resized([image.path for image in dataset.test])
    backbone = ks.Backbone("efficientnet_lite0", image_size=224, patch_size=3, device="cpu")
    ours: dict[str, ks.PatchCore] = {
        "1 %": ks.PatchCore(backbone, threads=options.threads),
        "10 %": ks.PatchCore(backbone, coreset=0.1, threads=options.threads),
        "all": ks.PatchCore(backbone, coreset=None, threads=options.threads),
    }
    backbone.extract(test[:1])  # loads the network
    figures: dict[str, Any] = {"train_images": len(train), "test_images": len(test)}
    for name, patchcore in ours.items():
        fit_seconds, _ = timed(lambda p=patchcore: p.fit(train))  # type: ignore[misc]
        figures[name] = {
            "fit_seconds": round(fit_seconds, 3),
            "mb": round(patchcore.nbytes_ / 1e6, 2),
        }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "train.npy", train)
        np.save(folder / "test.npy", test)
        anomalib = Rival(options.anomalib, ANOMALIB, folder, options.threads)
        figures["anomalib"] = {
            "version": anomalib.version,
            "fit_seconds": round(anomalib.ask("fit 0"), 2),
        }
        seconds: dict[str, list[float]] = {rival: [] for rival in (*ours, "anomalib")}
        predictions: dict[str, list[ks.Prediction]] = {rival: [] for rival in ours}
        for image in range(len(test)):
            for rival, patchcore in ours.items():
                predictions[rival] += patchcore.predict(test[image : image + 1], n_workers=0)
            times: dict[str, list[float]] = {rival: [] for rival in seconds}
            for _ in range(options.repeats):
                time.sleep(PAUSE)
                times["anomalib"].append(anomalib.ask(str(image)))
                for rival, patchcore in ours.items():
                    one = test[image : image + 1]
                    time.sleep(PAUSE)
                    taken, _ = timed(
                        lambda p=patchcore, o=one: p.predict(o, n_workers=0)  # type: ignore[misc]
                    )
                    times[rival].append(taken)
            for rival, values in times.items():
                seconds[rival].append(float(np.median(values)))
        by_seed = []
        for seed in range(options.anomalib_seeds):
            if seed:
                anomalib.ask(f"fit {seed}")
                for image in range(len(test)):
                    anomalib.ask(str(image))
            anomalib.ask(f"save {seed}")
            maps, scores = (np.load(folder / f"{kind}{seed}.npy") for kind in ("maps", "scores"))
            by_seed.append(accuracy(dataset, maps, scores))
        anomalib.finish()
        theirs = np.load(folder / "features.npy")
        rows = backbone.extract(test[:1]).pyramid.concatenated().reshape(theirs.shape)
        np.testing.assert_allclose(rows, theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())
        figures["anomalib"] |= by_seed[0]
    for rival in ours:
        found = predictions[rival]
        figures[rival] |= accuracy(dataset, [p.map for p in found], [p.score for p in found])
    figures["1 % by seed"] = accuracy_by_seed(dataset, backbone, train, test)
    figures["1 % by seed"]["anomalib"] = by_seed
    for rival, values in seconds.items():
        figures[rival] |= spread(values)
        if rival != "anomalib":
            figures[rival]["anomalib_over_it"] = ratios(seconds["anomalib"], values)
    return figures


def accuracy_by_seed(
    dataset: MVTecDataset, backbone: ks.Backbone, train: Images, test: Images
) -> dict[str, list[dict[str, float]]]:
    """Return the accuracy of coresets of 1 % that begin with other rows."""
    figures: dict[str, list[dict[str, float]]] = {}
    for name, projection in (("exact", None), ("projected to 64 dimensions", 64)):
        figures[name] = []
        for seed in range(5):
            patchcore = ks.PatchCore(backbone, projection=projection, seed=seed).fit(train)
            found = patchcore.predict(test)
            scores = [prediction.score for prediction in found]
            figures[name].append(accuracy(dataset, [p.map for p in found], scores))
    return figures


def main() -> None:
    """Run the comparison and keep its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+", metavar="NAME=PATH", help="in MVTec layout")
    parser.add_argument("--anomalib", metavar="PYTHON", required=True)
    parser.add_argument("--anomalib-seeds", type=int, default=1, help="two minutes each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kept = RESULTS / "patchcore.json"
    datasets = json.loads(kept.read_text())["datasets"] if kept.exists() else {}
    for entry in options.datasets:
        name, path = entry.split("=", 1)
        datasets[name] = compare(Path(path), options)
        print(name, json.dumps(datasets[name], indent=1), flush=True)
    write_result("patchcore", {"threads": options.threads, "datasets": datasets})


if __name__ == "__main__":
    main()
