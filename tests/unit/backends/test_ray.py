"""Shards that are searched by processes of a Ray cluster, which may die.

``KNNSPECT_RAY_KILLS`` says how many processes are killed (12); ``KNNSPECT_RAY_KILLS_JSON`` names a
file for what happened.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from on_shards import OnShards
from ray_cluster_here import cluster_here

from knnspect import (
    BackendUnavailable,
    FeaturePyramid,
    Gallery,
    ParameterError,
    ShardedGallery,
    StoreError,
)
from knnspect.backends import RayBackend, available_backends, get_backend, ray_host
from knnspect.backends.ray_host import Part, ShardHost, in_pieces
from knnspect.backends.ray_requests import Request
from knnspect.testing import backend_checks
from knnspect.testing.expectations import expect_identical

ray = pytest.importorskip("ray")

pytestmark = [
    pytest.mark.xdist_group("ray"),
    # Ray's own.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),
]
N_KILLS = int(os.environ.get("KNNSPECT_RAY_KILLS", "12"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with cluster_here():
        yield


@pytest.fixture(scope="module")
def backend(cluster: None) -> RayBackend:
    """One process for all shards."""
    return RayBackend()


@pytest.fixture(scope="module")
def apart(cluster: None) -> RayBackend:
    """A process for each shard."""
    return RayBackend(processes=7)


def pyramid(n: int, seed: int = 0) -> FeaturePyramid:
    rng = np.random.default_rng(seed)
    sizes = ((n, 8, 8, 4), (n, 4, 4, 7))
    return FeaturePyramid([rng.integers(-4, 4, size).astype("f4") for size in sizes])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ray") / "normal.gallery"
    with ShardedGallery.create(path, shards=3) as gallery:
        gallery.add(pyramid(20))
    return path


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """One's own, to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "normal.gallery"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("processes", "n_shards"), [("backend", 1), ("apart", 2), ("backend", 4), ("apart", 7)]
)
def test_it_keeps_the_contract_of_exactness(
    request: pytest.FixtureRequest, processes: str, n_shards: int
) -> None:
    # Ctrl-C is below: an object store as small as here has no room for the query of that check.
    on_shards = OnShards(request.getfixturevalue(processes), n_shards)
    for check in backend_checks(n_cases=3):
        if check.function.__name__ != "ctrl_c_ends_a_search":
            check(on_shards)


@pytest.mark.parametrize("processes", ["backend", "apart"])
def test_only_shards_that_hold_images_are_asked(
    request: pytest.FixtureRequest, made: Path, monkeypatch: pytest.MonkeyPatch, processes: str
) -> None:
    backend: RayBackend = request.getfixturevalue(processes)
    gallery = ShardedGallery.open(made)
    owners = gallery.shards.owners(gallery.ids)
    asked: list[str] = []
    ask = backend._actors.ask

    def counting(place: int, request: Request, *args: Any, **kwargs: Any) -> Any:
        asked.extend(request.shards[at].name[-1] for at in request.asked)
        return ask(place, request, *args, **kwargs)

    monkeypatch.setattr(backend._actors, "ask", counting)
    images = [id_ for id_, owner in zip(gallery.ids, owners, strict=True) if owner != 1]
    lists = [images[:2], images]
    for how in (images, lists):
        found = gallery.search(pyramid(2, 1), 5, how, backend=backend)
        expect_identical("some images", found, gallery.search(pyramid(2, 1), 5, how))
    assert "".join(asked) == "0202"
    left = gallery.without(images)
    expect_identical("without", left.search(pyramid(1), backend=backend), left.search(pyramid(1)))
    assert "".join(asked[4:]) == "1"


def test_what_is_not_in_shards_is_left_to_the_core(
    backend: RayBackend, apart: RayBackend, made: Path
) -> None:
    gallery = Gallery()
    gallery.add(pyramid(3))
    found = gallery.search(pyramid(1, 2), 3, backend=backend)
    assert found.stats is not None
    assert list(found.stats.stages) == ["core"]
    sharded = Gallery.open(made)
    # Some shard has fewer than 60 cells within the window of a corner; all have 80.
    found = sharded.search(pyramid(1, 2), 60, window=1, backend=apart)
    assert found.stats is not None
    assert list(found.stats.stages) == ["core"]
    found = sharded.search(pyramid(1, 2), 60, window=1, backend=backend)
    assert found.stats is not None
    assert list(found.stats.stages) != ["core"]
    assert len(sharded.search(pyramid(1)[0:0], backend=backend)) == 0


def test_a_gallery_that_changes_is_searched_as_it_is(backend: RayBackend, folder: Path) -> None:
    reader = Gallery.open(folder)
    before = reader.search(pyramid(2, 1), 3)
    with Gallery.open(folder, "r+") as gallery:
        for step in range(3):
            gallery.add(pyramid(2, step + 2), [f"a {step}", f"b {step}"])
            gallery.remove([gallery.ids[step]])
            if step:
                gallery.compact()
            found = gallery.search(pyramid(2, 1), 3, backend=backend)
            expect_identical("changed", found, gallery.search(pyramid(2, 1), 3))
    with pytest.raises(StoreError, match=r"shard-000\d on node .*has no line"):
        reader.search(pyramid(2, 1), 3, backend=backend)
    expect_identical("as it was opened", reader.search(pyramid(2, 1), 3), before)


