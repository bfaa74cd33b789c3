"""Where a part may be: the part turned and scaled, correlated with coarse features of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from knnspect.errors import ImageError
from knnspect.features import Extractor, Features
from knnspect.locators.correlation import Standard, Templates
from knnspect.locators.part import Part, centre
from knnspect.views import Placement, similarity

__all__ = ["FEWEST_CELLS", "Hypothesis", "TurnedParts", "shown_cells"]

#: The fewest cells of a part that is looked for.
FEWEST_CELLS = 9
#: Degrees up to which turns of the part at one place are one hypothesis.
_ALIKE = 45
#: Views that go through the network together.
_BATCH = 16


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A place where the part may be.

    Parameters
    ----------
    value : float
        The correlation.
    matrix : ndarray of float64, shape (2, 3)
        The transform of positions in the part's frame to those in the image.
    """

    value: float
    matrix: NDArray[np.float64]


class TurnedParts:
    """The part in all turns and scales, as images of one size show it to the network.

    Parameters
    ----------
    part : Part
        The part.
    size : (int, int)
        Height and width of the images.
    backbone : Extractor
        What makes the features; the coarsest level counts.
    angles, scales : sequence of float
        Degrees, and how many times as large as in the template.

    Raises
    ------
    ImageError
        If the part is larger than the images at all scales, or too small for the network.
    """

    def __init__(
        self,
        part: Part,
        size: tuple[int, int],
        backbone: Extractor,
        angles: Sequence[float],
        scales: Sequence[float],
    ) -> None:
        self._part, self._placement = part, Placement(size, backbone.geometry)
        self._canvas = self._placement.input_size
        #: Where the first pixel of an image lies in the network's input, and how far apart pixels
        #: are there: rows and columns.
        self._first, self._factor = _way_in(self._placement)
        height, width = size
        self._poses = [
            (angle, scale)
            for scale in scales
            for angle in angles
            if all(n <= m for n, m in zip(part.extent(angle, scale), size, strict=True))
        ]
        if not self._poses:
            raise ImageError(
                f"the template, {part.size[0]} x {part.size[1]} pixels, is larger than the image, "
                f"{height} x {width}, at all scales"
            )
        views, masks = [], []
        for start in range(0, len(self._poses), _BATCH):
            drawn = [
                part.drawn(self._canvas, angle, scale * float(self._factor.mean()))
                for angle, scale in self._poses[start : start + _BATCH]
            ]
            features = backbone.extract([image for image, _ in drawn], n_workers=0)
            views.append(features.pyramid.levels[-1])
            masks += [shown_cells(shown, features.pyramid.shapes[-1][:2]) for _, shown in drawn]
        features_of, cells = np.concatenate(views), np.stack(masks)
        fewest = int(cells.sum(axis=(1, 2)).min())
        if fewest < FEWEST_CELLS:
            raise ImageError(
                f"the template, {part.size[0]} x {part.size[1]} pixels, takes {fewest} cells of an "
                f"image of {height} x {width} pixels, {FEWEST_CELLS} are needed: choose a larger "
                "image_size for the backbone, or larger scales"
            )
        self._standard = Standard.of(features_of[cells])
        templates, self._corners = [], []
        for view, mask in zip(features_of, cells, strict=True):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            block = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            templates.append(self._standard.unit(view[block]) * mask[block][..., None])
            self._corners.append((int(rows[0]), int(columns[0])))
        self._grid = (cells.shape[1], cells.shape[2])
        self._templates = Templates(templates, self._grid)
        turns = np.array([angle for angle, _ in self._poses])
        off = np.abs(turns[:, None] - turns) % 360
        self._alike = np.minimum(off, 360 - off) <= _ALIKE
        # Places nearer than half of the part are one.
        self._apart = 0.5 * math.sqrt(float(cells.sum(axis=(1, 2)).max()))

    def best(self, features: Features, n: int) -> list[Hypothesis]:
        """Return the n best places in an image, best first."""
        rows, columns = self._placement.middles(self._grid)
        valid = ~np.isnan(rows)[:, None] & ~np.isnan(columns)
        found = self._standard.unit(features.pyramid.levels[-1][0])
        correlation = self._templates.correlate(found, valid)
        return [
            Hypothesis(peak.value, self._matrix(peak.template, peak.row, peak.column))
            for peak in self._templates.peaks(correlation, n, self._apart, self._alike)
        ]

    def _matrix(self, template: int, row: float, column: float) -> NDArray[np.float64]:
        """Return the way from the part's frame to the image, for a template and its shift."""
        cells = np.array([row, column]) - self._corners[template]
        middle = np.array(centre(self._canvas)) + cells * self._canvas / np.array(self._grid)
        at = (middle - self._first) / self._factor
        angle, scale = self._poses[template]
        return similarity(angle, scale, at=centre(self._part.size), to=(at[0], at[1]))


def _way_in(placement: Placement) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where the first pixel lies in the network's input, and how far apart pixels are."""
    height, width = placement.size
    rows, columns = placement.geometry.to_input(
        np.array([0.0, height - 1]), np.array([0.0, width - 1]), placement.size
    )
    first = np.array([rows[0], columns[0]])
    return first, np.array([np.ptp(rows), np.ptp(columns)]) / (height - 1, width - 1)


def shown_cells(shown: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which cells of a network's input show the part, by how much of each pixel does."""
    height, width = shown.shape
    rows, columns = height // grid[0], width // grid[1]
    blocks = shown[: rows * grid[0], : columns * grid[1]]
    means = blocks.reshape(grid[0], rows, grid[1], columns).mean(axis=(1, 3))
    found: NDArray[np.bool_] = means >= 0.5
    return found
