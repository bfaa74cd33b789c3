"""Draws the picture of the README: three defects, their maps, and the nearest normal places.

The textures are scikit-image's brick, grass and gravel (all CC0), the defects are painted here.
Normal images come from the upper half of a texture, the judged one from its lower half. `Spade` has
its defaults but for the size of its input, which is that of the images.

    OMP_NUM_THREADS=1 python docs/pictures.py        # writes docs/finds.jpg
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter
from skimage import data

import knnspect as ks
from knnspect.report import overlay

Grey = NDArray[np.float32]
Picture = NDArray[np.uint8]

OUTPUT = Path(__file__).parent / "finds.jpg"

#: Height and width of an image, as the network sees it.
SIZE = (160, 256)
#: Half of the side of a close-up, in pixels.
NEAR = 20
#: Where a texture's judged image begins, in its lower half.
CORNER = (300, 90)
N_NORMAL = 64

WIDTH, GAP, MARGIN, LINE = 272, 14, 8, 24
INK, QUIET, PAPER, MARK = (24, 26, 30), (105, 110, 118), (255, 255, 255), (0, 214, 255)


@dataclass(frozen=True)
class Find:
    """A defect that was found: four pictures and what is to be said of them."""

    name: str
    image: Picture
    overlay: Picture
    close_up: Picture
    nearest: Picture
    times: float


def normal_images(sheet: Grey, rng: np.random.Generator) -> Picture:
    """Cut normal images out of the upper half of a texture, half of them mirrored."""
    images = []
    for number in range(N_NORMAL):
        row, column = (int(rng.integers(0, end)) for end in (256 - SIZE[0], 512 - SIZE[1]))
        image = cut(sheet, row, column)
        images.append(image[:, ::-1] if number % 2 else image)
    return np.stack([to_picture(image) for image in images])


def cut(sheet: Grey, row: int, column: int) -> Grey:
    return sheet[row : row + SIZE[0], column : column + SIZE[1]]


def crack(image: Grey, rng: np.random.Generator) -> Grey:
    """Paint a thin dark line that wanders."""
    canvas = Image.new("L", (4 * SIZE[1], 4 * SIZE[0]))
    point, angle, points = np.array([350.0, 130.0]), 0.75, []
    for _ in range(26):
        points.append(tuple(point))
        angle += rng.normal(0, 0.45) - 0.35 * (angle - 0.75)
        point = point + 17 * np.array([np.cos(angle), np.sin(angle)])
    ImageDraw.Draw(canvas).line(points, fill=255, width=11, joint="curve")
    mask = np.asarray(canvas.resize(SIZE[::-1], Image.Resampling.BOX), np.float32) / 255
    return np.asarray(image * (1 - 0.72 * gaussian_filter(mask, 0.5)), np.float32)


def cap(image: Grey, rng: np.random.Generator) -> Grey:  # noqa: ARG001 - as the others
    """Drop a bottle cap into the grass."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    rows, columns = rows - 86, columns - 118
    radius, angle = np.hypot(rows, columns), np.arctan2(rows, columns)
    mask = gaussian_filter((radius <= 18 + 0.9 * np.cos(21 * angle)).astype(np.float32), 0.7)
    shadow = np.roll(gaussian_filter(mask, 2), (4, 3), axis=(0, 1))
    rim = 45 * np.cos(21 * angle) * (radius > 14)
    metal = 190 - 1.6 * (rows + columns) - rim - 60 * np.exp(-np.square(radius - 13.5))
    dark = image * (1 - 0.5 * shadow)
    return np.asarray(dark + mask * (metal - dark), np.float32)


def nail(image: Grey, rng: np.random.Generator) -> Grey:  # noqa: ARG001 - as the others
    """Lay a nail on the stones."""
    body, head = ellipse((84, 128), (3.2, 42), -0.5, 8), ellipse((63.5, 165.5), (10, 3.6), -0.5, 2)
    mask = np.maximum(body, head)
    shadow = np.roll(gaussian_filter(mask, 1.5), (4, 3), axis=(0, 1))
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    across = (rows - 84) * np.cos(-0.5) - (columns - 128) * np.sin(-0.5)
    metal = 172 - 20 * across.clip(-4, 4)
    dark = image * (1 - 0.5 * shadow)
    return np.asarray(dark + gaussian_filter(mask, 0.5) * (metal - dark), np.float32)


