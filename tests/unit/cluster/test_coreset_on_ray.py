"""Coresets over shards whose processes run on a Ray cluster, and may die."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from knnspect import (
    BackendUnavailable,
    Coreset,
    FeaturePyramid,
    ShardedGallery,
    StoreError,
    _core,
)
from knnspect.cluster import Cluster
from knnspect.cluster.crew import CrewMember, RayCrew
from knnspect.cluster.shard_picker import ShardPicker

ray = pytest.importorskip("ray")

pytestmark = [
    pytest.mark.xdist_group("ray"),
    # Ray's own.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    # Not above: processes of the cluster import this module, and do not find that one.
    from ray_cluster_here import cluster_here

    with cluster_here():
        yield


def pyramid(n: int = 12, side: int = 16) -> FeaturePyramid:
    rng = np.random.default_rng(0)
    shapes = ((n, side, side, 6), (n, side // 2, side // 2, 9))
    return FeaturePyramid([rng.integers(-9, 9, shape).astype("f4") for shape in shapes])


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShardedGallery:
    chooser: Any = _core.Chooser
    # Short rounds, as there are few rows.
    monkeypatch.setattr(_core, "Chooser", lambda *args: chooser(*args[:-1], 100))
    with ShardedGallery.create(tmp_path / "normal.gallery", shards=3) as made:
        made.add(pyramid())
    return ShardedGallery.open(tmp_path / "normal.gallery")


def expect_same(found: Coreset, expected: Coreset) -> None:
    assert pickle.dumps(found) == pickle.dumps(expected)


def test_processes_pick_what_one_picks(gallery: ShardedGallery) -> None:
    expect_same(gallery.coreset(0.3, cluster="auto"), gallery.coreset(0.3))
    cases: list[dict[str, Any]] = [{"projection": 4}, {"two_rounds": True}]
    for how in cases:
        expect_same(gallery.coreset(0.1, 3, cluster="auto", **how), gallery.coreset(0.1, 3, **how))


def test_a_process_that_dies_is_started_again(
    gallery: ShardedGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    ask = RayCrew.ask

    def killing(crew: RayCrew, method: str, arguments: Any) -> Any:
        if method in ("begin", "front", "advance") and len(killed) < 4:
            part = len(killed) % 3
            ray.kill(crew._actors[part])
            killed.append(part)
        return ask(crew, method, arguments)

    monkeypatch.setattr(RayCrew, "ask", killing)
    expect_same(gallery.coreset(0.3, cluster="auto"), gallery.coreset(0.3))
    assert len(killed) == 4


class Mortal(CrewMember):
    """Ends its own process."""

    def __init__(self, name: str) -> None:
        self.name = name

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_kills_each_process_is_given_up() -> None:
    parts = [("one",), ("other",)]
    with (
        RayCrew(Cluster("auto", "a test"), Mortal, parts) as crew,
        pytest.raises(BackendUnavailable, match="1: its process has died 3 times"),
    ):
        crew.ask("die", {1: ()})


def test_a_shard_that_is_gone_is_named_with_its_node(gallery: ShardedGallery) -> None:
    (gallery.shards.shards[1].path / "journal").unlink()
    with pytest.raises(StoreError, match=r"shard shard-0001 on node .*has no journal") as caught:
        gallery.coreset(5, cluster="auto")
    assert caught.value.path == gallery.shards.shards[1].path


def processes() -> set[int]:
    names = {
        int(path.parent.name): path.read_bytes()
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if os.access(path, os.R_OK)
    }
    title = f"ray::{ShardPicker.__name__}".encode()
    return {pid for pid, name in names.items() if name.startswith(title)}


def test_ctrl_c_ends_it_and_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    with ShardedGallery.create(tmp_path / "large", shards=2) as gallery:
        gallery.add(FeaturePyramid([rng.random((8, 64, 64, 96), dtype="f4")]))
    before = processes()
    main = threading.main_thread().ident or 0
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGINT))
    ask = RayCrew.ask

    def asking(crew: RayCrew, method: str, arguments: Any) -> Any:
        if method == "begin":
            timer.start()
        return ask(crew, method, arguments)

    monkeypatch.setattr(RayCrew, "ask", asking)
    with pytest.raises(KeyboardInterrupt):
        gallery.coreset(1.0, cluster="auto")
    deadline = time.monotonic() + 20
    while processes() - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes() - before
