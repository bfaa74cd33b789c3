"""Images whose inputs differ in size: run by size, given back in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from knnspect.features.network import Images, Network
from knnspect.pyramid import FeaturePyramid

__all__ = ["forward_in_order"]

#: Which images of a batch, their pyramids, and their pooled features.
Part = tuple[slice, FeaturePyramid, NDArray[np.float32]]


def forward_in_order(
    network: Network,
    images: Images,
    batch_size: int,
    pooled: bool,
) -> list[Part]:
    """Run a batch of images through the network, those of one size together.

    Parameters
    ----------
    network : Network
        The network.
    images : ndarray or list of ndarray
        Prepared images, (3, height, width) each; a list where they differ in size.
    batch_size : int
        Images that a GPU handles together.
    pooled : bool
        Also take pooled features.

    Returns
    -------
    list of (slice, FeaturePyramid, ndarray)
        The images in order, those that follow each other and have one size in one part.
    """
    if isinstance(images, np.ndarray):
        return [(slice(0, len(images)), *network.forward(images, batch_size, pooled))]
    sizes = [image.shape for image in images]
    found = {
        size: network.forward(_of_size(images, size), batch_size, pooled)
        for size in dict.fromkeys(sizes)
    }
    parts: list[Part] = []
    given = Counter[tuple[int, ...]]()
    start = 0
    for size, run in groupby(sizes):
        n_images = len(list(run))
        pyramid, vectors = found[size]
        at = slice(given[size], given[size] + n_images)
        parts.append((slice(start, start + n_images), pyramid[at], vectors[at]))
        given[size] += n_images
        start += n_images
    return parts


def _of_size(
    images: Sequence[NDArray[np.float32]], size: tuple[int, ...]
) -> list[NDArray[np.float32]]:
    return [image for image in images if image.shape == size]
