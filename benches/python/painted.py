"""Textures with painted defects, in the middle and at the rim: images whose every defect is known.

The textures are scikit-image's (brick, grass, gravel; 512 x 512, grey). Normal images are the eight
tiles of the upper half, each mirrored in four ways; those to be judged are the tiles of the lower
half, so no pixel is in two tiles, and none is seen twice. Defects are scratches, stains, blurs and
patches of another texture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

__all__ = ["TEXTURES", "Painted", "painted"]

TEXTURES = ("brick", "grass", "gravel")
_CROP = 128
_DEFECTS = ("scratch", "stain", "blur", "patch")


@dataclass(frozen=True)
class Painted:
    """A texture's images.

    Attributes
    ----------
    train, good, middle, rim : ndarray of uint8, shape (32, 128, 128, 3)
        Normal images to learn from, normal ones to judge, those with a defect in the middle, and
        those with a defect that touches the border.
    middle_masks, rim_masks : ndarray of bool, shape (32, 128, 128)
        Which pixels were painted.
    """

    train: NDArray[np.uint8]
    good: NDArray[np.uint8]
    middle: NDArray[np.uint8]
    rim: NDArray[np.uint8]
    middle_masks: NDArray[np.bool_]
    rim_masks: NDArray[np.bool_]


def painted(texture: str, seed: int = 0) -> Painted:
    """Return the images of one of `TEXTURES`; the seed decides about the defects."""
    from skimage import data

    sheets = {name: getattr(data, name)().astype(np.float32) for name in TEXTURES}
    other = sheets[TEXTURES[(TEXTURES.index(texture) + 1) % len(TEXTURES)]]
    train, good = _tiles(sheets[texture][:256]), _tiles(sheets[texture][256:])
    rng = np.random.default_rng([seed, TEXTURES.index(texture)])
    found = {
        place: [
            _paint(image, other, _DEFECTS[i % len(_DEFECTS)], place, rng)
            for i, image in enumerate(good)
        ]
        for place in ("middle", "rim")
    }
    return Painted(
        _pictures(train),
        _pictures(good),
        _pictures([image for image, _ in found["middle"]]),
        _pictures([image for image, _ in found["rim"]]),
        np.stack([mask for _, mask in found["middle"]]),
        np.stack([mask for _, mask in found["rim"]]),
    )


def _tiles(half: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return tiles of half a sheet, each as it is, mirrored, upside down, and both."""
    height, width = (n // _CROP for n in half.shape)
    tiles = [
        half[row * _CROP : (row + 1) * _CROP, column * _CROP : (column + 1) * _CROP]
        for row in range(height)
        for column in range(width)
    ]
    return [tile[::down, ::across] for down in (1, -1) for across in (1, -1) for tile in tiles]


def _paint(
    image: NDArray[np.float32],
    other: NDArray[np.float32],
    defect: str,
    place: str,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return an image with a defect, and which of its pixels were changed."""
    center = rng.uniform(0.3 * _CROP, 0.7 * _CROP, 2)
    if place == "rim":
        axis = int(rng.integers(2))
        inset = rng.uniform(0, 5)
        center[axis] = inset if rng.random() < 0.5 else _CROP - 1 - inset
        center[1 - axis] = rng.uniform(0, _CROP)
    rows, columns = np.mgrid[:_CROP, :_CROP] - center[:, None, None]
    angle = rng.uniform(0, np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    if defect == "scratch":
        length, width = rng.uniform(12, 28), rng.uniform(1, 1.8)
        mask = (np.abs(along) <= length) & (np.abs(across) <= width)
        changed = image + rng.choice([-1, 1]) * 45
    else:
        a, b = rng.uniform(6, 12, 2)
        mask = (along / a) ** 2 + (across / b) ** 2 <= 1
        if defect == "stain":
            changed = image * rng.choice([0.65, 1.35])
        elif defect == "blur":
            changed = gaussian_filter(image, 3)
        else:
            row, column = rng.integers(0, other.shape[0] - _CROP, 2)
            patch = other[row : row + _CROP, column : column + _CROP]
            changed = (patch - patch.mean()) / patch.std() * image.std() + image.mean()
    weight = gaussian_filter(mask.astype(np.float32), 0.7)
    return image + weight * (changed - image), mask


def _pictures(images: list[NDArray[np.float32]]) -> NDArray[np.uint8]:
    grey = np.stack(images).clip(0, 255).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
