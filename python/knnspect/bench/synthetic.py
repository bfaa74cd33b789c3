"""Features out of nothing, where there are no images: smooth maps with noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from knnspect.bench.cases import SearchCase
from knnspect.errors import ParameterError
from knnspect.gallery import Gallery
from knnspect.pyramid import FeaturePyramid
from knnspect.validation import check_count

__all__ = ["SHAPES", "synthetic_case", "synthetic_pyramid"]

#: Levels 1 to 3 of EfficientNet-Lite0 at 224 px.
SHAPES = ((56, 56, 24), (28, 28, 40), (14, 14, 112))

#: Smooth maps of which all channels are mixed; how much of each image is its own; white noise.
_N_SOURCES, _OWN, _NOISE = 16, 0.5, 0.2


def synthetic_pyramid(
    n_images: int, shapes: Sequence[tuple[int, int, int]] = SHAPES, seed: int = 0
) -> FeaturePyramid:
    """Return features that resemble those of images of one kind, as far as it goes.

    A few smooth maps that all images share are added to a few of each image's own; every channel
    of every level is a mixture of them with a little white noise. Real features have more
    structure, which the Rust core uses, so that it is faster on them.

    Parameters
    ----------
    n_images : int
        How many.
    shapes : sequence of (int, int, int)
        ``(height, width, channels)`` of each level, finest first.
    seed : int, default 0
        The same seed gives the same features; the shared maps are the same for all seeds.

    Returns
    -------
    FeaturePyramid
        float32.

    Raises
    ------
    ParameterError
        If a number is less than 1, or there is no level.
    ShapeError
        If the sizes of the levels do not divide each other.

    Examples
    --------
    >>> synthetic_pyramid(2, [(8, 8, 3), (4, 4, 16)])
    FeaturePyramid(n_images=2, levels=8x8x3 + 4x4x16)
    """
    check_count("n_images", n_images)
    if not shapes:
        raise ParameterError("shapes: expected at least one level, got none")
    for number, shape in enumerate(shapes):
        for size in shape:
            check_count(f"shapes[{number}]", size)
    FeaturePyramid([np.zeros((1, *shape), np.float32) for shape in shapes])  # do they nest?
    rng = np.random.default_rng(0)
    shared = _smooth_maps(rng, *shapes[0][:2])
    mixtures = [rng.standard_normal((_N_SOURCES, shape[2]), np.float32) for shape in shapes]
    rng = np.random.default_rng([1, seed])
    levels = [np.empty((n_images, *shape), np.float32) for shape in shapes]
    for image in range(n_images):
        maps = shared + _OWN * _smooth_maps(rng, *shapes[0][:2])
        for level, mixture in zip(levels, mixtures, strict=True):
            noise = rng.standard_normal(level.shape[1:], np.float32)
            level[image] = _reduced(maps, *level.shape[1:3]) @ mixture + _NOISE * noise
    return FeaturePyramid(levels)


def synthetic_case(
    shapes: Sequence[tuple[int, int, int]] = SHAPES,
    n_images: int = 50,
    n_queries: int = 10,
    k: int = 1,
    upsample: str = "bilinear",
    dtype: str = "float32",
) -> SearchCase:
    """Return the search of a gallery of synthetic features.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        ``(height, width, channels)`` of each level, finest first.
    n_images, n_queries : int
        Images in the gallery, all of which are searched, and query images.
    k : int, default 1
        Neighbours of each cell.
    upsample, dtype : str
        Those of the gallery; see `Gallery`.

    Returns
    -------
    SearchCase
        What `run_bench` measures.

    Raises
    ------
    ParameterError, ShapeError
        As `synthetic_pyramid`, `Gallery` and `SearchCase`.

    Examples
    --------
    >>> case = synthetic_case([(8, 8, 3), (4, 4, 16)], n_images=3, n_queries=2)
    >>> len(case.target), len(case)
    (3, 2)
    """
    gallery = Gallery(upsample, dtype)
    gallery.add(synthetic_pyramid(n_images, shapes, seed=0))
    queries = synthetic_pyramid(n_queries, shapes, seed=1)
    return SearchCase(gallery, queries, k, description="synthetic")


def _smooth_maps(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Return smooth random maps of unit variance, shape (height, width, n_sources)."""
    from scipy.ndimage import gaussian_filter

    noise = rng.standard_normal((height, width, _N_SOURCES), np.float32)
    sigma = (max(height / 20, 0.5), max(width / 20, 0.5), 0)
    maps: NDArray[np.float32] = gaussian_filter(noise, sigma, mode="wrap")
    return maps / max(float(maps.std()), 1e-6)


def _reduced(maps: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Return the means over blocks, so that there are `height` by `width` of them."""
    blocks = maps.reshape(
        height, maps.shape[0] // height, width, maps.shape[1] // width, maps.shape[2]
    )
    means: NDArray[np.float32] = blocks.mean(axis=(1, 3))
    return means
