"""A Ray cluster on this machine, to which the process of the tests is connected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: What it may use.
LIMITS = {"num_cpus": 2, "object_store_memory": 200_000_000, "include_dashboard": False}


@contextmanager
def cluster_here(**limits: Any) -> Iterator[None]:
    """Have a cluster of one node, with other limits than `LIMITS` where given."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", log_to_driver=False, configure_logging=False, **(LIMITS | limits))
    try:
        yield
    finally:
        ray.shutdown()
