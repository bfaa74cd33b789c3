"""Connections to Ray clusters that are not there, are others, or end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ray_cluster_apart import ClusterApart

from knnspect import BackendUnavailable, DTypeError
from knnspect.cluster import Cluster, Worker, connection

pytest.importorskip("ray")

pytestmark = [
    pytest.mark.xdist_group("ray"),
    # Ray's own.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),
]
QUIET: dict[str, Any] = {
    "include_dashboard": False,
    "log_to_driver": False,
    "configure_logging": False,
}


@pytest.fixture
def listening(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of something that answers each caller with the same bytes, or not at all."""
    answer: bytes = request.param
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        callers = []

        def serve() -> None:
            while True:
                try:
                    caller, _ = server.accept()
                except OSError:
                    return
                callers.append(caller)
                caller.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        for caller in callers:
            caller.close()


def refusal_of(address: str) -> tuple[str, float]:
    """The message of the error, and after how many seconds it came."""
    start = time.perf_counter()
    with pytest.raises(BackendUnavailable) as error:
        Cluster(address, "a test").connect()
    return str(error.value), time.perf_counter() - start


@pytest.mark.parametrize("listening", [b""], indirect=True)
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_port_that_is_silent_is_waited_for_a_while(
    listening: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_PATIENCE", 0.5)
    message, seconds = refusal_of(scheme + listening)
    assert message.startswith(f"a test: no cluster can be reached at {scheme}{listening}: ")
    assert 0.5 <= seconds < 5


@pytest.mark.parametrize("listening", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 "], indirect=True)
def test_a_port_where_something_else_answers_is_no_cluster(listening: str) -> None:
    message, seconds = refusal_of(listening)
    assert f"no cluster can be reached at {listening}: something else answers there" in message
    assert seconds < 5


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "refused"),
        ("ray://127.0.0.1:1", "refused"),
        ("[::1]:1", ""),
        ("nowhere.invalid:6379", ""),
        ("nonsense", "nonsense"),
    ],
)
def test_an_address_without_a_cluster_is_named(address: str, reason: str) -> None:
    message, seconds = refusal_of(address)
    assert message.startswith(f"a test: no cluster can be reached at {address}: ")
    assert reason in message
    assert seconds < 12


def test_an_address_is_text() -> None:
    wrong: Any = 6379
    with pytest.raises(DTypeError, match="address: expected a str, got int"):
        Cluster(wrong, "a test")


#: What happens to a process whose cluster ends, line by line.
DRIVER = """
import json, sys, time
from knnspect import BackendUnavailable
from knnspect.cluster import Cluster, Worker

def attempt(what, work):
    start = time.perf_counter()
    try:
        value = str(work())
    except BackendUnavailable as error:
        value = str(error)
    print(json.dumps([what, value, time.perf_counter() - start]), flush=True)

named, any_ = Cluster(sys.argv[1], "a test"), Cluster(None, "a test")
attempt("connect", named.connect)
attempt("again", any_.connect)
actor, about = named.start(Worker)
attempt("version", lambda: about.version)
print("ended", flush=True)
sys.stdin.readline()
attempt("start", lambda: named.start(Worker))
attempt("other", any_.connect)
attempt("named", named.connect)
attempt("local", Cluster("local", "a test").connect)
attempt("worker", lambda: Cluster(None, "a test").start(Worker)[1].version)
import ray
ray.shutdown()
"""


@pytest.mark.timeout(180)
def test_a_cluster_that_has_ended_is_said_to_be_and_another_may_follow() -> None:
    apart = ClusterApart()
    lines = []
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, apart.address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_ADDRESS": ""},
    ) as process:
        assert process.stdin
        assert process.stdout
        for line in process.stdout:
            if line == "ended\n":
                apart.tell("end")
                apart.close()
                process.stdin.write("\n")
                process.stdin.flush()
            elif line.startswith("["):
                lines.append(json.loads(line))
    said = {what: value for what, value, _ in lines}
    seconds = {what: took for what, _, took in lines}
    assert said["connect"] == said["again"]
    ended = f"the cluster at {apart.address}, to which this process was connected, has ended"
    assert said["start"] == said["other"] == f"a test: {ended}"
    assert said["named"].startswith(f"a test: no cluster can be reached at {apart.address}: ")
    assert said["version"] == said["worker"]
    assert max(seconds.values()) < 30, seconds


@pytest.mark.timeout(120)
def test_another_version_of_ray_or_python_is_refused_when_connecting() -> None:
    apart = ClusterApart()
    apart.tell("other versions")
    code = (
        "import sys\n"
        "from knnspect import BackendUnavailable\n"
        "from knnspect.cluster import Cluster\n"
        "try:\n"
        "    Cluster(sys.argv[1], 'a test').connect()\n"
        "except BackendUnavailable as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, apart.address], capture_output=True, text=True, timeout=60
    )
    apart.close()
    assert f"no cluster can be reached at {apart.address}: Version mismatch" in done.stdout
    assert "Ray: 2.0.1" in done.stdout
    assert "Python: 3.9.1" in done.stdout


def test_a_process_that_no_node_has_room_for_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    ray.init("local", num_cpus=1, object_store_memory=100_000_000, **QUIET)
    try:
        monkeypatch.setattr(connection, "_START_PATIENCE", 1)
        with pytest.raises(BackendUnavailable, match=r"within 1 s.*'num_gpus': 1000"):
            Cluster(None, "a test").start(Worker, num_gpus=1000)
        # This module cannot be imported there, as knnspect on a node that lacks it.
        where = r"could not be started on the node at [\d.]+: ModuleNotFoundError: No module named"
        with pytest.raises(BackendUnavailable, match=where):
            Cluster(None, "a test").start(Elsewhere)
    finally:
        ray.shutdown()


class Elsewhere(Worker):
    """A class that processes of a cluster cannot import."""


#: Ray ends a process whose cluster has been gone for a minute, unless it is told to wait longer.
OUTLIVING = """
import os, sys, time
from knnspect.cluster import Cluster, connection
(name,) = connection._OUTLIVES
connection._OUTLIVES = {name: sys.argv[2]}
Cluster(sys.argv[1], "a test").connect()
assert name not in os.environ  # processes that this one starts are not to outlive it
print("connected", flush=True)
sys.stdin.readline()
time.sleep(12)
print("alive", flush=True)
os._exit(0)
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("seconds", "left"), [("3", ""), ("3000", "alive\n")])
def test_a_process_outlives_its_cluster_as_long_as_it_is_told(seconds: str, left: str) -> None:
    apart = ClusterApart()
    with subprocess.Popen(
        [sys.executable, "-c", OUTLIVING, apart.address, seconds],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "connected\n"
        apart.tell("end")
        apart.close()
        assert process.communicate("\n")[0] == left
