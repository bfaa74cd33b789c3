"""How many processes work on a cluster, and with what."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from knnspect.cluster.options import OnCluster
from knnspect.errors import ParameterError

__all__ = ["Node", "Pool", "nodes", "planned"]


@dataclass(frozen=True)
class Node:
    """What a machine of a cluster has: processor cores and GPUs that Ray may give away."""

    cores: float
    gpus: float


@dataclass(frozen=True)
class Pool:
    """The processes that work.

    Parameters
    ----------
    n_actors : int
        How many.
    n_threads : int
        Threads that each computes with.
    num_gpus : float
        GPUs that each has to itself.
    """

    n_actors: int
    n_threads: int
    num_gpus: float


def nodes() -> list[Node]:
    """Return the nodes of the cluster that this process is connected to and that are alive."""
    import ray

    listed: Any = ray.nodes
    found = (node["Resources"] for node in listed() if node["Alive"])
    return [Node(of.get("CPU", 0.0), of.get("GPU", 0.0)) for of in found]


def planned(options: OnCluster, there: list[Node], may_use_gpus: bool) -> Pool:
    """Return the processes that options ask for, on the nodes that are there.

    All have the same number of threads, as features may depend on it in their last bits:
    ``OMP_NUM_THREADS`` of this process, or the cores of the smallest node, shared by the processes
    that one node has.

    Raises
    ------
    ParameterError
        If no node has so many GPUs, or all of them not so many.

    Examples
    --------
    >>> planned(OnCluster(), [Node(8, 0), Node(16, 0)], may_use_gpus=True).n_actors
    2
    >>> pool = planned(OnCluster(), [Node(32, 4)], may_use_gpus=True)
    >>> pool.n_actors, pool.num_gpus
    (4, 1)
    """
    n_gpus = sum(node.gpus for node in there)
    num_gpus = options.num_gpus
    if num_gpus is None:
        num_gpus = 1 if may_use_gpus and n_gpus >= 1 else 0
    if num_gpus > max(node.gpus for node in there):
        raise ParameterError(
            f"num_gpus: expected at most {max(node.gpus for node in there):g}, what a node of the "
            f"cluster has, got {num_gpus:g}",
            parameter="num_gpus",
        )
    fit = sum(int(node.gpus / num_gpus) for node in there) if num_gpus else 0
    n_actors = options.actors or fit or len(there)
    if num_gpus and n_actors > fit:
        raise ParameterError(
            f"actors: expected at most {fit}, as the cluster has {n_gpus:g} GPUs and each asks for "
            f"{num_gpus:g}, got {n_actors}",
            parameter="actors",
        )
    working = [node for node in there if node.gpus >= num_gpus]
    of_a_node = -(-n_actors // len(working))
    cores = int(min(node.cores for node in working))
    n_threads = _asked_for() or max(1, cores // of_a_node)
    return Pool(n_actors, n_threads, num_gpus)


def _asked_for() -> int:
    found = re.match(r"\s*(\d{1,4})", os.environ.get("OMP_NUM_THREADS", ""))
    return int(found[1]) if found else 0