@pytest.mark.parametrize("processes", [1, 3])
def test_a_shard_that_is_gone_is_named_or_left_out(
    backend: RayBackend, folder: Path, processes: int
) -> None:
    gallery = ShardedGallery.open(folder)
    shutil.rmtree(folder / "shard-0001")
    with pytest.raises(StoreError, match=r"shard shard-0001 on node .*cannot be opened"):
        gallery.search(pyramid(2, 1), backend=backend)
    lenient = RayBackend(allow_missing=True, processes=processes)
    found = gallery.search(pyramid(2, 1), 4, backend=lenient)
    assert found.missing == found[0].missing == ("shard-0001",)
    others = [id_ for id_ in gallery.ids if gallery.shards.owners([id_])[0] != 1]
    expected = gallery.search(pyramid(2, 1), 4, others)
    np.testing.assert_array_equal(found.sq_distances, expected.sq_distances)
    np.testing.assert_array_equal(found.images, expected.images)
    with pytest.raises(StoreError, match="without the shards shard-0001 there are fewer"):
        gallery.search(pyramid(1), gallery.n_rows, backend=lenient)
    if processes == 1:  # of more, each has too few cells, which leaves the search to the core
        with pytest.raises(StoreError, match=r"without the shards shard-0001 .*the window"):
            gallery.search(pyramid(1), 4 * len(gallery), window=1, backend=lenient)
    lenient.stop()


def test_a_search_that_takes_too_long_is_ended(made: Path, cluster: None) -> None:
    impatient = RayBackend(timeout=1e-6)
    with pytest.raises(BackendUnavailable, match="has not answered within 1e-06 s"):
        Gallery.open(made).search(pyramid(2), 3, backend=impatient)
    impatient.timeout = 60
    gallery = Gallery.open(made)
    found = gallery.search(pyramid(2), 3, backend=impatient)
    expect_identical("the next", found, gallery.search(pyramid(2), 3))
    impatient.stop()


def processes() -> list[int]:
    """The processes of actors that search shards, of clusters that this process started."""
    names, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            names[int(path.name)] = (path / "cmdline").read_bytes()
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    own = {os.getpid()}
    while children := {pid for pid, parent in parents.items() if parent in own} - own:
        own |= children
    return [pid for pid in own & names.keys() if names[pid].startswith(b"ray::ShardHost")]


@pytest.mark.timeout(120 + 20 * N_KILLS)
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
@pytest.mark.parametrize("divided", ["backend", "apart"])
def test_processes_that_are_killed_while_they_search_are_asked_again(
    request: pytest.FixtureRequest, made: Path, divided: str
) -> None:
    backend: RayBackend = request.getfixturevalue(divided)
    gallery = Gallery.open(made)
    query = pyramid(6, 1)
    expected = gallery.search(query, 40)
    own = set(processes())
    chance = random.Random(0)
    outcomes: Counter[str] = Counter()
    for kill in range(N_KILLS):
        found: list[Any] = []
        searching = threading.Thread(
            target=lambda: found.append(gallery.search(query, 40, backend=backend))  # noqa: B023
        )
        searching.start()
        time.sleep(chance.uniform(0, 0.03))
        outcomes["while searching" if searching.is_alive() else "between searches"] += 1
        if kill % 4 == 3:  # for good, so that Ray does not restart it
            ray.kill(backend._actors._actors[chance.randrange(len(backend._actors._actors))])
        else:
            running = processes()
            if running:
                os.kill(chance.choice(running), signal.SIGKILL)
        searching.join(60)
        assert found, f"kill {kill}: the search found nothing"
        expect_identical(f"kill {kill}", found[0], expected)
    assert own
    figures = {"kills": N_KILLS, **outcomes}
    sys.stdout.write(f"{figures}\n")
    if "KNNSPECT_RAY_KILLS_JSON" in os.environ:
        Path(os.environ["KNNSPECT_RAY_KILLS_JSON"]).write_text(json.dumps(figures) + "\n")


def search_for_long(gallery: Gallery, query: FeaturePyramid, backend: RayBackend) -> None:
    for _ in range(20):
        gallery.search(query, 64, backend=backend)


