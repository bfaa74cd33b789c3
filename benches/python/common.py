"""What the benchmarks share: real features, the machine's description, and where results go."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import knnspect as ks
from knnspect.bench import machine, ratios, spread, timed
from knnspect.data import MVTecDataset, elpv_split

__all__ = [
    "RESULTS",
    "assert_same",
    "comparison_options",
    "concatenated",
    "features_of",
    "machine",
    "ratios",
    "spread",
    "timed",
    "write_result",
]

RESULTS = Path(__file__).parents[1] / "results"


def features_of(
    dataset: Path | None,
    n_queries: int,
    n_train: int = 50,
    backbone: str = "efficientnet_lite0",
) -> tuple[ks.Features, ks.Features]:
    """Features of some normal images and of some test images: a dataset's, or elpv's."""
    if dataset is None:
        split = elpv_split(n_train=n_train, n_functional=n_queries // 2, n_defective=n_queries // 2)
        train, test = split.train, [*split.functional, *split.defective]
    else:
        images = MVTecDataset(dataset)
        train, test = images.train[:n_train], [image.path for image in images.test[:n_queries]]
    network = ks.Backbone(backbone, levels=(1, 2, 3), image_size=224)
    return network.extract(train), network.extract(test)


def comparison_options(
    description: str, parts: Sequence[str] = (), methods: Sequence[str] = ()
) -> tuple[dict[str, Path | None], argparse.Namespace]:
    """Read the command line of a comparison: its datasets (elpv without any), and the rest.

    Of `parts` any can be measured alone, with another number of normal images; of `methods` some.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("datasets", nargs="*", metavar="NAME=PATH", help="in MVTec layout")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    if parts:
        parser.add_argument("--only", choices=parts)
        parser.add_argument("--train", type=int, default=40)
    if methods:
        parser.add_argument("--methods", nargs="+", choices=methods, default=methods)
    options = parser.parse_args()
    datasets: dict[str, Path | None] = {}
    for entry in options.datasets:
        name, _, path = entry.partition("=")
        datasets[name] = Path(path) if path else None
    return datasets or {"elpv": None}, options


def assert_same(ours: ks.Neighbors, others: ks.Neighbors) -> None:
    """Fail when two searches differ in a bit."""
    for name in ("sq_distances", "image_index", "cells"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(others, name))


def concatenated(
    pyramid: ks.FeaturePyramid, upsample: str, dtype: type[np.floating[Any]] = np.float32
) -> NDArray[Any]:
    """Rows of upsampled, concatenated features, as a flat index wants them."""
    import torch
    from torch.nn.functional import interpolate

    height, width, _ = pyramid.shapes[0]
    mode: dict[str, Any] = (
        {"mode": "bilinear", "align_corners": False}
        if upsample == "bilinear"
        else {"mode": "nearest"}
    )
    maps = [
        interpolate(
            torch.from_numpy(level.astype(dtype)).permute(0, 3, 1, 2), (height, width), **mode
        )
        for level in pyramid.levels
    ]
    rows = torch.cat(maps, dim=1).permute(0, 2, 3, 1).reshape(-1, sum(m.shape[1] for m in maps))
    array: NDArray[Any] = rows.contiguous().numpy()
    return array


def write_result(name: str, figures: dict[str, Any]) -> None:
    """Keep figures under ``benches/results``, with the machine."""
    RESULTS.mkdir(exist_ok=True)
    document = {"machine": machine(), **figures}
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    print(f"written: benches/results/{name}.json")