def ellipse(
    center: tuple[float, float], radii: tuple[float, float], angle: float, power: float = 2
) -> Grey:
    """Return 1 inside an ellipse with soft edges; the larger the power, the more it is a bar."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    rows, columns = rows - center[0], columns - center[1]
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    inside = np.abs(across / radii[0]) ** power + np.abs(along / radii[1]) ** power <= 1
    return np.asarray(gaussian_filter(inside.astype(np.float32), 0.8))


def find(name: str, sheet: Grey, defective: Grey, rng: np.random.Generator) -> Find:
    """Learn a texture, judge the defective image, and look up the nearest normal place."""
    normal = normal_images(sheet, rng)
    image = to_picture(defective)
    spade = ks.Spade(
        ks.Backbone(image_size=SIZE, device="cpu"), image_neighbors=N_NORMAL, threads=1
    )
    prediction = spade.fit(normal).predict(image[None])[0]
    neighbors = prediction.neighbors
    assert neighbors is not None
    cells = spade.border_.divide(neighbors.sq_distances[0, ..., 0])
    # The strongest cell under the strongest part of the map.
    top = np.unravel_index(int(prediction.map.argmax()), prediction.map.shape)
    n_pixels = SIZE[0] // cells.shape[0]
    row, column = (int(at) // n_pixels for at in top)
    window = cells[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
    at = np.unravel_index(int(window.argmax()), window.shape)
    row, column = max(row - 2, 0) + int(at[0]), max(column - 2, 0) + int(at[1])
    nearest_row, nearest_column = (int(n) for n in neighbors.cells[0, row, column, 0])
    nearest = int(neighbors.images[0, row, column, 0])
    return Find(
        name,
        image,
        overlay(image, prediction.map, scale=float(prediction.map.max())),
        close_up(image, row * n_pixels, column * n_pixels),
        close_up(normal[nearest], nearest_row * n_pixels, nearest_column * n_pixels),
        float(prediction.map.max()) / spade.normal_map_max_,
    )


def close_up(image: Picture, row: int, column: int) -> Picture:
    """Cut a square around a pixel, or as near to it as there is one, out of an image."""
    height, width = SIZE
    top, left = (min(max(at - NEAR, 0), n - 2 * NEAR) for at, n in ((row, height), (column, width)))
    return image[top : top + 2 * NEAR, left : left + 2 * NEAR]


def to_picture(image: Grey) -> Picture:
    grey = image.clip(0, 255).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def draw(finds: list[Find]) -> Image.Image:
    """Lay the finds out, one in each column."""
    height = WIDTH * SIZE[0] // SIZE[1]
    half = (WIDTH - GAP // 2) // 2
    rows = [height, height, half]
    n_lines = len(rows) + 1
    size = (
        2 * MARGIN + len(finds) * WIDTH + (len(finds) - 1) * GAP,
        2 * MARGIN + sum(rows) + n_lines * LINE,
    )
    canvas = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(canvas)
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    for number, found in enumerate(finds):
        left, top = MARGIN + number * (WIDTH + GAP), MARGIN
        pen.text((left, top + 2), found.name, INK, font)
        top += LINE
        heat = f"where it differs: {found.times:.1f} x what is normal"
        for picture, label in ((found.image, "a new image"), (found.overlay, heat)):
            paste(canvas, picture, (left, top), (WIDTH, height))
            pen.text((left, top + height + 3), label, QUIET, small)
            top += height + LINE
        for at, picture in enumerate((found.close_up, found.nearest)):
            place = (left + at * (WIDTH - half), top)
            paste(canvas, picture, place, (half, half))
        pen.text((left, top + half + 3), "the find, and the nearest normal place", QUIET, small)
    return canvas


def paste(
    canvas: Image.Image, picture: Picture, place: tuple[int, int], size: tuple[int, int]
) -> None:
    canvas.paste(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC), place)


def main() -> None:
    """Draw the picture."""
    torch.set_num_threads(1)
    finds = []
    for number, (texture, name, paint) in enumerate(
        (
            ("brick", "brick: a crack", crack),
            ("grass", "grass: a bottle cap", cap),
            ("gravel", "gravel: a nail", nail),
        )
    ):
        rng = np.random.default_rng(number)
        sheet = getattr(data, texture)().astype(np.float32)
        found = find(name, sheet, paint(cut(sheet, *CORNER), rng), rng)
        print(f"{name}: {found.times:.1f} times the strongest value of normal images")
        finds.append(found)
    draw(finds).save(OUTPUT, quality=88, optimize=True)
    print(f"{OUTPUT}: {OUTPUT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
