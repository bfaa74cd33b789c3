"""The processes of a Ray cluster that search shards."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

from knnspect import _core
from knnspect.backends.ray_host import Answer, Part, ShardHost
from knnspect.errors import BackendUnavailable, KnnspectError
from knnspect.search.shards import Shard

__all__ = ["ShardActors"]

#: Seconds within which an address has to be reachable; Ray itself waits for minutes.
_PATIENCE = 10
#: What a cluster that is started here is not to do: send statistics of use, or serve a web page.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class ShardActors:
    """One actor for each place of a shard, made when it is first asked.

    Parameters
    ----------
    address : str, optional
        As of `RayBackend`.
    attempts : int
        How often Ray repeats what an actor was asked that has died.
    """

    def __init__(self, address: str | None, attempts: int) -> None:
        self._address, self._attempts = address, attempts
        self._actors: dict[int, Any] = {}
        #: Of each actor, the node and the cores there.
        self._nodes: dict[int, tuple[str, int]] = {}
        self._session: Any = None
        self._lock = threading.RLock()

    def connect(self) -> None:
        """Connect this process to the cluster, unless it is.

        Raises
        ------
        BackendUnavailable
            If there is none at the address.
        """
        import ray

        with self._lock:
            if not ray.is_initialized():
                for name, value in _QUIET.items():
                    os.environ.setdefault(name, value)
                self._start(ray)
            context = ray.get_runtime_context()
            self._check_connected_to(context.gcs_address)
            session = context.get_job_id()
            if session != self._session:  # actors of one that has ended are gone
                self._actors.clear()
                self._session = session

    def _check_connected_to(self, address: str) -> None:
        asked = self._address
        if asked is None or asked in ("auto", "local", address) or asked.startswith("ray://"):
            return
        raise BackendUnavailable(
            f"backend 'ray': expected the cluster at {asked}, this process is connected to the one "
            f"at {address}: a process has one connection"
        )

    def _start(self, ray: Any) -> None:
        here = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
        address = self._address or os.environ.get("RAY_ADDRESS")
        if address == "local":
            ray.init("local", **here)
            return
        try:
            _check_reachable(address or "auto")
            ray.init(address or "auto", log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            if address is None:
                ray.init("local", **here)
                return
            raise BackendUnavailable(
                f"backend 'ray': no cluster can be reached at {address}: {error}"
            ) from error

    def put(self, value: Any) -> Any:
        """Put a value where all actors can read it; return the reference."""
        import ray

        return ray.put(value)

    def ask(
        self,
        place: int,
        shard: Shard,
        query: Any,
        parts: Sequence[Part],
        window: tuple[int | None, ...] | None,
        threads: int | None,
        again: bool = False,
    ) -> Any:
        """Ask the actor at a place to search a shard; return the reference of its answer."""
        with self._lock:
            if again:
                self._actors.pop(place, None)
            actor = self._actor(place)
            if threads is None:
                # Actors on one node share its cores.
                node, cores = self._nodes[place]
                threads = max(1, cores // Counter(node for node, _ in self._nodes.values())[node])
        return actor.search.remote(shard, query, list(parts), window, threads)

    def answer(
        self, reference: Any, seconds: float
    ) -> list[Answer] | KnnspectError | TimeoutError | None:
        """Return what an actor answers; None if it has died."""
        import ray

        try:
            answer: list[Answer] | KnnspectError = ray.get(reference, timeout=max(0.0, seconds))
        except ray.exceptions.GetTimeoutError as error:
            return TimeoutError(str(error))
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError):
            return None
        return answer

    def interrupt(self, place: int) -> None:
        """End what an actor is doing; it starts anew."""
        import ray

        if place in self._actors:
            ray.kill(self._actors[place], no_restart=False)

    def stop(self) -> None:
        """End all actors."""
        import ray

        with self._lock:
            for actor in self._actors.values():
                if ray.is_initialized():
                    ray.kill(actor)
            self._actors.clear()
            self._nodes.clear()

    def _actor(self, place: int) -> Any:
        import ray

        if place not in self._actors:
            host: Any = ray.remote(ShardHost)
            make = host.options(
                num_cpus=0,
                max_restarts=-1,
                max_task_retries=self._attempts,
                scheduling_strategy="SPREAD",
            )
            actor = make.remote()
            version, node, cores = ray.get(actor.about.remote())
            if version != _core.__version__:
                ray.kill(actor)
                raise BackendUnavailable(
                    f"backend 'ray': node {node} has knnspect {version}, this process has "
                    f"{_core.__version__}: install the same"
                )
            self._actors[place], self._nodes[place] = actor, (node, cores)
        return self._actors[place]


def _check_reachable(address: str) -> None:
    """Raise an OSError if nothing answers at the host and the port of an address."""
    if found := re.fullmatch(r"(?:ray://)?(?:\[(.+)\]|([^:/\[\]]+)):(\d+)", address):
        bracketed, host, port = found.groups()
        socket.create_connection((bracketed or host, int(port)), _PATIENCE).close()
