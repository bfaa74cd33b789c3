"""One golden board, and boards moved by up to 20 pixels: windowed search, aligned or not.

    python benches/python/boards.py transistor=PATH [--boards 50]

A board is a grid of pictures of transistors on grey. Every test board is the same one, pictured
again: moved, brighter or darker, with noise of its own. Half of them have one to three defects: a
patch that is missing, added, or swapped with another. *given*: boards that lie as the golden one
does. *unaligned*: the moved ones as they are. *aligned*: the moved ones, found by `GoldenTemplate`
and cut out. Maps are compared on the board, in its own frame.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result
from numpy.typing import NDArray
from PIL import Image

import knnspect as ks
from knnspect.data import MVTecDataset
from knnspect.metrics import auroc, pixel_auroc

Picture = NDArray[np.uint8]

GRID, PART, MARGIN, SHIFT = (3, 4), 96, 24, 20
SIDE, NOISE, BRIGHTNESS, GREY = 20, 3.0, (0.94, 1.06), 110
SIZE = (GRID[0] * PART, GRID[1] * PART)
FRAME = (SIZE[0] + 2 * MARGIN, SIZE[1] + 2 * MARGIN)
BOX = (MARGIN, MARGIN, MARGIN + SIZE[0], MARGIN + SIZE[1])
WINDOWS = (0, 1, 2, 4, None)
KINDS = ("missing", "added", "swapped")


def golden_board(paths: list[Path]) -> Picture:
    """Return a board of as many transistors as it has places."""
    parts = []
    for path in paths[: GRID[0] * GRID[1]]:
        with Image.open(path) as image:
            parts.append(np.asarray(image.convert("RGB").resize((PART, PART))))
    rows = [
        np.concatenate(parts[at : at + GRID[1]], axis=1) for at in range(0, len(parts), GRID[1])
    ]
    return np.concatenate(rows)


def with_defects(board: Picture, rng: np.random.Generator) -> tuple[Picture, NDArray[np.bool_]]:
    """Return a board with one to three defects, and where they are."""
    board, original, mask = board.copy(), board, np.zeros(SIZE, bool)

    def place(is_full: bool) -> tuple[slice, slice]:
        """Return a patch with much in it, or with little."""
        spots = [tuple(int(rng.integers(0, side - SIDE)) for side in SIZE) for _ in range(30)]
        at = [(slice(row, row + SIDE), slice(column, column + SIDE)) for row, column in spots]
        deviations = [float(original[spot].std(axis=(0, 1)).mean()) for spot in at]
        return at[int(np.argmax(deviations) if is_full else np.argmin(deviations))]

    for _ in range(int(rng.integers(1, 4))):
        kind = KINDS[int(rng.integers(3))]
        full, plain = place(is_full=True), place(is_full=False)
        if kind == "missing":
            board[full] = original[plain]
            mask[full] = True
        elif kind == "added":
            board[plain] = original[full]
            mask[plain] = True
        else:
            other = place(is_full=True)
            board[full], board[other] = original[other], original[full]
            mask[full] = mask[other] = True
    return board, mask


def frame(board: Picture, shift: tuple[int, int], rng: np.random.Generator) -> Picture:
    """Return a picture of a board that lies a little beside its place."""
    picture = np.full((*FRAME, 3), GREY, float)
    top, left = (MARGIN + at for at in shift)
    picture[top : top + SIZE[0], left : left + SIZE[1]] = board
    picture = picture * rng.uniform(*BRIGHTNESS) + rng.normal(0, NOISE, picture.shape)
    found: Picture = picture.clip(0, 255).round().astype(np.uint8)
    return found


def of_board(map_: NDArray[Any], shift: tuple[int, int]) -> NDArray[np.float32]:
    """Return the map of the board, of that of a frame."""
    top, left = (MARGIN + at for at in shift)
    return np.ascontiguousarray(map_[top : top + SIZE[0], left : left + SIZE[1]], np.float32)


def detector(window: int | None) -> ks.PatchCore:
    backbone = ks.Backbone(image_size=256, patch_size=3, resize="own", device="cpu")
    return ks.PatchCore(backbone, coreset=None, window=window)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", metavar="NAME=PATH", help="transistors, in MVTec layout")
    parser.add_argument("--boards", type=int, default=50)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    dataset = MVTecDataset(Path(options.dataset.partition("=")[2]))
    golden = golden_board(list(dataset.train))
    normal = {"golden": frame(golden, (0, 0), rng)}

    boards, masks, shifts = [], [], []
    for number in range(options.boards):
        board, mask = with_defects(golden, rng) if number % 2 else (golden, np.zeros(SIZE, bool))
        boards.append(board)
        masks.append(mask)
        shifts.append((int(rng.integers(-SHIFT, SHIFT + 1)), int(rng.integers(-SHIFT, SHIFT + 1))))
    ids = [f"{number:02d}" for number in range(options.boards)]
    moved = {
        i: frame(board, shift, rng) for i, board, shift in zip(ids, boards, shifts, strict=True)
    }
    given = {i: frame(board, (0, 0), rng) for i, board in zip(ids, boards, strict=True)}
    unmoved = [(0, 0)] * len(ids)

    locator = ks.GoldenTemplate(turns=1, smallest=1, largest=1, scales=1)
    locator.fit(normal["golden"], box=BOX)
    aligned_normal, aligned = locator.aligned(normal), locator.aligned(moved)
    start = time.perf_counter()
    read = [np.asarray(item.load()) for item in aligned]  # which locates each
    seconds = (time.perf_counter() - start) / len(ids)
    offs = [
        max(abs(part.box[0] - MARGIN - shift[0]), abs(part.box[1] - MARGIN - shift[1]))
        for part, shift in zip((aligned.parts[i] for i in ids), shifts, strict=True)
    ]

    is_bad = [bool(mask.any()) for mask in masks]
    results: dict[str, Any] = {}
    for window in WINDOWS:
        for way, images, of in (("given", given, unmoved), ("unaligned", moved, shifts)):
            fitted = detector(window).fit(normal)
            found = fitted.predict(images)
            maps = [of_board(one.map, shift) for one, shift in zip(found, of, strict=True)]
            results[f"{way}, window {window}"] = figures(found, maps, masks, is_bad)
        fitted = detector(window).fit(aligned_normal)
        found = fitted.predict(dict(zip(ids, read, strict=True)))
        maps = [
            of_board(aligned.to_image(one.id, one.map), shift)
            for one, shift in zip(found, shifts, strict=True)
        ]
        results[f"aligned, window {window}"] = figures(found, maps, masks, is_bad)
        print({name: each for name, each in results.items() if f"window {window}" in name})
    document = {
        "boards": options.boards,
        "defective": sum(is_bad),
        "frame": FRAME,
        "shift": SHIFT,
        "located": {
            "largest_error_px": float(max(offs)),
            "median_error_px": float(np.median(offs)),
            "seconds": seconds,
        },
        "results": results,
    }
    write_result("boards", document)


def figures(
    found: list[ks.Prediction],
    maps: list[NDArray[np.float32]],
    masks: list[NDArray[np.bool_]],
    is_bad: list[bool],
) -> dict[str, float]:
    """Return the image AUROC by the largest value of a map on the board, and the pixel AUROC."""
    return {
        "image_auroc": auroc(is_bad, [float(map_.max()) for map_ in maps]),
        "image_auroc_of_frames": auroc(is_bad, [one.score for one in found]),
        "pixel_auroc": pixel_auroc(masks, maps),
    }


if __name__ == "__main__":
    main()
