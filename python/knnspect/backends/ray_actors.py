"""The processes of a Ray cluster that search shards."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from knnspect.backends.ray_host import Answer, ShardHost, in_pieces
from knnspect.backends.ray_requests import Request
from knnspect.cluster import Cluster
from knnspect.errors import KnnspectError, StoreError

__all__ = ["ShardActors"]

#: A query of fewer bytes goes with the call if one process is asked (benches/python/sharded.py).
_SMALL = 1 << 20


class ShardActors:
    """Actors on the nodes of a cluster, each made when it is first asked.

    Parameters
    ----------
    cluster : Cluster
        Where they run.
    attempts : int
        How often Ray repeats what an actor was asked that has died.
    processes : int
        How many there are on each node.
    """

    def __init__(self, cluster: Cluster, attempts: int, processes: int) -> None:
        self._cluster, self._attempts, self._processes = cluster, attempts, processes
        self._actors: dict[int, Any] = {}
        #: Processor cores where each actor runs.
        self._cores: dict[int, int] = {}
        #: Ray's names of the nodes: the actors are dealt out to them in turn.
        self._nodes: list[str] = []
        self._session: Any = None
        self._lock = threading.RLock()

    def connect(self) -> None:
        """Connect this process to the cluster; see `Cluster.connect`."""
        with self._lock:
            session = self._cluster.connect()
            if session != self._session:  # actors of one that has ended are gone
                self._actors.clear()
                self._nodes = _nodes()
                self._session = session

    def n_places(self, n_shards: int) -> int:
        """Return among how many actors so many shards are divided."""
        return min(n_shards, self._processes * len(self._nodes))

    def send(self, levels: Sequence[NDArray[Any]], n_asked: int) -> tuple[Any, ...]:
        """Return a query as arguments for so many actors."""
        import ray

        if n_asked == 1 and sum(level.nbytes for level in levels) < _SMALL:
            return in_pieces(levels)
        return (ray.put(list(levels)),)

    def node(self, place: int) -> str:
        """Return the node that the actor at a place is started on."""
        return self._nodes[place % len(self._nodes)]

    def ask(
        self,
        place: int,
        request: Request,
        window: tuple[int | None, ...] | None,
        threads: int | None,
        query: tuple[Any, ...],
        n_asked: Mapping[str, int],
        again: bool = False,
    ) -> Any:
        """Ask the actor at a place; return the reference of its answer.

        `n_asked` says of how many actors on each node this is one: they share its cores.
        """
        with self._lock:
            if again:
                self._actors.pop(place, None)
            actor = self._actor(place)
            if threads is None:
                threads = max(1, self._cores[place] // n_asked[self.node(place)])
        about = (request.shards, request.asked, request.parts)
        return actor.search.remote(*about, window, threads, *query)

    def answer(
        self, reference: Any, seconds: float
    ) -> list[Answer] | dict[str, StoreError] | KnnspectError | TimeoutError | None:
        """Return what an actor answers; None if it has died."""
        import ray

        try:
            answer: list[Answer] | dict[str, StoreError] | KnnspectError = ray.get(
                reference, timeout=max(0.0, seconds)
            )
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
            self._cores.clear()
            self._session = None  # nodes that have come since are made use of

    def _actor(self, place: int) -> Any:
        if place not in self._actors:
            actor, about = self._cluster.start_on(
                self.node(place), ShardHost, max_restarts=-1, max_task_retries=self._attempts
            )
            self._actors[place], self._cores[place] = actor, about.cores
        return self._actors[place]


def _nodes() -> list[str]:
    """Return the nodes that work is to be done on: those that offer cores, if there are any."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    alive = [node for node in nodes if node["Alive"]]
    offering = [node["NodeID"] for node in alive if node["Resources"].get("CPU")]
    return offering or [node["NodeID"] for node in alive]
