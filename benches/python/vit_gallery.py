"""A gallery of a vision transformer's shape against faiss's flat index, in one run.

32 x 32 cells of 384 features, 50 and 200 normal images, k 1, two threads each: of a ViT with random
weights (its official architecture, patches of 16 at 512 px), and of real features of as many cells,
EfficientNet-Lite0's or MobileNetV2's level at stride 16 of 512 px images, which has fewer channels.
faiss is timed as ``add + search`` of rows that lie ready. Answers are compared on the first turn:
where places differ, the float64 distances must say that ours are no farther.

    python benches/python/vit_gallery.py
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from common import ratios, spread, timed, write_result
from matching import check_equal

import knnspect as ks
from knnspect.data import elpv_split

#: Pixels of a side: 32 patches of 16.
SIZE = 512


def backbones(folder: Path) -> Iterator[tuple[str, ks.Backbone]]:
    """Yield what makes the features, under a name."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    weights = folder / "vit.safetensors"
    name = "vit_small_patch16_224"
    save_file(timm.create_model(name, pretrained=False).state_dict(), weights)
    vit = ks.Backbone(name, levels=(-1,), image_size=SIZE, weights=weights, patch_size=1)
    yield "ViT-S/16, random weights", vit
    for network in ("mobilenetv2_100", "efficientnet_lite0"):
        real = ks.Backbone(network, levels=(3,), image_size=SIZE, weights="package", patch_size=1)
        yield f"{network}, level 3", real


def compare(
    train: ks.FeaturePyramid, test: ks.FeaturePyramid, options: argparse.Namespace
) -> dict[str, Any]:
    """Time both on every query image, in turns, and return the figures."""
    gallery = ks.Gallery()
    gallery.add(train)
    n_features = train.shapes[0][2]
    rows = train.levels[0].reshape(-1, n_features)
    seconds: dict[str, list[float]] = {"faiss": [], "knnspect": []}
    agreements = []
    for image in range(test.n_images):
        query = test[image]
        of_query = np.ascontiguousarray(query.levels[0].reshape(-1, n_features))

        def flat(queries: Any = of_query) -> Any:
            index = faiss.IndexFlatL2(n_features)
            index.add(rows)
            return index.search(queries, 1)

        times: dict[str, list[float]] = {"faiss": [], "knnspect": []}
        for _ in range(options.repeats):
            taken, theirs = timed(flat)
            times["faiss"].append(taken)
            taken, ours = timed(lambda query=query: gallery.search(query, threads=options.threads))  # type: ignore[misc]
            times["knnspect"].append(taken)
        atol = 2.0**-20 * float(np.square(rows, dtype=np.float64).sum(axis=1).max())
        exact = (of_query.astype(np.float64), rows.astype(np.float64))
        agreements.append(check_equal(ours, theirs, *exact, atol))
        for name, values in times.items():
            seconds[name].append(float(np.median(values)))
    return {
        **{name: spread(values) for name, values in seconds.items()},
        "times_faster": ratios(seconds["faiss"], seconds["knnspect"]),
        "places_equal": round(float(np.mean(agreements)), 6),
    }


def main() -> None:
    """Run the comparison and keep its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    split = elpv_split(n_train=200, n_functional=options.queries, n_defective=1)
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for name, backbone in backbones(Path(folder)):
            train = backbone.extract(split.train).pyramid
            test = backbone.extract(split.functional).pyramid
            for n_images in (50, 200):
                found = compare(train[:n_images], test, options)
                cells = "x".join(map(str, train.shapes[0]))
                figures.append({"features": name, "shape": cells, "images": n_images, **found})
                print(figures[-1], flush=True)
    result = {"faiss": faiss.__version__, "threads": options.threads, "comparisons": figures}
    write_result("vit_gallery", result)


if __name__ == "__main__":
    main()
