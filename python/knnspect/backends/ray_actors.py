"""The processes of a Ray cluster that search shards."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

from knnspect.backends.ray_host import Answer, Part, ShardHost
from knnspect.cluster import Cluster
from knnspect.errors import KnnspectError
from knnspect.search.shards import Shard

__all__ = ["ShardActors"]


class ShardActors:
    """One actor for each place of a shard, made when it is first asked.

    Parameters
    ----------
    cluster : Cluster
        Where they run.
    attempts : int
        How often Ray repeats what an actor was asked that has died.
    """

    def __init__(self, cluster: Cluster, attempts: int) -> None:
        self._cluster, self._attempts = cluster, attempts
        self._actors: dict[int, Any] = {}
        #: Of each actor, the node and the cores there.
        self._nodes: dict[int, tuple[str, int]] = {}
        self._session: Any = None
        self._lock = threading.RLock()

    def connect(self) -> None:
        """Connect this process to the cluster; see `Cluster.connect`."""
        with self._lock:
            session = self._cluster.connect()
            if session != self._session:  # actors of one that has ended are gone
                self._actors.clear()
                self._session = session

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
        if place not in self._actors:
            actor, about = self._cluster.start(
                ShardHost, max_restarts=-1, max_task_retries=self._attempts
            )
            self._actors[place], self._nodes[place] = actor, (about.node, about.cores)
        return self._actors[place]
