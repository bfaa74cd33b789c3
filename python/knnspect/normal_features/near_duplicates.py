"""Normal images that show the same thing twice, such as two frames of a video."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from knnspect.gallery import Gallery

__all__ = ["LEFT_OUT", "SHARE", "NearDuplicates"]

#: What follows from near-duplicates where normal images are compared with the others.
LEFT_OUT = "these are not compared with each other to calibrate, and count as one image"

#: Two images are near-duplicates if they differ by less than this share of what two images of the
#: set usually differ by. Measured with EfficientNet-Lite0 (levels 1-3), with 3x3 averages and
#: without, on hazelnuts, transistors, welds and solar cells: the two most similar of different
#: parts .12 to .61; grey values changed by at most 1 .02 to .20, JPEG of quality 90 .00 to .15,
#: shifted by two pixels .02 to .24. So what is called a near-duplicate is one, and some are missed.
SHARE = 0.1
#: Rows and columns of each level that are compared: enough to tell, and quickly read.
_GRID = 8
#: Images that say what two images usually differ by, and those that are compared at a time.
_N_SPACED, _N_NEAR = 64, 16
#: Images whose features are kept, as the next image is compared with some of them again.
_N_KEPT = 2048


class NearDuplicates:
    """Finds, for one normal image after the other, the near-duplicates among the others.

    Features of the same places are compared: squared L2 distances, divided by what they usually are
    on each level (the upper quartile over pairs of up to 64 images), averaged over the levels. In
    a set of which all images are alike, as under a fixed camera, none is a near-duplicate.

    Parameters
    ----------
    gallery : Gallery
        The normal images.
    pooled : ndarray of float32, shape (n_images, n_features)
        Their pooled features, in the order of `ids`: the nearest by these are looked at.
    ids : list of str, optional
        The images; ``gallery.ids`` by default.
    share : float, default 0.1
        The share of the usual difference below which two images are near-duplicates.

    Attributes
    ----------
    pairs : list of (str, str)
        All that were found so far: an image, and a near-duplicate of it.

    Examples
    --------
    >>> from knnspect.pyramid import FeaturePyramid
    >>> features = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
    >>> features[3] = features[1] + 0.001
    >>> gallery = Gallery()
    >>> _ = gallery.add(FeaturePyramid([features]), ids=["a", "b", "c", "d"])
    >>> NearDuplicates(gallery, features.mean((1, 2))).of(1)
    ['d']
    """

    def __init__(
        self,
        gallery: Gallery,
        pooled: NDArray[np.float32],
        ids: list[str] | None = None,
        share: float = SHARE,
    ) -> None:
        self._share = share
        self._gallery, self._pooled = gallery, pooled
        self._ids = gallery.ids if ids is None else ids
        self._seen: dict[int, list[NDArray[np.float32]]] = {}
        #: An image and one of its near-duplicates.
        self.pairs: list[tuple[str, str]] = []
        self._n_found = 0
        self._typical = self._usual_differences()

    def of(self, index: int) -> list[str]:
        """Return the ids of an image's near-duplicates.

        Parameters
        ----------
        index : int
            The image, by its place in `ids`.
        """
        # Few rows at a time stay in the cache.
        rows = np.array_split(self._pooled, 1 + len(self._pooled) // 1024)
        apart = (np.subtract(few, self._pooled[index], dtype=np.float64) for few in rows)
        sq_distances = np.concatenate([np.square(values).sum(axis=1) for values in apart])
        order = sq_distances.argsort(kind="stable")
        order = order[order != index]
        found: list[str] = []
        # The nearest first, until some of them in a row are none.
        for start in range(0, len(order), _N_NEAR):
            part = order[start : start + _N_NEAR].tolist()
            differences = self._differences(index, part)
            # Of two images there is nothing to compare the difference with, unless it is none.
            share = np.divide(
                differences,
                self._typical,
                out=np.where(differences > 0, np.inf, 0.0),
                where=self._typical > 0,
            ).mean(axis=1)
            new = [i for i, value in zip(part, share, strict=True) if value < self._share]
            found += [self._ids[i] for i in new]
            if not new:
                break
        self.pairs += [(self._ids[index], other) for other in found]
        self._n_found += bool(found)
        return found

    def warn(self, n_looked_at: int, consequence: str) -> None:
        """Warn once, if there were near-duplicates, with an example and what follows from them."""
        if self.pairs:
            one, other = self.pairs[0]
            warnings.warn(
                f"{self._n_found} of the {n_looked_at} normal images that were looked at "
                f"have near-duplicates among the others, such as {one} and {other}: {consequence}",
                stacklevel=4,
            )

    def _usual_differences(self) -> NDArray[np.float64]:
        n_images = len(self._ids)
        spaced = np.unique(np.linspace(0, n_images - 1, min(n_images, _N_SPACED)).astype(int))
        if len(spaced) < 2:
            return np.zeros(1)
        levels = self._samples([int(index) for index in spaced])
        # All pairs, each image with those before it.
        pairs = [
            np.concatenate([_sq_distances(level[:n], level[n]) for n in range(1, len(spaced))])
            for level in levels
        ]
        usual: NDArray[np.float64] = np.quantile(np.stack(pairs, axis=1), 0.75, axis=0)
        return usual

    def _differences(self, index: int, others: Sequence[int]) -> NDArray[np.float64]:
        """Return squared distances, shape (n_others, n_levels)."""
        levels = zip(self._samples([index]), self._samples(others), strict=True)
        return np.stack([_sq_distances(theirs, own[0]) for own, theirs in levels], axis=1)

    def _samples(self, indices: Sequence[int]) -> list[NDArray[np.float32]]:
        """Return the features at a grid of places, for each level of shape (n_images, n_values)."""
        if len(self._seen) + len(indices) > _N_KEPT:
            self._seen.clear()
        for index in indices:
            if index not in self._seen:
                levels = self._gallery.pyramid([self._ids[index]]).levels
                self._seen[index] = [
                    level[0][_grid(*level.shape[1:3])].astype(np.float32).ravel()
                    for level in levels
                ]
        return [np.stack(values) for values in zip(*(self._seen[i] for i in indices), strict=True)]


def _sq_distances(rows: NDArray[np.float32], row: NDArray[np.float32]) -> NDArray[np.float64]:
    distances: NDArray[np.float32] = np.square(rows - row).sum(axis=1)
    return distances.astype(np.float64)


@cache
def _grid(height: int, width: int) -> tuple[NDArray[np.intp], ...]:
    """Return the places that are compared on a level, as an index."""
    spaced = (np.arange(_GRID) + 0.5) / _GRID
    rows, columns = (np.unique((spaced * n).astype(np.intp)) for n in (height, width))
    return np.ix_(rows, columns)
