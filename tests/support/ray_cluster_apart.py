"""A Ray cluster in a process of its own, which is told line by line what happens to it.

    python ray_cluster_apart.py

It writes the address; ``other versions`` lets it say that it runs others of Ray and Python, ``end``
ends it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from typing import Any

LIMITS = {"num_cpus": 1, "object_store_memory": 100_000_000}


class ClusterApart:
    """The process, as its commander sees it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.address = self._answer()

    def tell(self, what: str) -> None:
        """Tell it what happens, and wait until it has."""
        assert self._process.stdin
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        assert self._answer() == what

    def close(self) -> None:
        self._process.communicate(timeout=30)

    def _answer(self) -> str:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("> "):
                return line[2:].strip()
        raise AssertionError("the cluster is gone")


def serve() -> None:
    """Have a cluster until the standard input ends."""
    usage_lib: Any = import_module("ray._common.usage.usage_lib")
    gcs_client: Any = import_module("ray._raylet").GcsClient
    cluster: Any = import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={**LIMITS, "include_dashboard": False}
    )
    sys.stdout.write(f"> {cluster.address}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        if line == "other versions\n":
            gcs = gcs_client(address=cluster.address)
            known = usage_lib.get_cluster_metadata(gcs)
            other = {**known, "ray_version": "2.0.1", "python_version": "3.9.1"}
            gcs.internal_kv_put(
                usage_lib.usage_constant.CLUSTER_METADATA_KEY,
                json.dumps(other).encode(),
                True,
                b"cluster",
            )
        else:
            cluster.shutdown()
        sys.stdout.write(f"> {line}")
        sys.stdout.flush()
    cluster.shutdown()


if __name__ == "__main__":
    serve()
