"""Judges images of 8,000 x 2,000 pixels in tiles: memory, time, and maps beside those of the whole.

    python benches/python/tiling.py [--parts large against_whole times]

Images are textures of scikit-image that go on mirrored, with noise of their own; defects are small
patches of another texture. Each kind of detector judges the large image in a process of its own.
*Extra memory* is the most that it has resident, above what it has once the model is loaded.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, write_result
from numpy.typing import NDArray
from PIL import Image
from skimage import data

import knnspect as ks
from knnspect.metrics import pixel_auroc
from knnspect.views.tiling import tiles_of

Picture = NDArray[np.uint8]
#: scikit-image has no types for them.
TEXTURES: Any = data

LARGE, NORMAL = (2000, 8000), (1000, 2000)
N_NORMAL, N_DEFECTS, SIDE, NOISE = 4, 40, 24, 4.0
TILE, OVERLAP = 512, 64
#: Memory that a process may use which judges the large image.
MOST_GB = 10
#: Tiles and overlaps whose maps are compared with that of the whole image.
COMPARED = ((512, 0), (512, 64), (512, 192), (768, 64), (768, 352), (1024, 352))
#: Tiles whose time is compared with that of the whole image.
TIMED = ((256, 64), (512, 64), (1024, 64), (768, 352))
PARTS = ("large", "against_whole", "times")
#: Detectors that judge the large image, and whether they learn from large ones.
DETECTORS: dict[str, tuple[type[Any], dict[str, Any], bool]] = {
    "PatchCore": (ks.PatchCore, {"coreset": 0.01}, False),
    "PcaResidual": (ks.PcaResidual, {}, False),
    "SimpleNet": (ks.SimpleNet, {"max_epochs": 1}, False),
    "Spade, window 4": (ks.Spade, {"window": 4, "image_neighbors": 2}, True),
}


def texture(size: tuple[int, int], seed: int) -> Picture:
    """Return a wall of bricks in colour, as large as is asked for."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 512, 2)
    beyond = [(0, side + 512) for side in size]
    wall: Any = np.pad(TEXTURES.brick(), beyond, mode="symmetric")
    wall = wall[start[0] : start[0] + size[0], start[1] : start[1] + size[1]]
    tinted = wall[..., None] * np.array([1.0, 0.9, 0.8])
    for rows in np.array_split(np.arange(size[0]), 16):
        tinted[rows] += rng.normal(0, NOISE, (len(rows), size[1], 1))
    found: Picture = tinted.clip(0, 255).astype(np.uint8)
    return found


def with_defects(image: Picture, seed: int) -> tuple[Picture, NDArray[np.bool_]]:
    """Return an image with small patches of gravel, of its own brightness, and where they are."""
    rng, image = np.random.default_rng(seed), image.copy()
    mask = np.zeros(image.shape[:2], bool)
    gravel = TEXTURES.gravel().astype(float)
    for _ in range(N_DEFECTS):
        row, column = (int(rng.integers(8, side - SIDE - 8)) for side in image.shape[:2])
        at = slice(row, row + SIDE), slice(column, column + SIDE)
        place = rng.integers(0, 512 - SIDE, 2)
        patch = gravel[place[0] : place[0] + SIDE, place[1] : place[1] + SIDE, None]
        mean = image[at].mean(axis=(0, 1))
        image[at] = (patch - patch.mean() + mean).clip(0, 255)
        mask[at] = True
    return image, mask


def backbone(**given: Any) -> ks.Backbone:
    return ks.Backbone(image_size=256, patch_size=3, device="cpu", **given)


