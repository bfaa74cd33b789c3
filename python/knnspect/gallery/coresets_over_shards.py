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
        two_rounds: bool = False,
    ) -> Coreset:
        """Pick a few rows that lie near all others; see `Gallery.coreset`.

        Greedy selection covers all rows within at most twice the least radius that so many rows can
        have. In two rounds it is at most four times, and shards need not wait for each other: each
        picks as many rows by itself, and as many are picked among these.

        Parameters
        ----------
        size, seed, projection, threads, progress
            As of `Gallery.coreset`; threads are those of each process.
        cluster : str, optional
            The address of a Ray cluster, as `RayBackend` takes it, or ``"auto"`` for the one that
            this process is connected to or that runs on this machine. A process for each shard
            keeps how far its rows are, and sends those that may be picked next. The same rows are
            picked, in the same order. By default this process does all.
        two_rounds : bool, default False
            Pick in two rounds: other rows, which depend on the shards, in one message for each.

        Returns
        -------
        Coreset
            The rows and where they came from. In two rounds its `sq_radius` is the square of the
            sum of both rounds' radii: an upper bound.

        Raises
        ------
        ParameterError, DTypeError, ImageError, MemoryError
            As `Gallery.coreset`.
        BackendUnavailable
            Without Ray, if there is no cluster at the address, or if the process of a shard dies
            three times at one step.
        StoreError
            If a shard cannot be opened where its process runs; the message names both.

        Source
        ------
        Malkomes, Kusner, Chen, Weinberger and Moseley, "Fast Distributed k-Center Clustering with
        Outliers on Massive Data" (2015), for two rounds; Gonzalez (1985).

        Examples
        --------
        >>> import numpy as np, tempfile
        >>> from knnspect import FeaturePyramid, ShardedGallery
        >>> normal = FeaturePyramid([np.arange(64, dtype="f4").reshape(4, 4, 4, 1)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with ShardedGallery.create(f"{folder}/normal.gallery", shards=2) as gallery:
        ...         _ = gallery.add(normal)
        ...     one, two = gallery.coreset(4), gallery.coreset(4, two_rounds=True)
        >>> one.rows[:, 0], two.rows[:, 0]
        (array([ 0., 13., 27., 54.], dtype=float32), array([ 0., 15., 29., 54.], dtype=float32))
        >>> one.sq_radius, round(two.sq_radius, 6)
        (169.0, 324.0)
        """
        how = (size, seed, projection, threads, progress)
        return pick_coreset(self, *how, cluster=cluster, two_rounds=two_rounds)
