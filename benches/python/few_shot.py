"""What variants of normal images are worth: with few images, and with parts that lie in any way.

Few: draws of 1, 4 and 16 of the normal solar cells of `elpv_split` are learnt, as they are and in
variants; its 60 functional and 60 defective cells are judged. The image AUROC by the maximum of the
map and by the mean of its largest 1 %: mean, standard deviation and worst of all draws, and in how
many of them variants were no worse.

Turned: datasets in MVTec layout are learnt as they are, without and with 8 rotations; their test
images are judged as they are, and each turned by an angle of its own. Image and pixel AUROC.

EfficientNet-Lite0, 224 px, levels 1-3, 3x3 averaging; PatchCore of all cells, or SPADE. Nothing is
fitted on test images, no angle or brightness was chosen for a set.

    python benches/python/few_shot.py hazelnut=PATH
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result
from numpy.typing import NDArray

import knnspect as ks
from knnspect import metrics
from knnspect.data import MVTecDataset, elpv_split, read_image, read_mask
from knnspect.data.decoded import contiguous
from knnspect.detectors.maps import mean_of_top
from knnspect.progress import Stopwatch
from knnspect.views.turning import turned

#: How an image is scored by its map.
SCORES: dict[str, Callable[[NDArray[np.float32]], float]] = {
    "map": lambda map_: float(map_.max()),
    "top": lambda map_: mean_of_top(map_, 0.01),
}
#: Variants of solar cells that are tried.
FEW = ("rotations=8", "rotations=2,mirror", "rotations=2,brightness=0.8:1.2,mirror")

BACKBONE = ks.Backbone(patch_size=3)


def detector(method: str, variants: str | None) -> ks.Spade | ks.PatchCore:
    """Return what learns and judges."""
    given = None if variants is None else ks.Variants.parse(variants)
    if method == "spade":
        return ks.Spade(BACKBONE, score="map", variants=given)
    return ks.PatchCore(BACKBONE, coreset=None, score="map", variants=given)


def judged(
    learnt: ks.Spade | ks.PatchCore, features: Sequence[ks.Features]
) -> tuple[dict[str, list[float]], list[NDArray[np.float32]]]:
    """Return the scores of images by each of `SCORES`, and their maps.

    Their features, in batches, are extracted once for all that judges them.
    """
    predictions = learnt._iter_predict(iter(features), Stopwatch())
    maps = [prediction.map for prediction in predictions]
    return {name: [score(map_) for map_ in maps] for name, score in SCORES.items()}, maps


def few(
    method: str, counts: Sequence[int], n_draws: int, variants: Sequence[str]
) -> dict[str, Any]:
    """Return the image AUROC of all draws of solar cells."""
    split = elpv_split()
    test = list(BACKBONE.iterate([*split.functional, *split.defective]))
    is_defective = [False] * len(split.functional) + [True] * len(split.defective)
    found: dict[str, Any] = {}
    for n in counts:
        draws: dict[str, list[dict[str, float]]] = {}
        for draw in range(n_draws):
            rng = np.random.default_rng([draw, n])
            drawn = rng.choice(len(split.train), n, replace=False)
            images = {split.train[i].name: split.train[i] for i in drawn}
            for each in (None, *variants):
                start = time.perf_counter()
                scores, _ = judged(detector(method, each).fit(images), test)
                aurocs = {name: metrics.auroc(is_defective, own) for name, own in scores.items()}
                draws.setdefault(each or "none", []).append(aurocs)
                words = ", ".join(f"{name} {auroc:.4f}" for name, auroc in aurocs.items())
                seconds = time.perf_counter() - start
                print(
                    f"{n:3} cells, draw {draw:2}, {each or 'none':40} {words}  {seconds:.0f} s",
                    flush=True,
                )
        found[str(n)] = {each: summary(own, draws["none"]) for each, own in draws.items()}
    return found


def summary(
    draws: list[dict[str, float]], without: list[dict[str, float]]
) -> dict[str, dict[str, Any]]:
    """Return mean, spread and worst of the draws for each score, and the draws themselves."""
    result = {}
    for name in SCORES:
        values = np.array([draw[name] for draw in draws])
        plain = np.array([draw[name] for draw in without])
        result[name] = {
            "mean": round(float(values.mean()), 4),
            "standard_deviation": round(float(values.std()), 4),
            "worst": round(float(values.min()), 4),
            "no_worse_in": int((values >= plain).sum()),
            "draws": [round(float(value), 4) for value in values],
        }
    return result


def any_way(method: str, path: Path, seed: int) -> dict[str, dict[str, float]]:
    """Return the figures of a dataset, learnt as it is, and judged as it is and turned."""
    dataset = MVTecDataset(path)
    rng = np.random.default_rng(seed)
    images, masks = [], []
    for item in dataset.test:
        images.append(contiguous(read_image(item.path)))
        size = (images[-1].shape[0], images[-1].shape[1])
        masks.append(np.zeros(size, bool) if item.mask is None else read_mask(item.mask, size))
    angles = [float(angle) for angle in rng.uniform(0, 360, len(images))]
    of_turned = [turned(image, angle) for image, angle in zip(images, angles, strict=True)]
    sets = {
        "as they are": (list(BACKBONE.iterate(images)), masks),
        "turned": (
            list(BACKBONE.iterate(of_turned)),
            [_turned_mask(mask, angle) for mask, angle in zip(masks, angles, strict=True)],
        ),
    }
    is_defective = [item.is_defective for item in dataset.test]
    found: dict[str, dict[str, float]] = {}
    for variants in (None, "rotations=8"):
        learnt = detector(method, variants).fit(dataset.train)
        for name, (features, of_pixels) in sets.items():
            scores, maps = judged(learnt, features)
            found[f"{name}, variants {variants or 'none'}"] = {
                **{
                    f"image_auroc_{score}": round(metrics.auroc(is_defective, own), 4)
                    for score, own in scores.items()
                },
                "pixel_auroc": round(metrics.pixel_auroc(of_pixels, maps), 4),
            }
    return found


def _turned_mask(mask: NDArray[np.bool_], angle: float) -> NDArray[np.bool_]:
    picture = np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * np.uint8(255)
    return np.asarray(turned(picture, angle)[..., 0] > 127)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="*", metavar="NAME=PATH", help="in MVTec layout")
    parser.add_argument("--method", choices=["patchcore", "spade"], default="patchcore")
    parser.add_argument("--draws", type=int, default=20, help="0: datasets alone")
    parser.add_argument("--cells", default="1,4,16", help="how many cells are learnt")
    parser.add_argument(
        "--variants", action="append", help=f"may be repeated; {' '.join(FEW)} by default"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the angles")
    parser.add_argument("--try-out", action="store_true", help="write no results")
    options = parser.parse_args()
    counts = [int(n) for n in options.cells.split(",")]
    figures: dict[str, Any] = {"command": "python benches/python/few_shot.py", "few": {}}
    figures |= {"method": options.method, "n_draws": options.draws, "turned": {}}
    for entry in options.datasets:
        name, path = entry.split("=", 1)
        figures["turned"][name] = any_way(options.method, Path(path), options.seed)
        for words, values in figures["turned"][name].items():
            print(f"{name}, {words:36} {values}")
    if options.draws:
        figures["few"] = few(options.method, counts, options.draws, options.variants or FEW)
    for n, of_n in figures["few"].items():
        for each, scores in of_n.items():
            for name, values in scores.items():
                words = (
                    f"mean {values['mean']:.4f}, standard deviation "
                    f"{values['standard_deviation']:.4f}, worst {values['worst']:.4f}, no worse in "
                    f"{values['no_worse_in']} of {options.draws} draws"
                )
                print(f"{n:>3} cells, variants {each:40} {name:4} {words}")
    if not options.try_out:
        write_result("few_shot", figures)


if __name__ == "__main__":
    main()
