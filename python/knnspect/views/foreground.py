"""Where images show the part, not what it lies on: by the features of their cells."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.errors import ImageWarning, ParameterError

__all__ = ["Foreground"]

#: The middle of an image, which shows the part: without this share of each side at either end.
MARGIN = 0.2
#: Fewer cells than these, apart from others, are no part.
SPECK = 4
#: Cells by which direction and threshold are found, at most.
MOST_CELLS = 50_000


@dataclass(frozen=True, eq=False)
class Foreground:
    """Tells the cells of the part from those of the background.

    The first principal component of the cells of normal images falls into two groups (Otsu's
    threshold); the group of which more lies in the middle of the images is the part. In an image
    the cells above the threshold are the part, but for specks. Their holes are filled, as a defect
    may look like background, and they are widened by one cell, as it may be at the edge. A defect
    that looks like background and is open to it is not seen.

    Parameters
    ----------
    direction : ndarray of float64, shape (n_features,)
        The principal direction, towards the part.
    threshold : float
        Above which a cell's component is the part's; minus infinity where there is one group only.

    Source
    ------
    Damm et al., "AnomalyDINO" (2025), section 3.2. There the component is that of the judged
    image's own patches, above a number that suits DINOv2; a large defect then turns the direction
    to itself, and the background counts as part. So it is learnt, once, from normal images.

    Examples
    --------
    >>> features = np.zeros((8, 8, 2))
    >>> features[3:6, 3:6] = 1
    >>> Foreground.learn([features]).mask(features).sum()
    np.int64(25)
    """

    direction: NDArray[np.float64]
    threshold: float

    @classmethod
    def learn(cls, normal: Iterable[NDArray[Any]], n_images: int = 1) -> Foreground:
        """Learn from normal images, each (height, width, n_features); `n_images` of them."""
        parts, middles = [], []
        for features in normal:
            height, width, n_features = features.shape
            step = max(1, n_images * height * width // MOST_CELLS)
            down, across = int(height * MARGIN), int(width * MARGIN)
            middle = np.zeros((height, width), bool)
            middle[down : height - down, across : width - across] = True
            parts.append(features.reshape(-1, n_features)[::step].astype(np.float64))
            middles.append(middle.reshape(-1)[::step])
        cells, is_middle = np.concatenate(parts), np.concatenate(middles)
        mean = cells.mean(axis=0)
        cells -= mean
        scale = float(np.abs(cells).max())
        if scale == 0:
            return cls(np.zeros(cells.shape[1]), -np.inf)
        direction = _direction(cells / scale)
        component = cells @ direction
        threshold = _otsu(component)
        is_high = component > threshold
        # How much of each group lies in the middle.
        if is_middle[is_high].mean() < is_middle[~is_high].mean():
            direction, threshold = -direction, _otsu(-component)
        return cls(direction, threshold + float(mean @ direction))

    def mask(self, *strips: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which cells of an image are the part's, shape (height, width).

        Parameters
        ----------
        *strips : ndarray of float, shape (n_rows, width, n_features)
            The image's features; some rows after the other, where it is large.
        """
        return self._of_part(self._is_part(strips))

    def _is_part(self, strips: Iterable[NDArray[Any]]) -> NDArray[np.bool_]:
        return np.concatenate(
            [strip.astype(np.float64) @ self.direction > self.threshold for strip in strips]
        )

    def _of_part(self, part: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the mask of which cells look like the part, without specks and holes."""
        from scipy import ndimage

        square = np.ones((3, 3), bool)
        numbers, n = ndimage.label(part, square)
        is_speck = np.bincount(numbers.ravel(), minlength=n + 1) < SPECK
        part &= ~is_speck[numbers]
        closed = ndimage.binary_closing(np.pad(part, 1, mode="edge"), square)[1:-1, 1:-1] | part
        whole = ndimage.binary_fill_holes(closed)
        found: NDArray[np.bool_] = ndimage.binary_dilation(whole, square)
        return found

    def masks(self, images: Iterable[tuple[str, Iterable[NDArray[Any]]]]) -> NDArray[np.bool_]:
        """Return those of images by id, each in strips, shape (n_images, height, width).

        One warning names an image that shows no part, and what all of which counts as part.
        """
        found: dict[str, NDArray[np.bool_]] = {}
        for id_, strips in images:
            found[id_] = self._of_part(self._is_part(strips))
        for text in _remarks(found):
            warnings.warn(text, ImageWarning, stacklevel=3)
        return np.stack(list(found.values()))

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return what files have of it."""
        return {"foreground": np.append(self.direction, self.threshold)}

    @classmethod
    def from_arrays(cls, stored: NDArray[np.float64], n_features: int) -> Foreground:
        """Return what `arrays` gave.

        Raises
        ------
        ParameterError
            If it is for another number of features.
        """
        if stored.shape != (n_features + 1,) or np.isnan(stored).any():
            raise ParameterError(
                f"foreground: expected {n_features + 1} numbers, got shape {stored.shape}"
            )
        return cls(stored[:-1].astype(np.float64), float(stored[-1]))


def _remarks(masks: dict[str, NDArray[np.bool_]]) -> Iterator[str]:
    for words, of in (
        ("hides nothing", [id_ for id_, mask in masks.items() if mask.all()]),
        ("hides everything", [id_ for id_, mask in masks.items() if not mask.any()]),
    ):
        if of:
            more = "" if len(of) == 1 else f" and {len(of) - 1} more"
            yield f'mask="pca" {words} of {of[0]}{more}'


def _direction(cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the first principal direction of centred cells, shape (n_features,)."""
    n_features = cells.shape[1]
    if n_features < 64:
        return np.asarray(np.linalg.eigh(cells.T @ cells)[1][:, -1])
    from scipy.sparse.linalg import LinearOperator, eigsh

    operator = LinearOperator(
        (n_features, n_features), matvec=lambda x: cells.T @ (cells @ x), dtype=np.float64
    )
    # From a vector of its own, not a random one: the same images have the same direction.
    start = cells[np.square(cells).sum(axis=1).argmax()]
    return np.asarray(eigsh(operator, k=1, which="LA", v0=start, tol=1e-6)[1][:, 0])


def _otsu(values: NDArray[np.float64]) -> float:
    """Return the threshold between two groups of values with the largest variance between them."""
    ordered = np.sort(values)
    n_below = np.arange(1, len(ordered))
    sums = ordered.cumsum()
    below = sums[:-1] / n_below
    above = (sums[-1] - sums[:-1]) / (len(ordered) - n_below)
    between = n_below * (len(ordered) - n_below) * (above - below) ** 2
    at = int(between.argmax())
    return float((ordered[at] + ordered[at + 1]) / 2)
