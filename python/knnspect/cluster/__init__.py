"""Processes on several machines, run by Ray.

``connection``    this process connected to a cluster, and processes that it starts there
``worker``        what every such process can say of itself
``crew``          processes that each do a part of some work, all asked at once
``shard_picker``  the rows of a shard, of which coresets take some
"""

from __future__ import annotations

from knnspect.cluster.connection import Cluster
from knnspect.cluster.worker import About, Worker

__all__ = ["About", "Cluster", "Worker"]
