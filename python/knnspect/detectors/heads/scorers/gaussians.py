"""Distances of cells from the mean of normal ones: of one Gaussian for each place or for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.heads.estimates.gaussians import Gaussian
from knnspect.detectors.heads.estimates.metrics import Mahalanobis, Metric
from knnspect.detectors.heads.scorers.arrays import ArrayScorer, product
from knnspect.detectors.heads.scorers.resizing import resized
from knnspect.errors import ShapeError
from knnspect.pyramid import FeaturePyramid, describe_shapes

__all__ = ["GaussianScorer", "Layout"]


class Layout:
    """Which features of a pyramid go into which Gaussian.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Height, width and channels of each level.
    upsample : {"bilinear", "block"}
        How coarse levels are brought to the finest one, where all are one.
    by_level : bool
        Whether each level has Gaussians of its own, at its own resolution.
    by_position : bool
        Whether each position has one of its own.
    channels : list of ndarray of int
        Those that are taken: of each level, or of all together.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        upsample: Any,
        by_level: bool,
        by_position: bool,
        channels: Sequence[NDArray[np.int64]],
    ) -> None:
        self.shapes, self.upsample = list(shapes), upsample
        self.by_level, self.by_position, self.channels = by_level, by_position, list(channels)

    @property
    def grids(self) -> list[tuple[int, int]]:
        """Height and width of the cells of each Gaussian."""
        shapes = self.shapes if self.by_level else self.shapes[:1]
        return [(height, width) for height, width, _ in shapes]

    def parts(self, pyramid: FeaturePyramid) -> list[NDArray[np.float32]]:
        """Return the features of cells, shape (n_images, n_cells, n_channels), for each grid."""
        levels = pyramid.levels if self.by_level else [pyramid.concatenated(self.upsample)]
        return [
            level.reshape(len(level), -1, level.shape[-1])[..., chosen].astype(np.float32)
            for level, chosen in zip(levels, self.channels, strict=True)
        ]

    def samples(self, part: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return features of cells as samples of places, shape (n, n_places, n_channels)."""
        return part if self.by_position else part.reshape(-1, 1, part.shape[-1])

    def array_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the arrays that a file has, by name."""
        found: dict[str, tuple[int, ...]] = {"n_images": (1,)}
        for index, ((height, width), chosen) in enumerate(
            zip(self.grids, self.channels, strict=True)
        ):
            n_places, n = (height * width if self.by_position else 1), len(chosen)
            found[f"mean{index}"] = (n_places, n)
            found[f"scatter{index}"] = (n_places, n * (n + 1) // 2)
            found[f"channels{index}"] = (n,)
        return found


class GaussianScorer(ArrayScorer):
    """Says how far cells lie from the mean of normal ones, by a metric of their covariance.

    Parameters
    ----------
    layout : Layout
        Which features go into which Gaussian.
    metric : Metric
        How long a deviation is.
    arrays : mapping of str to ndarray
        "n_images"; for each grid its number after "mean", "scatter" (the lower triangle), and
        "channels".
    """

    def __init__(self, layout: Layout, metric: Metric, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(arrays, layout.array_shapes())
        self.layout, self.metric = layout, metric
        self.n_images = int(self._arrays["n_images"][0])
        if self.n_images < 1:
            raise ValueError(f"n_images: expected at least 1, got {self.n_images}")
        self.gaussians = [self._unpacked(index) for index in range(len(layout.grids))]
        self._means = [gaussian.mean.astype(np.float32) for gaussian in self.gaussians]
        self._matrices = [metric.matrices(each) for each in self.gaussians]

    @classmethod
    def of(
        cls, layout: Layout, metric: Metric, n_images: int, gaussians: Sequence[Gaussian]
    ) -> GaussianScorer:
        """Return that of Gaussians, rounded as a file rounds them."""
        arrays = {"n_images": np.array([n_images], np.float32)}
        for index, each in enumerate(gaussians):
            rows, columns = np.tril_indices(each.mean.shape[1])
            arrays[f"mean{index}"] = each.mean.astype(np.float32)
            arrays[f"channels{index}"] = layout.channels[index].astype(np.float32)
            arrays[f"scatter{index}"] = each.scatter[:, rows, columns].astype(np.float32)
        return cls(layout, metric, arrays)

    def _unpacked(self, index: int) -> Gaussian:
        mean = self._arrays[f"mean{index}"].astype(np.float64)
        rows, columns = np.tril_indices(mean.shape[1])
        scatter = np.empty((*mean.shape, mean.shape[1]))
        scatter[:, rows, columns] = scatter[:, columns, rows] = self._arrays[f"scatter{index}"]
        height, width = self.layout.grids[index]
        n = self.n_images * (1 if self.layout.by_position else height * width)
        return Gaussian(n, mean, scatter)

    @cached_property
    def factors(self) -> list[NDArray[np.float64]]:
        """What scatters are multiplied by, for each grid; of `Mahalanobis` alone."""
        metric = cast("Mahalanobis", self.metric)
        return [metric.shrunk(gaussian)[0] for gaussian in self.gaussians]

    def products(self, index: int, part: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the matrices times deviations of an image's cells, shape (n_cells, n_rows)."""
        deviations = part - self._means[index]
        matrices = self._matrices[index]
        found: NDArray[np.float32] = (
            np.matmul(matrices, deviations[:, :, None])[:, :, 0]
            if self.layout.by_position
            else product(deviations, matrices[0].T)
        )
        return found

    def cell_scores(self, pyramid: FeaturePyramid) -> NDArray[np.float64]:
        """Return the distance of each cell of the finest grid from the mean, from 0 up."""
        self._check_shapes(pyramid)
        parts = self.layout.parts(pyramid)
        sq_distances = [
            np.square(self.products(index, part[0]), dtype=np.float64).sum(axis=1)
            for index, part in enumerate(parts)
        ]
        return self.added(sq_distances, pyramid.shapes)

    def _check_shapes(self, pyramid: FeaturePyramid) -> None:
        """Raise a ShapeError if places of an image are not those that were learnt."""
        if self.layout.by_position and pyramid.shapes != self.layout.shapes:
            raise ShapeError(
                f"the image's pyramid is {describe_shapes(pyramid.shapes)}, each position was "
                f"learnt for {describe_shapes(self.layout.shapes)}"
            )

    def added(
        self,
        sq_distances: Sequence[NDArray[np.float64]],
        shapes: Sequence[tuple[int, int, int]],
    ) -> NDArray[np.float64]:
        """Return the root of the sum of squared distances, brought to the finest grid.

        Those of coarser levels count in units of the finest one.
        """
        grids = [(height, width) for height, width, _ in shapes]
        units = [self.metric.unit(len(chosen)) for chosen in self.layout.channels]
        maps = [
            each.reshape(grid) * (units[0] / unit)
            for each, grid, unit in zip(sq_distances, grids, units, strict=False)
        ]
        total = maps[0] + sum(resized(each, grids[0]) for each in maps[1:])
        # Without some images (`sq_distances_left_out`) rounding may go below zero.
        found: NDArray[np.float64] = np.sqrt(np.maximum(total, 0))
        return found
