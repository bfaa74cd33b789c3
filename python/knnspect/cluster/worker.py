"""What every process that knnspect starts on a cluster can say of itself."""

from __future__ import annotations

import os
from dataclasses import dataclass

from knnspect import _core

__all__ = ["About", "Worker"]


@dataclass(frozen=True)
class About:
    """Where a process runs.

    Parameters
    ----------
    version : str
        The version of knnspect there.
    node : str
        The name of the machine.
    cores : int
        Processor cores that the process may use.
    """

    version: str
    node: str
    cores: int


class Worker:
    """The base of classes whose objects live in processes of a cluster."""

    def about(self) -> About:
        """Return where the process runs."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return About(_core.__version__, os.uname().nodename, cores or 1)

    def ray_node(self) -> str:
        """Return Ray's name of the node; only where Ray runs the process."""
        import ray

        return str(ray.get_runtime_context().get_node_id())
