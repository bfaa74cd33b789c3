"""The connection of this process to a Ray cluster, and the processes that it starts there."""

from __future__ import annotations

import os
import re
import socket
import threading
from typing import Any

from knnspect import _core
from knnspect.cluster.worker import About, Worker
from knnspect.errors import BackendUnavailable, DTypeError
from knnspect.extras import require

__all__ = ["Cluster"]

#: Seconds within which an address has to be reachable; Ray itself waits for minutes.
_PATIENCE = 10
#: What a cluster that is started here is not to do: send statistics of use, or serve a web page.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class Cluster:
    """A Ray cluster at an address, to which this process connects when it is first needed.

    Parameters
    ----------
    address : str, optional
        ``"ray://host:10001"``, ``"host:6379"``, or ``"local"`` to start a cluster here. By default,
        or with ``"auto"``, the one that this process is connected to; else the one that
        ``RAY_ADDRESS`` names or that runs on this machine; else, but not with ``"auto"``, one is
        started, and ends with this process.
    for_ : str
        What needs the cluster, for errors.

    Raises
    ------
    BackendUnavailable
        Without Ray.
    """

    def __init__(self, address: str | None, for_: str) -> None:
        if address is not None and not isinstance(address, str):
            raise DTypeError(f"address: expected a str, got {type(address).__name__}")
        require("ray", for_=for_, error=BackendUnavailable)
        self.address, self._for = address, for_
        self._lock = threading.RLock()

    def connect(self) -> str:
        """Connect this process to the cluster, unless it is; return what tells connections apart.

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
            return str(context.get_job_id())

    def start(self, worker: type[Worker], *args: Any, **options: Any) -> tuple[Any, About]:
        """Start a process, an actor, that has an object of a class.

        Parameters
        ----------
        worker : type of Worker
            The class.
        *args
            What the object is made with.
        **options
            As Ray's actors take them, such as `num_gpus` or `max_restarts`. By default an actor
            asks for no core of its own, and actors are spread over the nodes.

        Returns
        -------
        actor, About
            Ray's handle, and where the process runs.

        Raises
        ------
        BackendUnavailable
            If there is another version of knnspect; the message names the node.
        """
        import ray

        self.connect()
        made: Any = ray.remote(worker)
        actor = made.options(
            **{"num_cpus": 0, "scheduling_strategy": "SPREAD", **options},
        ).remote(*args)
        about: About = ray.get(actor.about.remote())
        if about.version != _core.__version__:
            ray.kill(actor)
            raise BackendUnavailable(
                f"{self._for}: node {about.node} has knnspect {about.version}, this process has "
                f"{_core.__version__}: install the same"
            )
        return actor, about

    def _check_connected_to(self, address: str) -> None:
        asked = self.address
        if asked is None or asked in ("auto", "local", address) or asked.startswith("ray://"):
            return
        raise BackendUnavailable(
            f"{self._for}: expected the cluster at {asked}, this process is connected to the one "
            f"at {address}: a process has one connection"
        )

    def _start(self, ray: Any) -> None:
        here = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
        address = self.address or os.environ.get("RAY_ADDRESS")
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
                f"{self._for}: no cluster can be reached at {address}: {error}"
            ) from error


def _check_reachable(address: str) -> None:
    """Raise an OSError if nothing answers at the host and the port of an address."""
    if found := re.fullmatch(r"(?:ray://)?(?:\[(.+)\]|([^:/\[\]]+)):(\d+)", address):
        bracketed, host, port = found.groups()
        socket.create_connection((bracketed or host, int(port)), _PATIENCE).close()
