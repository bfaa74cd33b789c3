"""AUPIMO against anomalib's, on the same maps: random ones, and PatchCore's of datasets.

anomalib counts at 300,000 thresholds in equal steps between the lowest and the highest value of
normal images, and begins and ends its integral at the rates nearest to those asked for; ours is
exact. So both are compared twice: at 1e-5 to 1e-4, and at the nearest rates that thresholds
reach, where only the steps are left. Differences are those of single images. anomalib runs in its
own interpreter. Datasets that are not named keep their figures.

    python benches/python/metrics.py hazelnut=PATH weld=PATH --anomalib PYTHON
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, write_result
from numpy.typing import NDArray
from rival import Rival

import knnspect as ks
from knnspect import metrics
from knnspect.data import Labels, MVTecDataset

#: Answers lines "LOW HIGH", two rates; writes the overlaps of all images to "areas.npy".
ANOMALIB = """
import json, sys, time
from importlib.metadata import version
from pathlib import Path
import numpy as np
import torch
from anomalib.metrics.pimo.functional import aupimo_scores

folder = Path(sys.argv[1])
torch.set_num_threads(int(sys.argv[3]))
print(json.dumps(version("anomalib")), flush=True)
for line in sys.stdin:
    rates = tuple(float(word) for word in line.split())
    maps, masks = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("maps", "masks"))
    start = time.perf_counter()
    areas = aupimo_scores(maps, masks, fpr_bounds=rates, force=True)[4]
    seconds = time.perf_counter() - start
    np.save(folder / "areas.npy", areas.numpy())
    print(seconds, flush=True)
"""

Case = tuple[NDArray[np.bool_], NDArray[np.float32]]


def random_case(n_images: int, seed: int) -> Case:
    """Maps of noise that is smooth over some pixels, half of them with a defect."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    masks = np.zeros((n_images, 256, 256), bool)
    maps = np.stack([gaussian_filter(rng.standard_normal((256, 256)), 2) for _ in masks])
    for i in range(n_images // 2):
        top, left, height, width = rng.integers(8, 96, 4)
        masks[i, top : top + height, left : left + width] = True
        maps[i][masks[i]] += rng.uniform(0, 8) * maps.std()
    return masks, maps.astype(np.float32)


def case_of(path: Path, most: int, threads: int) -> Case:
    """PatchCore's maps of a dataset, of so many normal and defective images at most.

    anomalib takes maps of one size: of images, those count that have the most frequent one.
    """
    dataset = MVTecDataset(path)
    labels = Labels(dataset)
    patchcore = ks.PatchCore(threads=threads).fit(dataset.train)
    maps = [p.map for p in patchcore.predict([image.path for image in dataset.test])]
    masks, maps = labels.pixels(maps)
    (shape, _), *_ = Counter(map_.shape for map_ in maps).most_common()
    pairs = [(mask, map_) for mask, map_ in zip(masks, maps, strict=True) if map_.shape == shape]
    chosen = [pair for pair in pairs if not pair[0].any()][:most]
    chosen += [pair for pair in pairs if pair[0].any()][:most]
    return np.stack([mask for mask, _ in chosen]), np.stack([map_ for _, map_ in chosen])


def compare(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Return what both say of one case."""
    masks, maps = case
    is_normal = ~masks.any(axis=(1, 2))
    n_pixels = int(masks[is_normal].size)
    nearest = (round(1e-5 * n_pixels) / n_pixels, round(1e-4 * n_pixels) / n_pixels)
    figures: dict[str, Any] = {
        "normal_images": int(is_normal.sum()),
        "defective_images": int((~is_normal).sum()),
        "pixels": list(maps.shape[1:]),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "maps.npy", maps)
        np.save(folder / "masks.npy", masks)
        anomalib = Rival(options.anomalib, ANOMALIB, folder, options.threads)
        figures["anomalib"] = anomalib.version
        for words, rates in (("1e-5 to 1e-4", (1e-5, 1e-4)), ("nearest rates", nearest)):
            ours = metrics.aupimo(masks, maps, rates)
            anomalib.ask(f"{rates[0]} {rates[1]}")
            theirs = np.load(folder / "areas.npy")
            differences = np.abs(ours - theirs)[~is_normal]
            figures[words] = {
                "rates": list(rates),
                "ours": round(float(np.nanmean(ours)), 6),
                "anomalib": round(float(np.nanmean(theirs)), 6),
                "mean_difference": float(f"{differences.mean():.2g}"),
                "largest_difference": float(f"{differences.max():.2g}"),
            }
        anomalib.finish()
    return figures


def main() -> None:
    """Run the comparison and keep its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="*", metavar="NAME=PATH", help="in MVTec layout")
    parser.add_argument("--anomalib", metavar="PYTHON", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most", type=int, default=30, help="images of each class (memory)")
    options = parser.parse_args()
    kept = RESULTS / "metrics.json"
    cases = json.loads(kept.read_text())["aupimo"] if kept.exists() else {}
    cases["random"] = compare(random_case(20, seed=0), options)
    print("random", json.dumps(cases["random"], indent=1), flush=True)
    for entry in options.datasets:
        name, path = entry.split("=", 1)
        cases[name] = compare(case_of(Path(path), options.most, options.threads), options)
        print(name, json.dumps(cases[name], indent=1), flush=True)
    write_result("metrics", {"threads": options.threads, "aupimo": cases})


if __name__ == "__main__":
    main()
