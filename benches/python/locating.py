"""Finds hazelnuts and transistors on other backgrounds, and judges transistors that lie anyhow.

    python benches/python/locating.py hazelnut=PATH transistor=PATH [--cases 500]

Parts are pasted on textures of scikit-image at random places, turns (0 to 360 degrees) and scales
(.7 to 1.4), with another brightness and noise. *own*: the part of the template itself, whose place
is known exactly. *others*: other parts; where these lie in their own pictures is found first, on a
plain ground, and errors are those against that. Nuts have no common orientation, so that of others
only the share found is measured. Distances are in strides of the finest level, in pixels of frames.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from common import write_result
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

import knnspect as ks
from knnspect.data import MVTecDataset
from knnspect.metrics import auroc, pixel_auroc
from knnspect.views import AlignedView, similarity

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]

FRAME, SIDE = (300, 400), 128
TEXTURES = ("brick", "grass", "gravel", "coins", "astronaut", "coffee", "moon", "cat", "page")
#: The part of a transistor's picture: case and leads.
TRANSISTOR = (0.1, 0.18, 0.9, 0.82)
NOISE, BRIGHTNESS = 4, (0.85, 1.15)
#: Transistors: the side of their pictures, of frames, by how much they are shifted, how often.
WHOLE, AROUND, SHIFT, TIMES, N_TRAIN = 256, 400, 25, 3, 35


def picture(path: Path, side: int) -> Picture:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS))


def nut(image: Picture) -> Mask:
    """Where a hazelnut is, which lies on black."""
    bright = ndimage.binary_opening(image.max(axis=2) > 60, iterations=2)
    numbers, _ = ndimage.label(ndimage.binary_fill_holes(bright))
    found: Mask = numbers == 1 + np.bincount(numbers.ravel())[1:].argmax()
    return found


def box(side: int) -> Mask:
    mask = np.zeros((side, side), bool)
    top, left, bottom, right = (round(edge * side) for edge in TRANSISTOR)
    mask[top:bottom, left:right] = True
    return mask


def textures(rng: np.random.Generator) -> Iterator[Picture]:
    """Parts of textures, of random sizes and places, mirrored or not."""
    while True:
        for name in TEXTURES:
            image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
            size = rng.uniform(0.6, 1) * min(image.height / FRAME[0], image.width / FRAME[1])
            height, width = (size * n for n in FRAME)
            top, left = rng.uniform(0, image.height - height), rng.uniform(0, image.width - width)
            cut = image.resize((FRAME[1], FRAME[0]), box=(left, top, left + width, top + height))
            yield np.asarray(cut)[:, :: rng.choice([-1, 1])]


def pasted(
    image: Picture, mask: Mask, ground: Picture, way: NDArray[np.float64]
) -> NDArray[np.float64]:
    size = (ground.shape[0], ground.shape[1])
    view = AlignedView((image.shape[0], image.shape[1]), size, way)
    back = AlignedView(size, (image.shape[0], image.shape[1]), view.inverse)
    shown = back.to_image(mask.astype(np.float32))[..., None]
    mixed = view.cut(image) * shown.astype(np.float64) + ground * (1.0 - shown)
    return np.asarray(mixed, np.float64)


def middle(mask: Mask) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2


def disturbed(image: NDArray[np.float64], rng: np.random.Generator) -> Picture:
    noisy = image * rng.uniform(*BRIGHTNESS) + rng.normal(0, NOISE, image.shape)
    return np.asarray(noisy.round().clip(0, 255), np.uint8)


def apart(angle: float) -> float:
    return abs((angle + 180) % 360 - 180)


def cases(
    locator: ks.GoldenTemplate,
    parts: list[tuple[Picture, Mask]],
    n: int,
    has_orientation: bool,
    seed: int,
) -> tuple[dict[str, Any], list[float]]:
    """Paste parts in turns, locate them, and say how far off they are."""
    rng = np.random.default_rng(seed)
    grounds = textures(rng)
    height, width = locator.backbone.extract([np.zeros((*FRAME, 3), np.uint8)]).pyramid.shapes[0][
        :2
    ]
    stride = max(FRAME[0] / height, FRAME[1] / width)
    plain = np.full((*FRAME, 3), 120, np.uint8)
    own = []
    for image, mask in parts:
        way = similarity(0, 1, at=middle(mask), to=(FRAME[0] / 2, FRAME[1] / 2))
        upright = locator.locate(pasted(image, mask, plain, way).astype(np.uint8))
        to_picture = AlignedView(FRAME, mask.shape, inverse(way))
        box = upright.rotated_box
        # Others of no common orientation may not be found even so: the middle of their mask counts.
        at_own = to_picture.to_frame(box.row, box.column) if has_orientation else middle(mask)
        own.append((at_own, upright.angle))
    found, off, turned, scores = [], [], [], []
    for case in range(n):
        image, mask = parts[case % len(parts)]
        (at_row, at_column), own_angle = own[case % len(parts)]
        angle, scale = rng.uniform(0, 360), rng.uniform(0.7, 1.4)
        reach = np.hypot(*np.ptp(np.argwhere(mask), axis=0)) / 2 * scale
        at = tuple(
            rng.uniform(reach, side - reach) if 2 * reach < side else side / 2 for side in FRAME
        )
        way = similarity(angle, scale, at=middle(mask), to=(at[0], at[1]))
        part = locator.locate(disturbed(pasted(image, mask, next(grounds), way), rng))
        found.append(part.found)
        scores.append(part.score)
        true = AlignedView(mask.shape, FRAME, way).to_frame(at_row, at_column)
        if part.found or not has_orientation:
            box = part.rotated_box
            off.append(np.hypot(box.row - true[0], box.column - true[1]) / stride)
            turned.append(apart(part.angle - angle - own_angle))
    figures: dict[str, Any] = {
        "cases": n,
        "parts": len(parts),
        "found": float(np.mean(found)),
        "scores": {"least": min(scores), "median": float(np.median(scores))},
    }
    if not has_orientation:
        figures["centre, found or not"] = _errors(off, 2, "strides")
    else:
        figures |= {
            "centre": _errors(off, 0.5, "strides"),
            "angle": _errors(turned, 3, "degrees"),
            "centre and angle": float(np.mean((np.array(off) <= 0.5) & (np.array(turned) <= 3))),
        }
    return figures, scores


def inverse(way: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.linalg.inv(np.vstack([way, [0, 0, 1]]))[:2]
    return found


def _errors(values: list[float], limit: float, unit: str) -> dict[str, float]:
    return {
        f"within {limit} {unit}": float(np.mean(np.array(values) <= limit)),
        "median": float(np.median(values)),
        "95 %": float(np.quantile(values, 0.95)),
    }


def without(locator: ks.GoldenTemplate, n: int, seed: int) -> tuple[dict[str, Any], list[float]]:
    """Frames without the part, and the time that they take."""
    grounds = textures(np.random.default_rng(seed))
    frames = [disturbed(next(grounds).astype(float), np.random.default_rng(i)) for i in range(n)]
    locator.locate(frames[0])
    start, start_of_process = time.perf_counter(), time.process_time()
    parts = [locator.locate(frame) for frame in frames]
    seconds = time.perf_counter() - start
    of_process = time.process_time() - start_of_process
    scores = [part.score for part in parts]
    figures = {
        "cases": n,
        "not found": float(np.mean([not part.found for part in parts])),
        "largest score": max(scores),
        "frames a second": n / seconds,
        "frames a second of one core": n / of_process,
    }
    return figures, scores


def calibrated(with_part: list[float], without_part: list[float]) -> dict[str, Any]:
    """What the first half of frames with other parts promises, and the second half shows."""
    half = len(with_part) // 2
    off = [1 - score for score in with_part[:half]]
    calibration = ks.Calibration(off, off)
    threshold = 1 - calibration.threshold()
    return {
        "normal frames": half,
        "threshold": threshold,
        "missed, as promised": calibration.rate(None),
        "missed": float(np.mean(np.array(with_part[half:]) < threshold)),
        "not found without the part": float(np.mean(np.array(without_part) < threshold)),
    }


def locating(name: str, dataset: MVTecDataset, n: int, n_others: int) -> dict[str, Any]:
    find = nut if name == "hazelnut" else lambda image: box(len(image))
    images = [picture(path, SIDE) for path in dataset.train[: n_others + 1]]
    template, *others = [(image, find(image)) for image in images]
    locator = ks.GoldenTemplate()
    start = time.perf_counter()
    locator.fit(template[0], mask=template[1])
    locator.locate(np.zeros((*FRAME, 3), np.uint8))
    seconds = time.perf_counter() - start
    own, _ = cases(locator, [template], n, True, 0)
    of_others, scores = cases(locator, others, n, name == "transistor", 1)
    nothing, scores_of_nothing = without(locator, n, 2)
    figures = {
        "part": locator.part_.size,
        "threshold": locator.threshold_,
        "seconds until the first frame": seconds,
        "own": own,
        "others": of_others,
        "without": nothing,
        "threshold by frames with others": calibrated(scores, scores_of_nothing),
    }
    print(name, figures)
    return figures


def judging(dataset: MVTecDataset) -> dict[str, Any]:
    """PatchCore on transistors as given, turned and shifted, and aligned again."""
    rng = np.random.default_rng(5)
    normal = [picture(path, WHOLE) for path in dataset.train]
    train, held = normal[:N_TRAIN], normal[N_TRAIN:]
    test = [(image, np.zeros((WHOLE, WHOLE), bool)) for image in held]
    for each in dataset.test:
        mask = np.zeros((WHOLE, WHOLE), bool)
        if each.mask is not None:
            with Image.open(each.mask) as drawn:
                mask = np.asarray(drawn.convert("L").resize((WHOLE, WHOLE))) > 127
        test.append((picture(each.path, WHOLE), mask))
    test = [each for each in test for _ in range(TIMES)]
    all_of_it = np.ones((WHOLE, WHOLE), bool)

    def moved(image: Picture) -> tuple[Picture, NDArray[np.float64]]:
        centre, to = (WHOLE - 1) / 2, (AROUND - 1) / 2 + rng.uniform(-SHIFT, SHIFT, 2)
        way = similarity(rng.uniform(0, 360), 1, at=(centre, centre), to=(to[0], to[1]))
        ground = np.full((AROUND, AROUND, 3), 120, np.uint8)
        return pasted(image, all_of_it, ground, way).round().astype(np.uint8), way

    moved_train = [moved(image)[0] for image in train]
    moved_test = [moved(image) for image, _ in test]
    frames = [frame for frame, _ in moved_test]
    views = [AlignedView((AROUND, AROUND), (WHOLE, WHOLE), inverse(way)) for _, way in moved_test]
    locator = ks.GoldenTemplate(smallest=1, largest=1, scales=1, least_score=0.01)
    locator.fit(train[0], box=(0, 0, WHOLE, WHOLE))
    aligned = locator.aligned(frames)
    figures: dict[str, Any] = {}
    is_defective = [bool(mask.any()) for _, mask in test]
    for name, normal_images, judged in (
        ("as given", train, [image for image, _ in test]),
        ("unaligned", moved_train, frames),
        ("aligned", locator.aligned(moved_train), aligned),
    ):
        predictions = ks.PatchCore().fit(normal_images).predict(judged)
        maps = []
        for prediction, view in zip(predictions, views, strict=True):
            map_ = prediction.map
            if name == "aligned":
                map_ = aligned.to_image(prediction.id, map_, outside=float(map_.min()))
            # Of frames only what shows the picture counts, where its pixels are.
            maps.append(map_ if name == "as given" else cut_map(map_, view))
        figures[name] = {
            "image AUROC": auroc(is_defective, [each.score for each in predictions]),
            "pixel AUROC": pixel_auroc([mask for _, mask in test], maps),
        }
        print(name, figures[name])
    parts = [aligned.parts[id_] for id_ in sorted(aligned.parts)]  # threads read them
    off = [
        (
            np.hypot(*np.subtract(found.view.to_frame(*view.to_original(127.5, 127.5)), 127.5)),
            apart(found.angle - view_angle(view)),
        )
        for found, view in zip(parts, views, strict=True)
    ]
    figures["images"] = {
        "train": len(train),
        "test": len(test),
        "of these defective": sum(is_defective),
    }
    figures["aligned to"] = {
        "pixels, median": float(np.median([pixels for pixels, _ in off])),
        "pixels, largest": float(max(pixels for pixels, _ in off)),
        "degrees, median": float(np.median([degrees for _, degrees in off])),
        "degrees, largest": float(max(degrees for _, degrees in off)),
    }
    print(figures["aligned to"])
    return figures


def view_angle(view: AlignedView) -> float:
    back = view.inverse
    return float(np.degrees(np.arctan2(back[1, 0], back[0, 0])))


def cut_map(map_: NDArray[np.float32], view: AlignedView) -> NDArray[np.float32]:
    """Return a map of a frame as one of the picture in it."""
    return AlignedView(view.frame, view.size, view.inverse).to_image(map_)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("datasets", nargs="+", metavar="NAME=PATH", help="in MVTec layout")
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--others", type=int, default=20, help="other parts")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ks.ImageWarning)
    figures: dict[str, Any] = {}
    for entry in options.datasets:
        name, _, path = entry.partition("=")
        dataset = MVTecDataset(path)
        figures[name] = locating(name, dataset, options.cases, options.others)
        if name == "transistor":
            figures["PatchCore on transistors"] = judging(dataset)
    write_result("locating", figures)


if __name__ == "__main__":
    main()
