"""Objects that each do a part of some work: in processes of a cluster, or in this one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from knnspect.cluster.connection import Cluster
from knnspect.cluster.worker import Worker
from knnspect.errors import BackendUnavailable, KnnspectError

__all__ = ["Call", "Crew", "CrewMember", "LocalCrew", "RayCrew"]

#: A method, and its arguments.
Call = tuple[str, tuple[Any, ...]]
#: Processes that are started at a time.
_AT_ONCE = 8


class CrewMember(Worker):
    """The base of classes whose objects do a part of some work."""

    def do(self, method: str, *args: Any) -> Any:
        """Return what a method returns, or the error, as a value: so it keeps its fields."""
        try:
            return getattr(self, method)(*args)
        except (KnnspectError, MemoryError) as error:
            return error


class Crew(Protocol):
    """Objects that each do a part of some work.

    Attributes
    ----------
    recall : callable
        What an object that was made anew is told before anything else, by its part; nothing by
        default.
    """

    recall: Callable[[int], Iterable[Call]]

    def ask(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Call a method of some objects, by their parts; return what each returns.

        Raises
        ------
        Exception
            What the first of them that fails has raised.
        BackendUnavailable
            If a process dies time after time, or the cluster has ended.
        """
        ...

    def threads(self, part: int, asked: int | None) -> int | None:
        """Return how many threads an object may use, of as many as were asked for."""
        ...


class LocalCrew:
    """Objects in this process, which work one after the other.

    Parameters
    ----------
    worker : type of CrewMember
        Their class.
    parts : sequence of tuple
        What each is made with.
    """

    def __init__(self, worker: type[CrewMember], parts: Sequence[tuple[Any, ...]]) -> None:
        self._members = [worker(*args) for args in parts]
        self.recall: Callable[[int], Iterable[Call]] = _nothing

    def ask(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Call a method of some objects; see `Crew.ask`."""
        return {part: getattr(self._members[part], method)(*a) for part, a in arguments.items()}

    def threads(self, part: int, asked: int | None) -> int | None:  # noqa: ARG002 - all have all
        """Return as many as were asked for."""
        return asked


class RayCrew:
    """Objects in processes of a cluster, which work at the same time; a context manager.

    A process that dies is started anew, told what it has to know (`recall`), and asked again.

    Parameters
    ----------
    cluster : Cluster
        Where they run.
    worker : type of CrewMember
        Their class.
    parts : sequence of tuple
        What each is made with; the first of it has a name, for errors.
    attempts : int, default 3
        How often a process is asked what it has died of.
    """

    def __init__(
        self,
        cluster: Cluster,
        worker: type[CrewMember],
        parts: Sequence[tuple[Any, ...]],
        attempts: int = 3,
    ) -> None:
        self._cluster, self._worker, self._parts = cluster, worker, parts
        self._attempts = attempts
        self.recall: Callable[[int], Iterable[Call]] = _nothing
        self._actors: dict[int, Any] = {}
        #: Of each part, the node and the cores there.
        self._nodes: dict[int, tuple[str, int]] = {}

    def __enter__(self) -> RayCrew:
        self._cluster.connect()
        try:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(self._start, range(len(self._parts))))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        for actor in self._actors.values():
            if ray.is_initialized():
                ray.kill(actor)
        self._actors.clear()

    def ask(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Call a method of some objects; see `Crew.ask`."""
        asked = {part: self._call(part, method, args) for part, args in arguments.items()}
        return {
            part: self._answer(part, asked[part], (method, args))
            for part, args in arguments.items()
        }

    def threads(self, part: int, asked: int | None) -> int | None:
        """Return the part of an object, as those on one node share its cores."""
        node, cores = self._nodes[part]
        n_beside = Counter(name for name, _ in self._nodes.values())[node]
        return asked or max(1, cores // n_beside)

    def _start(self, part: int) -> None:
        actor, about = self._cluster.start(self._worker, *self._parts[part])
        self._actors[part], self._nodes[part] = actor, (about.node, about.cores)

    def _call(self, part: int, method: str, args: tuple[Any, ...]) -> Any:
        return self._actors[part].do.remote(method, *args)

    def _answer(self, part: int, reference: Any, call: Call) -> Any:
        """Return an answer; ask again where the process has died."""
        import ray

        reason: object = ""
        for attempt in range(self._attempts):
            try:
                if attempt:
                    reference = self._asked_anew(part, call)
                answer = ray.get(reference)
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
                reason = str(error).strip().splitlines()[0]
                self._cluster.connect()  # which says so where it has ended
                continue
            if isinstance(answer, Exception):
                raise answer
            return answer
        name = getattr(self._parts[part][0], "name", part)
        raise BackendUnavailable(f"{name}: its process has died {self._attempts} times: {reason}")

    def _asked_anew(self, part: int, call: Call) -> Any:
        """Start the process of a part again, and ask it; return the reference of its answer."""
        import ray

        self._start(part)
        for method, args in self.recall(part):
            known = ray.get(self._call(part, method, args))
            if isinstance(known, Exception):
                raise known
        return self._call(part, *call)


def _nothing(part: int) -> Iterable[Call]:  # noqa: ARG001 - the same for all
    return ()
