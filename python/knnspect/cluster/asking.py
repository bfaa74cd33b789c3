"""Processes of a cluster that are asked by other processes of it."""

from __future__ import annotations

from typing import Any

from knnspect.cluster.connection import Cluster
from knnspect.cluster.worker import About, Worker
from knnspect.errors import BackendUnavailable, KnnspectError

__all__ = ["Asked", "ProcessDied"]


class ProcessDied(BackendUnavailable):
    """A process of a cluster has died, and what it was asked is not known to be done."""


class Asked:
    """A process, an actor, that is asked by the methods of its object.

    It can be sent to other processes of the cluster, which ask the same one. Ray does not restart
    it: what it has to know again is for the one that starts it to say.

    Parameters
    ----------
    name : str
        What errors call it.
    actor
        Ray's handle.
    about : About
        Where it runs.
    """

    def __init__(self, name: str, actor: Any, about: About) -> None:
        self.name, self.about = name, about
        self._actor = actor

    @classmethod
    def start(
        cls, cluster: Cluster, name: str, worker: type[Worker], *args: Any, **options: Any
    ) -> Asked:
        """Start a process; the parameters are those of `Cluster.start`.

        Raises
        ------
        BackendUnavailable
            As `Cluster.start`.
        ProcessDied
            If it died at once, as on a node that dies.
        """
        import ray

        try:
            return cls(name, *cluster.start(worker, *args, max_restarts=0, **options))
        except BackendUnavailable as error:
            if isinstance(error.__cause__, ray.exceptions.RayActorError):
                raise ProcessDied(f"{name}: {error}") from error
            raise

    def ask(self, method: str, *args: Any) -> Any:
        """Ask for something; return the reference of the answer."""
        return getattr(self._actor, method).remote(*args)

    def answer(self, reference: Any, seconds: float | None = None) -> Any:
        """Return an answer.

        Raises
        ------
        KnnspectError
            If that is the answer.
        ProcessDied
            If the process has died, or does not answer in time.
        """
        import ray

        try:
            answer = ray.get(reference, timeout=seconds)
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
            raise ProcessDied(
                f"{self.name}: its process on node {self.about.node} has died: {_first_line(error)}"
            ) from error
        except ray.exceptions.GetTimeoutError as error:
            raise ProcessDied(
                f"{self.name}: its process on node {self.about.node} has not answered within "
                f"{seconds:g} s"
            ) from error
        if isinstance(answer, KnnspectError):
            raise answer
        return answer

    def stop(self) -> None:
        """End the process."""
        import ray

        if ray.is_initialized():
            ray.kill(self._actor)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
