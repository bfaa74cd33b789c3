"""Sums over the features of a gallery: of all of it, or shard by shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.cluster import Cluster
from knnspect.cluster.crew import Crew, CrewMember, LocalCrew, RayCrew
from knnspect.detectors.heads.estimates.gaussians import Gaussian
from knnspect.detectors.heads.scorers.gaussians import Layout
from knnspect.errors import StoreError
from knnspect.gallery.reading import ReadOnlyGallery
from knnspect.pyramid import FeaturePyramid
from knnspect.search.shards import Shard

__all__ = ["ImageSums", "Sums", "gaussians_of", "pyramids_of", "sums_of"]

#: Images that are in memory at a time.
_AT_ONCE = 32


class ImageSums(CrewMember):
    """Sums up the features of some images.

    Parameters
    ----------
    source : ReadOnlyGallery or Shard
        Where they are; a shard is opened when it is first needed.
    ids : list of str
        The images.
    """

    def __init__(self, source: ReadOnlyGallery | Shard, ids: list[str]) -> None:
        self._source, self._ids = source, ids

    def gaussians(self, layout: Layout) -> list[Gaussian]:
        """Return the Gaussians of a layout.

        Raises
        ------
        StoreError
            If the shard cannot be opened, or is damaged; the message names the shard and the node.
        """
        return gaussians_of(layout, self._pyramids())

    def of_channels(self, layout: Layout) -> list[Gaussian]:
        """Return a Gaussian of one feature for each channel, over all cells; see `gaussians`."""
        # Each channel is a place.
        return _summed(
            [part.reshape(-1, part.shape[-1], 1) for part in layout.parts(each)]
            for each in self._pyramids()
        )

    def _pyramids(self) -> Iterator[FeaturePyramid]:
        if isinstance(shard := self._source, ReadOnlyGallery):
            yield from pyramids_of(shard, self._ids)
            return
        try:
            core = _core.Gallery.open_at(shard.path, False, shard.state)
            yield from pyramids_of(ReadOnlyGallery.from_core(core), self._ids)
        except StoreError as error:
            raise StoreError(
                f"shard {shard.name} on node {self.about().node}: {error}",
                path=shard.path,
                image=error.image,
            ) from error


class Sums:
    """Sums over all images, of those of each part, added in the order of the parts."""

    def __init__(self, crew: Crew, n_parts: int) -> None:
        self._crew, self._parts = crew, range(n_parts)

    def gaussians(self, layout: Layout) -> list[Gaussian]:
        """Return the Gaussians of a layout."""
        return self._added("gaussians", layout)

    def of_channels(self, layout: Layout) -> list[Gaussian]:
        """Return a Gaussian of one feature for each channel, over all cells."""
        return self._added("of_channels", layout)

    def _added(self, method: str, layout: Layout) -> list[Gaussian]:
        found = self._crew.ask(method, dict.fromkeys(self._parts, (layout,)))
        return _total(found[part] for part in self._parts)


@contextmanager
def sums_of(
    gallery: ReadOnlyGallery, ids: Sequence[str], cluster: str | None = None
) -> Iterator[Sums]:
    """Sum up images of a gallery, those of each shard by themselves.

    In this process, or, where the gallery is in shards, by a process of the cluster at an address
    for each. What comes out is the same, to the bit where these round products alike; it differs in
    its rounding from sums over the same images in one folder.
    """
    gallery = gallery.without([])  # as it is now
    shards = gallery._shards
    if shards is None:
        yield Sums(LocalCrew(ImageSums, [(gallery, list(ids))]), 1)
        return
    owners = shards.owners(ids)
    named = np.array(ids, object)
    parts: list[tuple[Any, list[str]]] = [
        (shards.shards[place], named[owners == place].tolist()) for place in np.unique(owners)
    ]
    if cluster is None:
        here = [(gallery, of_shard) for _, of_shard in parts]
        yield Sums(LocalCrew(ImageSums, here), len(parts))
        return
    with RayCrew(Cluster(cluster, "cluster of a fit"), ImageSums, parts) as crew:
        yield Sums(crew, len(parts))


def pyramids_of(gallery: ReadOnlyGallery, ids: Sequence[str]) -> Iterator[FeaturePyramid]:
    """Yield the features of images, a few at a time."""
    for start in range(0, len(ids), _AT_ONCE):
        yield gallery.pyramid(ids[start : start + _AT_ONCE])


def gaussians_of(layout: Layout, pyramids: Iterable[FeaturePyramid]) -> list[Gaussian]:
    """Return the Gaussians of a layout, by features that come in batches."""
    return _summed([layout.samples(part) for part in layout.parts(each)] for each in pyramids)


def _summed(batches: Iterable[list[NDArray[np.float32]]]) -> list[Gaussian]:
    """Return the Gaussians of samples that come in batches, each with a part for every Gaussian."""
    return _total([Gaussian.of([samples]) for samples in batch] for batch in batches)


def _total(parts: Iterable[list[Gaussian]]) -> list[Gaussian]:
    total: list[Gaussian] = []
    for part in parts:
        total = [one + other for one, other in zip(total, part, strict=True)] if total else part
    return total
