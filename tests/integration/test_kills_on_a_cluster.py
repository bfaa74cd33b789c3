"""Actors, raylets, nodes and drivers of a Ray cluster killed while a gallery is changed.

The cluster has three nodes on this machine, each a raylet with processes of its own. A driver
searches by it, compares each find with the core's to the bit, and changes the gallery meanwhile.

``KNNSPECT_CLUSTER_KILLS`` says how often (4); ``KNNSPECT_CLUSTER_KILLS_JSON`` names a file for what
happened.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marked_images import state_of

from knnspect import FeaturePyramid, Gallery, ShardedGallery
from knnspect.bench import machine

pytest.importorskip("ray")

pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
]
N_KILLS = int(os.environ.get("KNNSPECT_CLUSTER_KILLS", "4"))
KINDS = ("actor", "raylet", "driver", "node")
#: Seconds within which the driver has done something after a kill; a search may take 60.
PATIENCE = 120
LIMITS: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100_000_000}

#: Searches and changes a gallery until it is killed, and says what it does before and after.
DRIVE_FOR_EVER = """
import json, random, sys
import numpy as np
from knnspect import BackendUnavailable, FeaturePyramid, Gallery
from knnspect.backends import RayBackend
from knnspect.testing.expectations import expect_identical

folder, address, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
log = open(sys.argv[4], "a")  # not standard output, where Ray writes, too
chance = random.Random(seed)
backend = RayBackend(address, timeout=60, attempts=5)
gallery = Gallery.open(folder, "r+")
rng = np.random.default_rng(seed)
state = {id_: float(gallery.pyramid([id_]).levels[0].flat[0]) for id_ in gallery.ids}

def say(what, state=None):
    log.write(json.dumps([what, state]) + "\\n")
    log.flush()

def images(values):
    shapes = [(24, 24, 24), (6, 6, 64)]
    return FeaturePyramid(
        [np.stack([np.full(shape, value, "f4") for value in values]) for shape in shapes]
    )

def search():
    sizes = [(1, 24, 24, 24), (1, 6, 6, 64)]
    query = FeaturePyramid([rng.random(size, "f4") * 1000 for size in sizes])
    k = chance.choice([1, 5, 40])
    near = chance.choice([None, sorted(chance.sample(sorted(state), min(len(state), 5)))])
    try:
        found = gallery.search(query, k, near, backend=backend)
    except BackendUnavailable as error:
        say("refused", str(error))
        return
    expect_identical("on the cluster", found, gallery.search(query, k, near))

search()
say("ready", state)
while True:
    what = chance.choice(["search"] * 6 + ["add", "add", "replace", "remove", "compact", "move"])
    values = [float(chance.randrange(1 << 20)) for _ in range(chance.randint(1, 4))]
    ids = chance.sample(sorted(state), min(len(state), len(values)))
    after = state
    if what == "add" and len(state) < 40:
        ids = [f"{chance.randrange(1 << 30):09d}" for _ in values]
        after = state | dict(zip(ids, values))
    elif what == "replace":
        after = state | dict(zip(ids, values))
    elif what == "remove" and len(state) > 12:
        after = {id_: value for id_, value in state.items() if id_ not in ids}
    elif what in ("add", "remove"):
        continue
    names = [shard.name for shard in gallery.shards.shards]
    say(what, after)
    if what == "search":
        search()
    elif what == "add":
        gallery.add(images(values), ids)
    elif what == "replace":
        gallery.replace(images(values[: len(ids)]), ids)
    elif what == "remove":
        gallery.remove(ids)
    elif what == "move":
        gallery.add_shard() if len(names) < 4 else gallery.remove_shard(chance.choice(names))
    else:
        gallery.compact()
    state = after
    say("done", state)
"""


class Driver:
    """A process that drives; what it has said."""

    def __init__(self, folder: Path, address: str, log: Path, seed: int) -> None:
        command = [sys.executable, "-c", DRIVE_FOR_EVER, folder, address, str(seed), log]
        self.log, self.output = log, log.with_suffix(".output")
        log.touch()
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                list(map(str, command)), stdout=output, stderr=subprocess.STDOUT
            )
        self.wait_for_more(0)

    def said(self) -> list[Any]:
        lines = self.log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_for_more(self, n_done: int) -> None:
        """Wait until more was done than so much."""
        start = time.monotonic()
        while self.n_done() <= n_done:
            assert self.process.poll() is None, self.errors()
            assert time.monotonic() - start < PATIENCE, f"nothing was done after {self.said()[-1]}"
            time.sleep(0.01)

    def wait_for_a_change(self) -> None:
        """Wait until it changes the gallery."""
        while self.said()[-1][0] in ("ready", "search", "done", "refused"):
            assert self.process.poll() is None, self.errors()
            time.sleep(0.001)

    def n_done(self) -> int:
        return sum(what in ("ready", "done") for what, _ in self.said())

    def errors(self) -> str:
        return self.output.read_text()[-2000:]

    def kill(self) -> tuple[dict[str, float], dict[str, float]]:
        """Kill it; return what was there before the last change, and what after it."""
        assert self.process.poll() is None, self.errors()
        self.process.kill()
        self.process.wait()
        said = [one for one in self.said() if one[0] != "refused"]
        before = next(state for what, state in reversed(said) if what in ("done", "ready"))
        return before, said[-1][1]


@contextmanager
def three_nodes() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    head = {**LIMITS, "include_dashboard": False}
    cluster: Any = import_module("ray.cluster_utils").Cluster(True, head_node_args=head)
    try:
        for _ in range(2):
            cluster.add_node(**LIMITS)
        yield cluster
    finally:
        cluster.shutdown()


def raylet_of(node: Any) -> int:
    """The process of a node's raylet."""
    ((raylet,),) = (of_kind for kind, of_kind in node.all_processes.items() if kind == "raylet")
    return int(raylet.process.pid)


