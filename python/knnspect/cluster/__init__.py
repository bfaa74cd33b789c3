"""Processes on several machines, run by Ray.

``connection``  this process connected to a cluster, and processes that it starts there
``worker``      what every such process can say of itself
"""

from __future__ import annotations

from knnspect.cluster.connection import Cluster
from knnspect.cluster.worker import About, Worker

__all__ = ["About", "Cluster", "Worker"]