def resident(which: str) -> float:
    """Return the memory in MB that this process has resident (VmRSS), or had at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith(which))
    return int(found.split()[1]) * 1024 / 1e6


def judge(model: str, image: str, output: str) -> None:
    """Judge an image in this process, and say what it took."""
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_GB * 10**9,) * 2)
    detector = ks.load(model, device="cpu")
    detector.backbone.geometry  # noqa: B018 - loads the network
    loaded = resident("VmRSS")
    start = time.perf_counter()
    (found,) = detector.predict(image)
    seconds = time.perf_counter() - start
    np.save(output, found.map)
    stages = {name: round(taken, 1) for name, taken in detector.seconds_.items()}
    print(
        json.dumps({"extra_mb": resident("VmHWM") - loaded, "seconds": seconds, "stages": stages})
    )


def large(folder: Path) -> dict[str, Any]:
    """Judge the large image by each detector."""
    image, mask = with_defects(texture(LARGE, 100), 7)
    Image.fromarray(image).save(folder / "large.png")
    normal = {f"{seed}": texture(NORMAL, seed) for seed in range(N_NORMAL)}
    results: dict[str, Any] = {}
    tiled = backbone(tile=TILE, overlap=OVERLAP)
    runs = {name: (tiled, *each) for name, each in DETECTORS.items()}
    runs["PatchCore, whole image"] = (backbone(resize="own"), *DETECTORS["PatchCore"])
    runs["PatchCore, resized to 256"] = (backbone(), *DETECTORS["PatchCore"])
    for name, (network, kind, given, learns_large) in runs.items():
        images = normal
        if learns_large:
            images = {f"{seed}": texture(LARGE, seed) for seed in range(3)}
        start = time.perf_counter()
        kind(network, **given).fit(images, batch_size=1).save(folder / "m.ks")
        fitted = time.perf_counter() - start
        command = [sys.executable, __file__, "--judge", "m.ks", "large.png", "map.npy"]
        said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if said.returncode:
            last = said.stderr.strip().splitlines()[-1]
            results[name] = {"failed_with_gb": MOST_GB, "error": last[:200]}
            print(name, results[name], flush=True)
            continue
        map_ = np.load(folder / "map.npy")
        results[name] = {
            **json.loads(said.stdout.splitlines()[-1]),
            "seconds_of_fit": fitted,
            "pixel_auroc": pixel_auroc([mask], [map_]),
        }
        print(name, results[name], flush=True)
    return results


def distances(size: tuple[int, int], tile: int, overlap: int) -> NDArray[np.float64]:
    """Return how far each pixel is from the edges of the tile that it is taken from."""
    far = np.full(size, np.inf)
    for one in tiles_of(size, tile, overlap, 16):
        at, depths = [], []
        for span, side in zip(one, size, strict=True):
            middle = np.arange(span.own_start // 2, -(-span.own_stop // 2))
            before = middle - span.start if span.start else np.full(len(middle), np.inf)
            behind = span.stop - 1 - middle if span.stop < side else np.full(len(middle), np.inf)
            at.append(middle)
            depths.append(np.minimum(before, behind))
        far[np.ix_(*at)] = np.minimum.outer(*depths)
    return far


def against_whole() -> list[dict[str, Any]]:
    """Compare the maps of tiles with that of the whole image."""
    image, mask = with_defects(texture(NORMAL, 101), 8)
    normal = {f"{seed}": texture(NORMAL, seed) for seed in range(N_NORMAL)}
    detector = ks.PatchCore(backbone(resize="own"), coreset=0.01).fit(normal, batch_size=1)
    (whole,) = detector.predict([image])
    size = (-(-NORMAL[0] // 16) * 16, NORMAL[1])
    top = (size[0] - NORMAL[0]) // 2
    results = []
    for tile, overlap in COMPARED:
        other = copy(detector)
        other.backbone = backbone(tile=tile, overlap=overlap)
        (found,) = other.predict([image])
        reach = max(other.backbone.reach or [])
        # The blur goes as far as four deviations, averages and upsampling two cells of each level.
        blur = 4 * 4.0 * 256 / 224
        beyond = reach + blur + 2 * 16
        far = distances(size, tile, overlap)[top : top + NORMAL[0]] > beyond
        # The blur takes from beyond the image the median of all cells, some of which differ.
        inside = np.zeros(NORMAL, bool)
        inside[int(blur) + 4 : -int(blur) - 4, int(blur) + 4 : -int(blur) - 4] = True
        difference = np.abs(found.map - whole.map) / whole.map.max()
        results.append(
            {
                "tile": tile,
                "overlap": overlap,
                "reach": reach,
                "away_from_edges": float(difference[far & inside].max()),
                "share_away": float((far & inside).mean()),
                "at_image_border": float(difference[far & ~inside].max()),
                "at_edges": float(difference[~far].max()) if not far.all() else None,
                "above_a_thousandth": float((difference > 1e-3).mean()),
                "above_a_hundredth": float((difference > 1e-2).mean()),
                "score": found.score / whole.score - 1,
                "pixel_auroc": pixel_auroc([mask], [found.map]),
                "pixel_auroc_whole": pixel_auroc([mask], [whole.map]),
            }
        )
        print(results[-1], flush=True)
    return results


def times(n_rounds: int) -> list[dict[str, Any]]:
    """Time the features of an image in tiles and as a whole, in turns."""
    results = []
    for size in (NORMAL, (1504, 2496)):
        image = texture(size, 5)
        ways = {"whole": backbone(resize="own")}
        ways |= {f"{t} / {o}": backbone(tile=t, overlap=o) for t, o in TIMED}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(n_rounds):
            for name, way in ways.items():
                start = time.perf_counter()
                for _ in way.iterate([image], pooled=False):
                    pass
                seconds[name].append(time.perf_counter() - start)
        best = {name: min(each) for name, each in seconds.items()}
        shares = {name: taken / best["whole"] for name, taken in best.items()}
        results.append({"size": size, "seconds": best, "of_whole": shares})
        print(results[-1], flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judge", nargs=3, metavar=("MODEL", "IMAGE", "MAP"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    if options.judge:
        judge(*options.judge)
        return
    figures: dict[str, Any] = {"tile": TILE, "overlap": OVERLAP, "image": LARGE}
    if (RESULTS / "tiling.json").is_file():  # parts that are not measured now stay
        figures |= json.loads((RESULTS / "tiling.json").read_text())
    if "large" in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            figures["large"] = large(Path(folder))
    if "against_whole" in options.parts:
        figures["against_whole"] = against_whole()
    if "times" in options.parts:
        figures["times"] = times(options.rounds)
    write_result("tiling", figures)


if __name__ == "__main__":
    main()
