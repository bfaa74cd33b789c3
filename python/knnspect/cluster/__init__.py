"""Processes on several machines, run by Ray.

``asking``        processes that others ask
``connection``    this process connected to a cluster, and processes that it starts there
``crew``          processes that each do a part of some work, all asked at once
``options``       how a cluster is to be used by a fit
``pools``         how many processes work, and with what
``shard_picker``  the rows of a shard, of which coresets take some
``streams``       pieces of work that go through processes, by Ray Data
``worker``        what every such process can say of itself
"""

from __future__ import annotations

from knnspect.cluster.asking import Asked, ProcessDied
from knnspect.cluster.connection import Cluster
from knnspect.cluster.options import OnCluster
from knnspect.cluster.worker import About, Worker

__all__ = ["About", "Asked", "Cluster", "OnCluster", "ProcessDied", "Worker"]