def test_ctrl_c_ends_a_search(backend: RayBackend, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    large = FeaturePyramid([rng.random((4, 96, 96, 96), dtype="f4")])
    with ShardedGallery.create(tmp_path / "large", shards=2) as gallery:
        gallery.add(large)
        main = threading.main_thread().ident or 0
        timer = threading.Timer(1.5, lambda: signal.pthread_kill(main, signal.SIGINT))
        timer.start()
        start = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            search_for_long(gallery, large, backend)
        assert time.perf_counter() - start < 30
        query = FeaturePyramid([rng.random((1, 4, 4, 96), dtype="f4")])
        expect_identical("the next", gallery.search(query, backend=backend), gallery.search(query))


def test_another_version_on_a_node_is_refused(
    made: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from knnspect.cluster import connection

    class Older:
        __version__ = "0.0.1"

    other = RayBackend()
    monkeypatch.setattr(connection, "_core", Older)
    with pytest.raises(BackendUnavailable, match=r"has knnspect .*this process has 0\.0\.1"):
        Gallery.open(made).search(pyramid(1), backend=other)


def test_a_process_is_connected_to_one_cluster(made: Path, cluster: None) -> None:
    with pytest.raises(BackendUnavailable, match=r"expected the cluster at 10\.0\.0\.1:6379"):
        Gallery.open(made).search(pyramid(1), backend="ray:10.0.0.1:6379")


NO_CLUSTER = """
import sys
import knnspect as ks
from knnspect.backends import RayBackend
gallery = ks.Gallery.open(sys.argv[1])
try:
    gallery.search(gallery.pyramid(gallery.ids[:1]), backend=RayBackend("127.0.0.1:1"))
except ks.BackendUnavailable as error:
    print(error)
"""


def test_an_address_without_a_cluster_is_named(made: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_CLUSTER, str(made)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "backend 'ray': no cluster can be reached at 127.0.0.1:1" in done.stdout, done.stderr


def test_it_is_chosen_by_its_name(backend: RayBackend) -> None:
    assert isinstance(get_backend("ray"), RayBackend)
    named = get_backend("ray://10.0.0.1:10001")
    assert isinstance(named, RayBackend)
    assert named.address == "ray://10.0.0.1:10001"
    assert "ray" not in available_backends()  # which search any gallery
    with pytest.raises(ParameterError, match="'ray'"):
        get_backend("nonsense")
    given = RayBackend("ray://a:1", allow_missing=True, timeout=5, processes=2)
    assert repr(pickle.loads(pickle.dumps(given))) == (
        "RayBackend('ray://a:1', allow_missing=True, timeout=5.0, attempts=3, processes=2)"
    )
    with pytest.raises(ParameterError, match="attempts"):
        RayBackend(attempts=0)


def test_a_host_keeps_a_few_shards_open(made: Path) -> None:
    shards = ShardedGallery.open(made).shards.shards
    host = ShardHost()
    for at in range(3):
        assert host.search(shards, (at,), [], None, 1, []) == []
    assert (len(host._open), len(host._together)) == (3, 1)
    for first in range(3):
        for last in range(first + 1, 4):
            assert host.search(shards[first:last], (0,), [], None, 1, []) == []
    for state in range(9):
        gone = (replace(shards[0], state=f"{state:0{len(shards[0].state)}x}"),)
        errors = host.search(gone, (0,), [], None, 1, [])
        assert isinstance(errors, dict)
        assert list(errors) == ["shard-0000"]
    assert (len(host._open), len(host._together)) == (3, 8)


def test_a_host_searches_some_shards_of_those_that_it_has_open(made: Path) -> None:
    gallery = ShardedGallery.open(made)
    shards = gallery.shards.shards
    owners = gallery.shards.owners(gallery.ids)
    query = pyramid(2, 1)
    host = ShardHost()
    for asked in ((0,), (0, 1, 2), (1, 2), (2,)):
        answers = host.search(shards, asked, [Part([0, 1], 5, None)], None, 1, query.levels)
        assert isinstance(answers, list)
        (answer,) = answers
        own = [id_ for id_, owner in zip(gallery.ids, owners, strict=True) if owner in asked]
        expected = gallery.search(query, 5, own)
        sq_distances, ranks, _ = answer.found
        assert sq_distances.dtype == np.float64
        np.testing.assert_array_equal(sq_distances.ravel(), expected.sq_distances.ravel())
        np.testing.assert_array_equal(ranks.ravel(), expected.image_index.ravel())


@pytest.mark.parametrize("dtype", ["f4", "f2"])
def test_a_query_in_pieces_is_whole_again(dtype: str) -> None:
    rng = np.random.default_rng(0)
    sizes = ((3, 40, 40, 24), (3, 20, 20, 7))
    levels = [rng.random(size, dtype="f4").astype(dtype) for size in sizes]
    about, *pieces = in_pieces(levels)
    assert max(len(piece) for piece in pieces) < 100_000 < sum(len(piece) for piece in pieces)
    again = ray_host._from_pieces(about, *pieces)
    for level, expected in zip(again, levels, strict=True):
        assert level.dtype == dtype
        np.testing.assert_array_equal(level, expected)


WITHOUT_RAY = """
import sys
sys.modules["ray"] = None
import knnspect as ks
from knnspect.backends import RayBackend
gallery = ks.Gallery.open(sys.argv[1])
query = gallery.pyramid(gallery.ids[:1])
assert gallery.search(query).sq_distances.max() == 0
try:
    gallery.search(query, backend="ray")
except ks.BackendUnavailable as error:
    print(error)
"""


def test_without_ray_all_else_works_and_the_extra_is_named(made: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, str(made)], capture_output=True, text=True, check=True
    )
    assert 'pip install "knnspect[ray]"' in done.stdout