def actors_of(cluster: Any) -> list[int]:
    """The processes of a cluster that search shards: children of its raylets."""
    raylets = {raylet_of(node) for node in cluster.list_all_nodes()}
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            words = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
            name = (status.parent / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if int(words["PPid"]) in raylets and name.startswith(b"ray::ShardHost"):
            found.append(int(status.parent.name))
    return found


def kill_one(kind: str, cluster: Any, chance: random.Random) -> bool:
    """Kill an actor, a raylet or a node that is not the head; return whether there was one."""
    if kind == "actor":
        running = actors_of(cluster)
        if running:
            os.kill(chance.choice(running), signal.SIGKILL)
        return bool(running)
    node = chance.choice(sorted(cluster.worker_nodes, key=raylet_of))
    if kind == "raylet":
        os.kill(raylet_of(node), signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)  # all its processes, also what is left of them
    return True


@pytest.mark.timeout(240 + 40 * N_KILLS)
def test_no_kill_makes_a_wrong_answer_or_loses_an_image(tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    ShardedGallery.create(folder, shards=3).close()
    values = np.arange(20, dtype="f4")[:, None, None, None]
    shapes = [(1, 24, 24, 24), (1, 6, 6, 64)]
    with Gallery.open(folder, "r+") as gallery:
        gallery.add(FeaturePyramid([np.broadcast_to(values, (20, *s[1:])).copy() for s in shapes]))
    chance = random.Random(4)
    kills: Counter[str] = Counter()
    during: dict[str, Counter[str]] = defaultdict(Counter)
    found: Counter[str] = Counter()
    seconds: dict[str, list[float]] = defaultdict(list)
    answers = n_refused = 0
    with three_nodes() as cluster:
        driver = Driver(folder, cluster.address, tmp_path / "log 0", 0)
        for number in range(N_KILLS):
            kind = KINDS[number % len(KINDS)]
            time.sleep(chance.uniform(0, 0.5))
            if kind == "driver" and number % 8 > 3:
                driver.wait_for_a_change()
            n_done, last = driver.n_done(), driver.said()[-1][0]
            start = time.monotonic()
            if kind == "driver":
                before, after = driver.kill()
                left = state_of(Gallery.open(folder, verify=True))
                assert left in (before, after), f"kill {number}, while {last}"
                if before != after:
                    found["after" if left == after else "before"] += 1
                answers, n_refused = _counted(driver, answers, n_refused)
                driver = Driver(folder, cluster.address, tmp_path / f"log {number}", number)
                assert driver.said()[0] == ["ready", left], "what the next one finds"
            else:
                while not kill_one(kind, cluster, chance):
                    time.sleep(0.05)
                driver.wait_for_more(n_done + 1)
            seconds[kind].append(time.monotonic() - start)
            if kind in ("raylet", "node"):
                cluster.add_node(**LIMITS)
            kills[kind] += 1
            during[kind]["between" if last in ("done", "ready", "refused") else last] += 1
        before, after = driver.kill()
        assert state_of(Gallery.open(folder, verify=True)) in (before, after)
        answers, n_refused = _counted(driver, answers, n_refused)
    assert answers
    figures = {
        "machine": machine(),
        "nodes": 3,
        "shards": 3,
        "kills": dict(kills),
        "while": {kind: dict(of_kind) for kind, of_kind in during.items()},
        "found_after_a_driver": dict(found),
        "seconds_until_two_more_were_done": {
            kind: {
                "median": round(float(np.median(of_kind)), 2),
                "most": round(max(of_kind), 2),
            }
            for kind, of_kind in seconds.items()
        },
        "answers_compared": answers,
        "wrong_answers": 0,
        "lost_images": 0,
        "searches_refused_with_an_error": n_refused,
    }
    sys.stdout.write(f"{figures}\n")
    if "KNNSPECT_CLUSTER_KILLS_JSON" in os.environ:
        path = Path(os.environ["KNNSPECT_CLUSTER_KILLS_JSON"])
        path.write_text(json.dumps(figures, indent=2) + "\n")


def _counted(driver: Driver, answers: int, n_refused: int) -> tuple[int, int]:
    """Add up how many answers a driver has compared, and how many searches were refused."""
    said = [what for what, _ in driver.said()]
    refused = said.count("refused")
    searched = sum(pair == ("search", "done") for pair in pairwise(said))
    return answers + searched, n_refused + refused
