"""The connection of this process to a Ray cluster, and the processes that it starts there."""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from knnspect import _core
from knnspect.cluster.worker import About, Worker
from knnspect.errors import BackendUnavailable, DTypeError
from knnspect.extras import require

__all__ = ["Cluster"]

#: Seconds within which a cluster has to answer at its address; Ray itself waits for minutes.
_PATIENCE = 10
#: How often a process is started that goes to another node than it is to.
_STARTS = 8
#: Seconds within which a process has to start.
_START_PATIENCE = 120
#: What a cluster that is started here is not to do: send statistics of use, or serve a web page.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
#: Seconds for which Ray lets a process live whose cluster has ended; it would be one minute.
_OUTLIVES = {"RAY_gcs_rpc_server_reconnect_timeout_s": "31536000"}
#: How a client of HTTP/2 begins, and so of gRPC: with a greeting, and settings, here none.
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
#: Of the node by which this process is connected, the address of its raylet.
_RAYLETS: dict[str, str] = {}


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

        A connection to a cluster that has ended is given up, and made anew where `address` names
        one.

        Raises
        ------
        BackendUnavailable
            If no cluster answers at the address, it runs another version of Ray or Python, or the
            one that this process was connected to has ended.
        """
        import ray

        with self._lock:
            if ray.is_initialized() and (ended := _ended(ray)):
                ray.shutdown()
                if self.address in (None, "auto"):
                    raise BackendUnavailable(f"{self._for}: {ended}")
            if not ray.is_initialized():
                for name, value in _QUIET.items():
                    os.environ.setdefault(name, value)
                self._start(ray)
            context = ray.get_runtime_context()
            self._check_connected_to(context.gcs_address)
            # Jobs of each cluster are counted from one.
            return f"{context.gcs_address} {context.get_node_id()} {context.get_job_id()}"

    def start_on(
        self, node: str, worker: type[Worker], *args: Any, **options: Any
    ) -> tuple[Any, About]:
        """Start a process on a node, by Ray's name of it; on another one once that is lost.

        Ray lets a process go elsewhere that would rather be on a node than not at all, often for no
        reason; one that must be there is not started again when the node is lost. So one that went
        elsewhere is started anew, a few times. For the rest see `start`.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        where = NodeAffinitySchedulingStrategy(node, soft=True)
        for _ in range(_STARTS - 1):
            actor, about = self.start(worker, *args, scheduling_strategy=where, **options)
            listed: Any = ray.nodes
            is_there = any(each["NodeID"] == node and each["Alive"] for each in listed())
            if not is_there or ray.get(actor.ray_node.remote()) == node:
                return actor, about
            ray.kill(actor)
        return self.start(worker, *args, scheduling_strategy=where, **options)

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
            If it does not start within two minutes, as where no node has the GPU that it asks for;
            if the cluster has ended; if there is another version of knnspect: the message names the
            node.
        """
        import ray

        if ray.is_initialized() and (ended := _ended(ray)):
            raise BackendUnavailable(f"{self._for}: {ended}")
        self.connect()
        made: Any = ray.remote(worker)
        actor = made.options(
            **{"num_cpus": 0, "scheduling_strategy": "SPREAD", **options},
        ).remote(*args)
        try:
            about: About = ray.get(actor.about.remote(), timeout=_START_PATIENCE)
        except ray.exceptions.GetTimeoutError as error:
            ray.kill(actor)
            raise BackendUnavailable(
                f"{self._for}: no process could be started within {_START_PATIENCE} s; is there a "
                f"node that has free what it asks for ({options})?"
            ) from error
        except ray.exceptions.RayError as error:
            node = re.search(r"ip=([^,)]+)", str(error))
            where = f" on the node at {node[1]}" if node else ""
            reason = _ended(ray) or str(error).strip().splitlines()[-1]
            raise BackendUnavailable(
                f"{self._for}: a process could not be started{where}: {reason}"
            ) from error
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
            _check_answers(address or "auto")
            with _environment(_OUTLIVES):
                ray.init(address or "auto", log_to_driver=False, configure_logging=False)
        except (ConnectionError, ImportError, RuntimeError, ValueError, OSError) as error:
            if address is None:
                ray.init("local", **here)
                return
            reason = str(error)
            if address.startswith("ray://") and isinstance(error, ImportError):
                reason = f'{reason}; such addresses need pip install "ray[client]"'
            raise BackendUnavailable(
                f"{self._for}: no cluster can be reached at {address}: {reason}"
            ) from error


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set those variables of the environment that are not set, while Ray reads them."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def _ended(ray: Any) -> str | None:
    """Return that the cluster of this process has ended, or this node of it; None if they answer.

    Ray would wait for them for ever.
    """
    if _is_client():  # of a process on the cluster, which Ray itself gives up
        return None
    context = ray.get_runtime_context()
    address = context.gcs_address
    if not _is_open(address):
        return f"the cluster at {address}, to which this process was connected, has ended"
    own = context.get_node_id()
    if own not in _RAYLETS:
        (node,) = (node for node in ray.nodes() if node["NodeID"] == own)
        _RAYLETS.clear()
        _RAYLETS[own] = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    if not _is_open(_RAYLETS[own]):
        return (
            f"the node at {_RAYLETS[own]}, by which this process was connected to the cluster at "
            f"{address}, has ended"
        )
    return None


def _is_client() -> bool:
    """Return whether this process is connected by an address that begins with ``ray://``."""
    client = sys.modules.get("ray.util.client")
    return client is not None and bool(client.ray.is_connected())


def _is_open(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
    except OSError:
        return False
    return True


def _check_answers(address: str) -> None:
    """Raise an OSError if there is no server of gRPC at the host and the port of an address."""
    found = re.fullmatch(r"(?:ray://)?(?:\[(.+)\]|([^:/\[\]]+)):(\d+)", address)
    if not found:
        return
    bracketed, host, port = found.groups()
    with socket.create_connection((bracketed or host, int(port)), _PATIENCE) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return  # which has a greeting of its own
        connection.settimeout(_PATIENCE)
        connection.sendall(_HTTP2_GREETING)
        answer = connection.recv(9)
    # Nine bytes, of which the fourth says that the server's settings follow.
    if len(answer) != 9 or answer[3] != 4:
        raise ConnectionError(f"something else answers there: {answer!r}")
