"""Defects among normal images: which cells are dropped, and whether those that stay get a weight.

A tenth of the images that are learnt is defective: 20 of 200 solar cells (ELPV), 4 of 41 of a
dataset in MVTec layout; its other test images are judged, for ELPV 60 functional and 60 defective
cells. Cells of normal images are compared with the cells of all other images, and 15 % are dropped:

- "none": nothing is;
- "dropped": those with the largest distances, as `PatchCore(outliers=0.15)` does;
- "by place": those with the largest multiples of the median distance at their place;
- "weighted": as "dropped", and distances to the rows that are kept are multiplied by one more than
  the distance of these to other images (the soft weights of SoftPatch);
- "clean": without the defective images.

PatchCore's defaults (EfficientNet-Lite0, 256 px, 2 % of the rows). Image AUROC, and pixel AUROC
where there are masks, of each seed.

    python benches/python/outliers.py weld=PATH
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import write_result
from numpy.typing import NDArray
from PIL import Image

import knnspect as ks
from knnspect import metrics
from knnspect.data import MVTecDataset, elpv_split, read_mask
from knnspect.detectors.border import BorderFactors
from knnspect.detectors.maps import pixel_map
from knnspect.detectors.nearest.outliers import cells_kept
from knnspect.gallery.leaving_out import nearest_without
from knnspect.gallery.picking import pick_coreset
from knnspect.normal_features.checks import evenly_spaced

BACKBONE = ks.Backbone(image_size=256, patch_size=3)
SHARE = 0.15


class Case(NamedTuple):
    """What is learnt, the defective ones last, and what is judged; masks where there are some."""

    train: list[Path]
    n_defective: int
    test: list[Path]
    is_defective: list[bool]
    masks: list[NDArray[np.bool_]]


def of_elpv(seed: int) -> Case:
    """Return a draw of solar cells."""
    split = elpv_split(n_train=180, n_functional=60, n_defective=80, seed=seed)
    defective = [split.defective[i] for i in np.random.default_rng(seed).permutation(80)]
    test = [*split.functional, *defective[20:]]
    return Case([*split.train, *defective[:20]], 20, test, [False] * 60 + [True] * 60, [])


def of_dataset(path: Path, seed: int) -> Case:
    """Return a draw of a dataset: a tenth as many defective images as it has normal ones."""
    dataset = MVTecDataset(path)
    good = [item for item in dataset.test if not item.is_defective]
    bad = [item for item in dataset.test if item.is_defective]
    order = np.random.default_rng(seed).permutation(len(bad))
    n = round(len(dataset.train) / 9)
    test = [*good, *(bad[i] for i in order[n:])]
    masks = []
    for item in test:
        with Image.open(item.path) as image:
            size = (image.height, image.width)
        masks.append(np.zeros(size, bool) if item.mask is None else read_mask(item.mask, size))
    train = [*map(Path, dataset.train), *(bad[i].path for i in order[:n])]
    return Case(train, n, [i.path for i in test], [i.is_defective for i in test], masks)


def sq_distances(gallery: ks.Gallery) -> NDArray[np.float32]:
    """Return the squared distance of each cell to the nearest one of other images."""
    return np.concatenate(
        [
            gallery.without([id_]).search(gallery.pyramid([id_])).sq_distances[..., 0]
            for id_ in gallery.ids
        ]
    )


def figures_of(
    gallery: ks.Gallery,
    kept: NDArray[np.bool_] | None,
    weights: NDArray[Any] | None,
    test: ks.Features,
    case: Case,
) -> dict[str, float]:
    """Return the figures of a coreset of the cells that are kept."""
    coreset = pick_coreset(gallery, 0.02, 0, None, None, False, kept)

    def cells(found: ks.Neighbors) -> NDArray[Any]:
        far = np.sqrt(found.sq_distances[0, ..., 0].astype(np.float64))
        at = found.cells[0, ..., 0, :].astype(int)
        places = (found.image_index[0, ..., 0].astype(int), at[..., 0], at[..., 1])
        return far if weights is None else far * weights[places]

    few = [gallery.ids[i] for i in evenly_spaced(len(gallery))]
    near = nearest_without(coreset, gallery.pyramid(few), [[id_] for id_ in few])
    border = BorderFactors.of([cells(found) for found in near if found], gallery.shapes)
    maps = [
        pixel_map(border.divide(cells(coreset.search(test.pyramid[i]))), placement, 4.0)
        for i, placement in enumerate(test.placements)
    ]
    scores = [float(map_.max()) for map_ in maps]
    found = {"image_auroc": round(metrics.auroc(case.is_defective, scores), 4)}
    if case.masks:
        found["pixel_auroc"] = round(metrics.pixel_auroc(case.masks, maps), 4)
    return found


def forms(case: Case) -> dict[str, dict[str, float]]:
    """Return the figures of each form."""
    train, test = BACKBONE.extract(case.train), BACKBONE.extract(case.test)
    gallery, clean = ks.Gallery(), ks.Gallery()
    ids = [f"{i:04d}" for i in range(len(case.train))]
    n_normal = len(ids) - case.n_defective
    gallery.add(train.pyramid, ids)
    clean.add(train.pyramid[:n_normal], ids[:n_normal])
    far = sq_distances(gallery)
    kept, by_place = cells_kept(far, SHARE), cells_kept(far / np.median(far, axis=0), SHARE)
    weights = 1 + np.sqrt(far.astype(np.float64))
    found = {
        "clean": figures_of(clean, None, None, test, case),
        "none": figures_of(gallery, None, None, test, case),
        "dropped": figures_of(gallery, kept, None, test, case),
        "by place": figures_of(gallery, by_place, None, test, case),
        "weighted": figures_of(gallery, kept, weights, test, case),
    }
    for name, mask in (("dropped", kept), ("by place", by_place)):
        lost = 1 - mask.mean(axis=(1, 2))
        found[name]["share_of_normal"] = round(float(lost[:n_normal].mean()), 4)
        found[name]["share_of_defective"] = round(float(lost[n_normal:].mean()), 4)
    return found


def means(draws: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return the mean figures of all seeds."""
    return {
        form: {key: round(float(np.mean([d[form][key] for d in draws])), 4) for key in figures}
        for form, figures in draws[0].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="*", metavar="NAME=PATH", help="in MVTec layout")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--try-out", action="store_true", help="write no results")
    options = parser.parse_args()
    paths = dict(entry.split("=", 1) for entry in options.datasets)
    draws: dict[str, list[dict[str, dict[str, float]]]] = {}
    for seed in range(options.seeds):  # each is written as it comes: they take minutes
        for name in (*paths, "elpv"):
            case = of_dataset(Path(paths[name]), seed) if name in paths else of_elpv(seed)
            draws.setdefault(name, []).append(forms(case))
            print(f"{name}, seed {seed}: {draws[name][-1]}", flush=True)
            command = " ".join(["python benches/python/outliers.py", *(f"{n}=PATH" for n in paths)])
            found = {each: {"mean": means(own), "seeds": own} for each, own in draws.items()}
            if not options.try_out:
                write_result("outliers", {"command": command, "share": SHARE, "sets": found})


if __name__ == "__main__":
    main()
