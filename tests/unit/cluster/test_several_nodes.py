"""Searches over three nodes of a cluster, and what is wrong with a shard on one of them."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from on_shards import OnShards

from knnspect import FeaturePyramid, Gallery, ShardedGallery, StoreError
from knnspect.backends import RayBackend
from knnspect.testing import backend_checks
from knnspect.testing.expectations import expect_identical

ray = pytest.importorskip("ray")

pytestmark = [
    pytest.mark.xdist_group("ray"),
    # Ray's own.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),
]
LIMITS: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 120_000_000}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of three nodes, to which this process is connected."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    head = {**LIMITS, "include_dashboard": False}
    cluster: Any = import_module("ray.cluster_utils").Cluster(True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(**LIMITS)
    ray.init(cluster.address, log_to_driver=False, configure_logging=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def backend(nodes: Any) -> RayBackend:
    return RayBackend(nodes.address)


def pyramid(n: int, seed: int = 0) -> FeaturePyramid:
    rng = np.random.default_rng(seed)
    sizes = ((n, 8, 8, 4), (n, 4, 4, 7))
    return FeaturePyramid([rng.integers(-4, 4, size).astype("f4") for size in sizes])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "normal.gallery"
    with ShardedGallery.create(path, shards=3) as gallery:
        gallery.add(pyramid(20))
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_each_node_has_a_process_that_searches(
    folder: Path, nodes: Any, backend: RayBackend
) -> None:
    raylets = {
        one.process.pid for node in nodes.list_all_nodes() for one in node.all_processes["raylet"]
    }
    gallery, parents = Gallery.open(folder), set[int]()
    for _ in range(10):  # nodes that have just come are not known to all others yet
        gallery.search(pyramid(1, 1), backend=backend)
        parents = parents_of_processes()
        if raylets <= parents:
            break
        backend.stop()
        time.sleep(1)
    assert raylets <= parents


def parents_of_processes() -> set[int]:
    """The raylets of processes that search."""
    parents = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            if (status.parent / "cmdline").read_bytes().startswith(b"ray::ShardHost"):
                parents.add(int(status.read_text().split("PPid:")[1].split()[0]))
    return parents


@pytest.mark.timeout(600)
def test_three_nodes_keep_the_contract_of_exactness(backend: RayBackend) -> None:
    on_shards = OnShards(backend, 3)
    for check in backend_checks(n_cases=2):
        if check.function.__name__ != "ctrl_c_ends_a_search":
            check(on_shards)


def flip_a_feature(folder: Path) -> None:
    segment = folder / "shard-0001" / "features-00000001"
    contents = bytearray(segment.read_bytes())
    contents[2] ^= 64
    segment.write_bytes(contents)


def cut_the_features(folder: Path) -> None:
    segment = folder / "shard-0001" / "features-00000001"
    segment.write_bytes(segment.read_bytes()[:-100])


def exchange_settings(folder: Path) -> None:
    shutil.rmtree(folder / "shard-0001")
    Gallery.create(folder / "shard-0001", dtype="int8").close()


def exchange_contents(folder: Path) -> None:
    shutil.rmtree(folder / "shard-0001")
    shutil.copytree(folder / "shard-0002", folder / "shard-0001")


def move(folder: Path) -> None:
    (folder / "shard-0001").rename(folder / "elsewhere")


#: What happens to a shard after the gallery was opened, and what is said of it.
DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (flip_a_feature, r"node .*: .*shard-0001: image .* is damaged: its checksum"),
    (cut_the_features, r"shard-0001 on node .*is damaged: features-00000001 cannot be read"),
    (exchange_settings, r"shard-0001 on node .*another gallery, or an older copy"),
    (exchange_contents, r"shard-0001 on node .*another gallery, or an older copy"),
    (move, r"shard-0001 on node .*cannot be opened"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGE, ids=[one[0].__name__ for one in DAMAGE])
def test_what_is_wrong_with_a_shard_is_said_with_its_node(
    folder: Path, nodes: Any, damage: Callable[[Path], None], words: str
) -> None:
    gallery = ShardedGallery.open(folder)
    others = [id_ for id_ in gallery.ids if gallery.shards.owners([id_])[0] != 1]
    expected = gallery.search(pyramid(1, 1), 3, others)
    damage(folder)
    backend = RayBackend(nodes.address)  # with processes that have nothing open
    with pytest.raises(StoreError, match=words):
        gallery.search(pyramid(1, 1), 3, backend=backend)
    found = gallery.search(pyramid(1, 1), 3, others, backend=backend)
    expect_identical("the others", found, expected)
    backend.stop()


def test_a_disk_that_is_full_leaves_what_is_searched_on_the_cluster(
    folder: Path, backend: RayBackend
) -> None:
    resource = pytest.importorskip("resource")
    new = [f"new {number}" for number in range(40)]
    with Gallery.open(folder, "r+") as gallery:
        gallery.remove(gallery.ids[:3])
        expected = gallery.search(pyramid(2, 1), 5)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        for change in (lambda: gallery.add(pyramid(40), new), gallery.compact):
            try:
                # Writing a file beyond this size fails, as it does on a full disk.
                resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
                with pytest.raises(StoreError, match=r"shard shard-000\d: .*cannot be written"):
                    change()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            found = gallery.search(pyramid(2, 1), 5, backend=backend)
            expect_identical("as it was", found, expected)
        signal.signal(signal.SIGXFSZ, handler)
        gallery.compact()
        gallery.add(pyramid(40), new)
        found = gallery.search(pyramid(2, 1), 5, backend=backend)
        expect_identical("with room", found, gallery.search(pyramid(2, 1), 5))
