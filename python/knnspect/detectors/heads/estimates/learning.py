"""Gaussians of the features in a gallery, with more images, or without some."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.heads.estimates.gaussians import sq_distances_left_out
from knnspect.detectors.heads.estimates.metrics import Mahalanobis, Metric
from knnspect.detectors.heads.estimates.sums import Sums, gaussians_of, pyramids_of, sums_of
from knnspect.detectors.heads.scorers.gaussians import GaussianScorer, Layout
from knnspect.errors import ImageError, ParameterError
from knnspect.gallery.reading import ReadOnlyGallery

__all__ = [
    "GaussianSettings",
    "cells_left_out",
    "estimate",
    "pyramids_of",
    "rebuilt",
    "with_images",
]


@dataclass(frozen=True)
class GaussianSettings:
    """What Gaussians are to be; see the parameters of `Padim`."""

    by_level: bool
    by_position: bool
    upsample: Literal["bilinear", "block"]
    channels: int | None
    selection: Literal["random", "leading"]
    seed: int
    metric: Metric

    def layout(self, shapes: Sequence[tuple[int, int, int]]) -> Layout:
        """Return which features go into which Gaussian, with all channels."""
        counts = [n for _, _, n in shapes]
        if not self.by_level:
            counts = [sum(counts)]
        channels = [np.arange(n) for n in counts]
        return Layout(shapes, self.upsample, self.by_level, self.by_position, channels)

    def check(self, n_images: int, layout: Layout) -> None:
        """Raise a ParameterError if there are too few images for covariances as they are."""
        for (height, width), chosen in zip(layout.grids, layout.channels, strict=True):
            n_samples = n_images * (1 if self.by_position else height * width)
            self.metric.check(n_samples, len(chosen))


def estimate(
    gallery: ReadOnlyGallery,
    ids: Sequence[str],
    settings: GaussianSettings,
    cluster: str | None = None,
) -> GaussianScorer:
    """Return what judges by the features of some images of a gallery.

    Those of a gallery in shards are summed up shard by shard, and the sums are added in the order
    of the shards: in this process, or by the processes of a cluster.
    """
    with sums_of(gallery, ids, cluster) as sums:
        layout = _layout(gallery, sums, settings)
        settings.check(len(ids), layout)
        gaussians = sums.gaussians(layout)
    if any(not each.scatter.any() for each in gaussians):
        raise ImageError(
            f"images: expected normal images that differ, the features of all {len(ids)} are the "
            "same"
        )
    return GaussianScorer.of(layout, settings.metric, len(ids), gaussians)


def with_images(
    scorer: GaussianScorer, gallery: ReadOnlyGallery, ids: Sequence[str]
) -> GaussianScorer:
    """Return what judges by some more images, by their features in a gallery."""
    more = gaussians_of(scorer.layout, pyramids_of(gallery, ids))
    both = [one + other for one, other in zip(scorer.gaussians, more, strict=True)]
    return GaussianScorer.of(scorer.layout, scorer.metric, scorer.n_images + len(ids), both)


def cells_left_out(
    scorer: GaussianScorer, gallery: ReadOnlyGallery, id_: str, left_out: Collection[str]
) -> NDArray[np.float64] | None:
    """Return the scores of an image's cells by the others, without those that belong to it.

    None if there are no others.

    Parameters
    ----------
    scorer : GaussianScorer
        By all images.
    gallery : ReadOnlyGallery
        Their features.
    id_ : str
        The image.
    left_out : collection of str
        The images that are left out, this one among them.
    """
    n_others = scorer.n_images - len(left_out)
    if n_others < 1:
        return None
    ids = list(left_out)
    pyramid = gallery.pyramid(ids)
    metric = scorer.metric
    if not (scorer.layout.by_position and isinstance(metric, Mahalanobis)):
        gone = gaussians_of(scorer.layout, [pyramid])
        rest = [one - other for one, other in zip(scorer.gaussians, gone, strict=True)]
        without = GaussianScorer.of(scorer.layout, scorer.metric, n_others, rest)
        return without.cell_scores(pyramid[ids.index(id_)])
    found = []
    for index, part in enumerate(scorer.layout.parts(pyramid)):
        whitened = np.stack([scorer.products(index, cells) for cells in part], axis=2)
        found.append(
            sq_distances_left_out(
                whitened.astype(np.float64), ids.index(id_), scorer.n_images, scorer.factors[index]
            )
        )
    return scorer.added(found, pyramid.shapes)


def rebuilt(
    shapes: Sequence[tuple[int, int, int]],
    settings: GaussianSettings,
    arrays: Mapping[str, NDArray[Any]],
) -> GaussianScorer:
    """Return what judges by the arrays of a file.

    Raises
    ------
    KeyError, ValueError
        If the arrays are not those of the settings.
    """
    layout = settings.layout(shapes)
    for index, all_of_them in enumerate(layout.channels):
        chosen = arrays[f"channels{index}"].astype(np.int64).reshape(-1)
        n_kept = min(settings.channels or len(all_of_them), len(all_of_them))
        if len(chosen) != n_kept or not np.isin(chosen, all_of_them).all():
            raise ValueError(f"channels{index}: expected {n_kept} of {len(all_of_them)}")
        layout.channels[index] = chosen
    return GaussianScorer(layout, settings.metric, arrays)


def _layout(gallery: ReadOnlyGallery, sums: Sums, settings: GaussianSettings) -> Layout:
    """Return which features go into which Gaussian, with the channels that are kept."""
    layout, n_kept = settings.layout(gallery.shapes), settings.channels
    counts = [len(each) for each in layout.channels]
    if n_kept is None:
        return layout
    if n_kept > max(counts):
        raise ParameterError(
            f"channels: expected at most {max(counts)}, as many as there are, got {n_kept}",
            parameter="channels",
        )
    if settings.selection == "random":
        rng = np.random.default_rng(settings.seed)
        orders = [rng.permutation(n) for n in counts]
    else:
        # Over all cells, largest first.
        scatters = [each.scatter[:, 0, 0] for each in sums.of_channels(layout)]
        orders = [np.argsort(-scatter, kind="stable") for scatter in scatters]
    layout.channels = [np.sort(order[:n_kept]) for order in orders]
    return layout
