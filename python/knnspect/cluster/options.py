"""How a cluster is to be used by a fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from knnspect.errors import DTypeError, ParameterError
from knnspect.validation import check_count, check_positive

__all__ = ["OnCluster"]


@dataclass(frozen=True)
class OnCluster:
    """A Ray cluster for `Detector.fit`, and how much of it is to be used.

    Parameters
    ----------
    address : str, default "auto"
        The cluster: ``"host:6379"``; ``"local"`` to start one on this machine; or ``"auto"``, the
        one that this process is connected to, that ``RAY_ADDRESS`` names, or that runs here.
    shards : int or sequence of path-like, optional
        In how many folders a new gallery is kept, or in which; see `ShardedGallery.create`. By
        default as many as the cluster has nodes, and at least 2. A gallery that is there stays in
        its shards.
    actors : int, optional
        Processes that extract features. By default one for each GPU, or, without GPUs, for each
        node.
    num_gpus : float, optional
        GPUs that each of them has to itself; .5 is one for two. By default 1 if the cluster has
        GPUs and the backbone's `device` is not ``"cpu"``, else 0.
    attempts : int, default 3
        How often images are asked for whose processes have died.
    timeout : float, default 600
        Seconds within which some images have to be learnt; without any the work is asked for again.

    Raises
    ------
    ParameterError, DTypeError
        If a value is none of these.

    Examples
    --------
    >>> OnCluster("local", actors=2, num_gpus=1).actors
    2
    """

    address: str = "auto"
    shards: int | Sequence[str | os.PathLike[str]] | None = None
    actors: int | None = None
    num_gpus: float | None = None
    attempts: int = 3
    timeout: float = 600

    def __post_init__(self) -> None:
        if not isinstance(self.address, str):
            raise DTypeError(
                f"cluster: expected an address such as 'auto', got {type(self.address).__name__}"
            )
        if self.address.startswith("ray://"):
            raise ParameterError(
                f"cluster: expected 'host:6379', 'local' or 'auto', got {self.address!r}: Ray Data "
                "needs a process on a node of the cluster",
                parameter="cluster",
            )
        if isinstance(self.shards, int):
            check_count("shards", self.shards)
        if self.actors is not None:
            check_count("actors", self.actors)
        if self.num_gpus is not None:
            check_positive("num_gpus", self.num_gpus, or_zero=True)
        check_count("attempts", self.attempts)
        check_positive("timeout", self.timeout)

    @classmethod
    def of(cls, cluster: str | OnCluster | None) -> OnCluster | None:
        """Return what `fit` was given, an address alone with all defaults; None for None."""
        if cluster is None or isinstance(cluster, OnCluster):
            return cluster
        return cls(cluster)
