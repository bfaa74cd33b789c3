"""Sets of images that detectors are compared on, and what their scores and maps are worth there.

Textures with painted defects (see ``painted``), the solar cells of `elpv_split` (100 learnt, 100
functional and 100 defective ones judged), and datasets in MVTec layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from painted import TEXTURES, painted

from knnspect import metrics
from knnspect.data import MVTecDataset, elpv_split, read_image, read_mask

__all__ = ["Set", "figures", "sets"]

#: How much of an image's sides counts as its border.
BORDER = 0.05


@dataclass
class Set:
    """Images of one kind; `kinds` has "good" or a kind of defect for each that is judged."""

    train: list[Any]
    test: list[Any]
    kinds: list[str]
    masks: list[NDArray[np.bool_]] | None


def sets(paths: dict[str, Path]) -> Iterator[tuple[str, Set]]:
    """Yield all sets by their names."""
    for name in TEXTURES:
        images = painted(name)
        kinds = ("good", "middle", "rim")
        parts = (images.good, images.middle, images.rim)
        masks = (np.zeros_like(images.middle_masks), images.middle_masks, images.rim_masks)
        yield (
            name,
            Set(
                list(images.train),
                [image for part in parts for image in part],
                [kind for kind, part in zip(kinds, parts, strict=True) for _ in part],
                [mask for part in masks for mask in part],
            ),
        )
    split = elpv_split(100, 100, 100, seed=1)
    judged = [*split.functional, *split.defective]
    yield "elpv", Set(split.train, judged, ["good"] * 100 + ["defective"] * 100, None)
    for name, path in paths.items():
        found = MVTecDataset(path)
        test = [image.path for image in found.test]
        empty = [np.zeros(read_image(file).shape[:2], bool) for file in test]
        yield (
            name,
            Set(
                found.train,
                test,
                ["defective" if image.is_defective else "good" for image in found.test],
                [
                    none if image.mask is None else read_mask(image.mask)
                    for image, none in zip(found.test, empty, strict=True)
                ],
            ),
        )


def figures(images: Set, maps: list[NDArray[Any]], scores: list[float]) -> dict[str, float]:
    """Return what maps and scores are worth."""
    kinds = np.array(images.kinds)

    def area(kind: str | None) -> float:
        chosen = (kinds == "good") | (kinds == kind if kind else True)
        values = np.array(scores)[chosen].tolist()
        return round(metrics.auroc((kinds != "good")[chosen].tolist(), values), 4)

    found = {"image_auroc": area(None)}
    if "rim" in kinds:
        found |= {"middle_auroc": area("middle"), "rim_auroc": area("rim")}
    if images.masks is not None:
        found["pixel_auroc"] = round(metrics.pixel_auroc(images.masks, maps), 4)
        found["aupro"] = round(metrics.aupro(images.masks, maps), 4)
    good = [map_ for map_, kind in zip(maps, kinds, strict=True) if kind == "good"]
    found["strongest_at_border"] = round(float(np.mean([is_at_border(map_) for map_ in good])), 3)
    return found


def is_at_border(map_: NDArray[Any]) -> bool:
    """Say whether the strongest pixel is within 5 % of the border (19 % of the pixels are)."""
    place = np.unravel_index(map_.argmax(), map_.shape)
    return any(min(at, n - 1 - at) < BORDER * n for at, n in zip(place, map_.shape, strict=True))
