"""SiamMask on parts and grounds that it has not seen: masks, tracking, rate.

    python benches/python/siam_mask.py hazelnut=PATH transistor=PATH [--epochs 8] [--work FOLDER]

Pictures of normal parts: of the first 30 the first is the template, the rest are pasted for
training, on some pictures of scikit-image; the last 20 are pasted on others for testing, at random
places, turns (0 to 360 degrees) and scales (.7 to 1.4), with another brightness, and noise. Then
sequences of 60 frames, in which a part moves, turns, and changes its size, with motion blur and
changing light. Training goes on where it stopped; models are kept in the folder `--work`.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from common import RESULTS, write_result
from locating import box, nut, pasted, picture
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

import knnspect as ks
from knnspect.data import MVTecDataset
from knnspect.locators import mask_iou
from knnspect.views import AlignedView, similarity

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]

FRAME, SIDE, N_TRAIN = (300, 400), 128, 30
SEEN = ("brick", "gravel", "coins", "rocket", "moon")
UNSEEN = ("astronaut", "coffee", "chelsea", "grass", "page", "camera", "hubble_deep_field")
NOISE, BRIGHTNESS = 4, (0.85, 1.15)
TRACKS, LENGTH = 20, 60


def ground(name: str) -> Image.Image:
    return Image.fromarray(getattr(skimage.data, name)()).convert("RGB")


def excerpt(rng: np.random.Generator, size: tuple[int, int] = FRAME) -> Picture:
    image = ground(UNSEEN[rng.integers(len(UNSEEN))])
    share = rng.uniform(0.6, 1) * min(image.height / size[0], image.width / size[1])
    height, width = (share * n for n in size)
    top, left = rng.uniform(0, image.height - height), rng.uniform(0, image.width - width)
    cut = image.resize((size[1], size[0]), box=(left, top, left + width, top + height))
    return np.asarray(cut)[:, :: rng.choice([-1, 1])]


def shown(mask: Mask, size: tuple[int, int], way: NDArray[np.float64]) -> Mask:
    """Where a frame shows the part."""
    view = AlignedView((mask.shape[0], mask.shape[1]), size, way)
    back = AlignedView(size, (mask.shape[0], mask.shape[1]), view.inverse)
    found: Mask = back.to_image(mask.astype(np.float32)) >= 0.5
    return found


def middle(mask: Mask) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2


def disturbed(image: NDArray[Any], rng: np.random.Generator, light: float) -> Picture:
    noisy = image * light + rng.normal(0, NOISE, image.shape)
    return np.asarray(noisy.round().clip(0, 255), np.uint8)


def room(mask: Mask, scale: float) -> list[tuple[float, float]]:
    reach = np.hypot(*np.ptp(np.argwhere(mask), axis=0)) / 2 * scale
    return [(min(reach, n / 2), max(n - reach, n / 2)) for n in FRAME]


def masks(locator: ks.SiamMask, parts: list[tuple[Picture, Mask]], n: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    overlaps, found, off, scores, of_nothing = [], [], [], [], []
    for case in range(n):
        image, mask = parts[case % len(parts)]
        angle, scale = rng.uniform(0, 360), rng.uniform(0.7, 1.4)
        at = tuple(rng.uniform(*span) for span in room(mask, scale))
        way = similarity(angle, scale, at=middle(mask), to=(at[0], at[1]))
        below = excerpt(rng)
        frame = disturbed(pasted(image, mask, below, way), rng, rng.uniform(*BRIGHTNESS))
        part = locator.locate(frame)
        overlaps.append(mask_iou(part.mask, shown(mask, FRAME, way)))
        found.append(part.found)
        scores.append(part.score)
        off.append(abs((part.angle - angle + 180) % 360 - 180))
        without = locator.locate(disturbed(below, rng, rng.uniform(*BRIGHTNESS)))
        of_nothing.append(without.score)
    return {
        "cases": n,
        "parts": len(parts),
        "mask IoU": float(np.mean(overlaps)),
        "mask IoU, median": float(np.median(overlaps)),
        "mask IoU of at least .5": float(np.mean(np.array(overlaps) >= 0.5)),
        "found": float(np.mean(found)),
        "not found without the part": float(np.mean(np.array(of_nothing) < locator.threshold_)),
        "score, least and median": [min(scores), float(np.median(scores))],
        "turn, median degrees off": float(np.median(off)),
    }


def track(part: tuple[Picture, Mask], seed: int) -> Iterator[tuple[Picture, Mask]]:
    """The frames of a sequence, and where they show the part."""
    rng = np.random.default_rng(seed)
    image, mask = part
    below = excerpt(rng)
    at = np.array([rng.uniform(*span) for span in room(mask, 1)])
    speed, angle, spin = rng.normal(0, 4, 2), rng.uniform(0, 360), rng.normal(0, 3)
    scale, light = rng.uniform(0.8, 1.2), rng.uniform(0.85, 1.15)
    for _ in range(LENGTH):
        way = similarity(angle, scale, at=middle(mask), to=(float(at[0]), float(at[1])))
        frame = pasted(image, mask, below, way)
        length = int(np.hypot(*speed) / 2)
        if length > 1:
            axis = int(abs(speed[1]) > abs(speed[0]))
            frame = ndimage.uniform_filter1d(frame, length, axis=axis)
        yield disturbed(frame, rng, light), shown(mask, FRAME, way)
        speed = speed * 0.95 + rng.normal(0, 1.5, 2)
        at = at + speed
        for axis, (low, high) in enumerate(room(mask, scale)):
            if not low <= at[axis] <= high:
                speed[axis] *= -1
                at[axis] = min(max(at[axis], low), high)
        spin = spin * 0.95 + rng.normal(0, 1)
        angle += spin
        scale = float(np.clip(scale * np.exp(rng.normal(0, 0.015)), 0.7, 1.4))
        light = float(np.clip(light * np.exp(rng.normal(0, 0.03)), 0.6, 1.4))


def tracks(locator: ks.SiamMask, parts: list[tuple[Picture, Mask]]) -> dict[str, Any]:
    overlaps, lost = [], 0
    for number in range(TRACKS):
        frames, truth = zip(*track(parts[number % len(parts)], 100 + number), strict=True)
        followed = list(locator.track(list(frames)))
        lost += sum(not part.found for part in followed)
        overlaps.append(
            [mask_iou(part.mask, true) for part, true in zip(followed, truth, strict=True)]
        )
    of_all = np.array(overlaps)
    return {
        "sequences": TRACKS,
        "frames of each": LENGTH,
        "success (mask IoU of at least .5)": float((of_all >= 0.5).mean()),
        "of the worst sequence": float((of_all >= 0.5).mean(axis=1).min()),
        "mask IoU": float(of_all.mean()),
        "frames lost": lost,
    }


def rates(locator: ks.SiamMask, part: tuple[Picture, Mask]) -> dict[str, float]:
    frames = [frame for frame, _ in track(part, 7)]
    figures = {}
    for name, judge, of in (
        ("tracked", locator.track, frames),
        ("located", locator.locate_all, frames[:20]),
    ):
        start, start_of_process = time.perf_counter(), time.process_time()
        n = len(list(judge(of)))
        figures[f"{name}, frames a second"] = n / (time.perf_counter() - start)
        figures[f"{name}, CPU seconds a frame"] = (time.process_time() - start_of_process) / n
    return figures


def learnt(
    name: str, images: list[tuple[Picture, Mask]], options: argparse.Namespace
) -> tuple[ks.SiamMask, dict[str, Any]]:
    path = Path(options.work) / f"{name}-{options.epochs}.ks"
    log = path.with_suffix(".txt")
    if not path.exists():
        locator = ks.SiamMask(max_epochs=options.epochs)
        (template, mask), *others = images
        start = time.process_time()
        locator.fit(
            template,
            mask=mask,
            parts=[image for image, _ in others],
            masks=[mask for _, mask in others],
            backgrounds=[np.asarray(ground(name)) for name in SEEN],
            checkpoint=path.with_suffix(".half"),
            progress=True,
        )
        log.write_text(f"{time.process_time() - start}")
        ks.save_locator(locator, path)
    loaded = ks.load_locator(path)
    assert isinstance(loaded, ks.SiamMask)
    about = {
        "images": len(images),
        "backgrounds": len(SEEN),
        "windows": loaded.pairs * len(loaded.history_),
        # Of a training that was interrupted, of the last part.
        "CPU seconds of the fit": float(log.read_text()),
        "losses": [epoch["loss"] for epoch in loaded.history_],
    }
    return loaded, about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("datasets", nargs="+", metavar="NAME=PATH", help="in MVTec layout")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--work", default=".", help="where models and checkpoints are kept")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ks.ImageWarning)
    # Datasets are measured one after the other, if need be in several runs.
    known = RESULTS / "siam_mask.json"
    figures: dict[str, Any] = json.loads(known.read_text()) if known.exists() else {}
    for entry in options.datasets:
        name, _, path = entry.partition("=")
        find = nut if name == "hazelnut" else lambda image: box(len(image))
        images = [picture(each, SIDE) for each in MVTecDataset(path).train]
        parts = [(image, find(image)) for image in images]
        locator, about = learnt(name, parts[:N_TRAIN], options)
        unseen = parts[N_TRAIN:]
        figures[name] = {"training": about, "masks": masks(locator, unseen, options.cases)}
        print(name, figures[name], flush=True)
        figures[name]["tracks"] = tracks(locator, unseen)
        figures[name]["rates"] = rates(locator, unseen[0])
        print(name, figures[name]["tracks"], figures[name]["rates"], flush=True)
        figures.pop("machine", None)
        write_result("siam_mask", figures)


if __name__ == "__main__":
    main()
