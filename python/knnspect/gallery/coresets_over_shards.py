"""Coresets of a gallery in shards."""

from __future__ import annotations

from knnspect.gallery.coreset import Coreset
from knnspect.gallery.picking import pick_coreset
from knnspect.gallery.reading import ReadOnlyGallery

__all__ = ["CoresetsOverShards"]


class CoresetsOverShards(ReadOnlyGallery):
    """The half of a gallery in shards that picks coresets."""

    def coreset(
        self,
        size: int | float,
        seed: int = 0,
        projection: int | None = None,
        threads: int | None = None,
        progress: bool = False,
        cluster: str | None = None,
    ) -> Coreset:
        """Pick a few rows that lie near all others; see `Gallery.coreset`.

        Parameters
        ----------
        size, seed, projection, threads, progress
            As of `Gallery.coreset`; threads are those of each process.
        cluster : str, optional
            The address of a Ray cluster, as `RayBackend` takes it, or ``"auto"`` for the one that
            this process is connected to or that runs on this machine. A process for each shard
            keeps how far its rows are, and sends those that may be picked next. The same rows are
            picked, in the same order. By default this process does all.

        Returns
        -------
        Coreset
            The rows and where they came from.

        Raises
        ------
        ParameterError, DTypeError, ImageError, MemoryError
            As `Gallery.coreset`.
        BackendUnavailable
            Without Ray, if there is no cluster at the address, or if the process of a shard dies
            three times at one step.
        StoreError
            If a shard cannot be opened where its process runs; the message names both.
        """
        how = (size, seed, projection, threads, progress)
        return pick_coreset(self, *how, cluster=cluster)
