"""Fits on a Ray cluster: the same model to the bit, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run
from PIL import Image
from ray_cluster_here import cluster_here

import knnspect as ks
from knnspect import OnCluster
from knnspect.cluster.pools import Node, planned
from knnspect.data import elpv_split, open_images
from knnspect.data.sources import ImageSource
from knnspect.gallery import shard_owners
from knnspect.gallery.shard_owners import ShardOwners
from knnspect.normal_features import on_cluster

ray = pytest.importorskip("ray")
pytest.importorskip("pyarrow")

pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.timeout(600),
    # Ray's own.
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning",
        "ignore::FutureWarning",
        "ignore::DeprecationWarning:ray.*",
        "ignore:.*near-duplicates:UserWarning",
    ),
]
SPLIT = elpv_split(n_train=48, n_functional=2, n_defective=2)
ELSEWHERE = OnCluster(actors=2, shards=3)
LIMITS = {"num_cpus": 4, "object_store_memory": 200_000_000, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    # The GPUs are but numbers: processes are placed by them, and find no device.
    with cluster_here(num_gpus=2, **LIMITS):
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Solar cells, under names of their own."""
    folder = tmp_path_factory.mktemp("cells")
    for number, path in enumerate(SPLIT.train):
        shutil.copy(path, folder / f"{number:03d}.png")
    return folder


def spade(**parameters: Any) -> ks.Spade:
    return ks.Spade(ks.Backbone(image_size=64, device="cpu"), image_neighbors=5, **parameters)


@pytest.fixture(scope="module")
def here(images: Path, tmp_path_factory: pytest.TempPathFactory) -> ks.Spade:
    """Fitted by one process; the digests and thumbnails of its folder are compared, too."""
    return spade().fit(images, folder=tmp_path_factory.mktemp("here"), batch_size=4)


def folder_of(detector: ks.Detector) -> Path:
    path = detector.gallery_.path  # type: ignore[attr-defined]
    assert path is not None
    return Path(path).parent


def assert_same(one: ks.Spade, other: ks.Spade, tmp_path: Path) -> None:
    """All that was learnt is the same to the bit: features, what is beside them, decisions."""
    assert one.gallery_.ids == other.gallery_.ids
    for a, b in zip(
        *(each.gallery_.pyramid(one.gallery_.ids).levels for each in (one, other)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    about = [ks.Gallery.open(folder_of(each) / "images") for each in (one, other)]
    assert about[0].ids == about[1].ids == one.gallery_.ids
    for a, b in zip(*(each.pyramid(each.ids).levels for each in about), strict=True):
        np.testing.assert_array_equal(a, b)  # pooled features, sizes, digests
    thumbnails = [
        {path.name: path.read_bytes() for path in (folder_of(each) / "thumbnails").iterdir()}
        for each in (one, other)
    ]
    assert thumbnails[0] == thumbnails[1]
    assert len(thumbnails[0]) == len(one.gallery_)
    files = [tmp_path / "one.ks", tmp_path / "other.ks"]
    for each, file in zip((one, other), files, strict=True):
        each.save(file)
    assert files[0].read_bytes() == files[1].read_bytes()


def processes(of: str) -> list[int]:
    """The processes below this one whose title has a word in it, oldest first."""
    parents, titles = {}, {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parents[int(path.name)] = int(
                    (path / "stat").read_text().rsplit(")")[-1].split()[1]
                )
                titles[int(path.name)] = (path / "cmdline").read_text()
            except OSError:
                continue
    found = []
    for process, title in titles.items():
        above = process
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid() and of in title:
            found.append(process)
    return sorted(found)


def none_left() -> bool:
    """Whether no process of a fit is left, within a moment."""
    for _ in range(100):
        if not processes("ray::MapWorker") and not processes("ray::ShardOwner"):
            return True
        time.sleep(0.1)
    return False


def n_images_in(gallery: Path) -> int:
    """How many images count."""
    try:
        manifest = (gallery / "manifest").read_text().partition(" ")[2]
    except OSError:
        return 0
    return sum(shard["n_images"] for shard in json.loads(manifest)["shards"])


def slow(folder: Path) -> ImageSource:
    """The same images, each of which takes a while."""

    def slowly(image: Any) -> Any:
        time.sleep(0.4)
        return image

    items = [item.changed(slowly, item.id) for item in open_images(folder)]
    return ImageSource(items, len(items))


def test_it_gives_the_same_to_the_bit(
    cluster: None, images: Path, here: ks.Spade, tmp_path: Path
) -> None:
    folder = tmp_path / "cells.ks"
    fitted = spade().fit(images, folder=folder, batch_size=4, cluster=ELSEWHERE)
    assert isinstance(fitted.gallery_, ks.ShardedGallery)
    assert fitted.gallery_.mode == "r"
    assert [shard.n_images for shard in fitted.gallery_.shards.shards] == [14, 20, 14]
    assert_same(here, fitted, tmp_path)
    fitted.save(folder)
    loaded = ks.load(folder)
    for a, b in zip(loaded.predict(SPLIT.defective), here.predict(SPLIT.defective), strict=True):
        assert (a.id, a.score, a.verdict) == (b.id, b.score, b.verdict)
        np.testing.assert_array_equal(a.map, b.map)
    assert none_left()


def test_what_is_there_is_not_learnt_again(
    cluster: None,
    images: Path,
    here: ks.Spade,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, some = tmp_path / "cells.ks", tmp_path / "some"
    shutil.copytree(images, some)
    for number in range(20, 48):
        (some / f"{number:03d}.png").unlink()
    shutil.copy(images / "040.png", some / "003.png")
    shutil.copy(images / "041.png", some / "other.png")
    how: dict[str, Any] = {"folder": folder, "batch_size": 4, "progress": True}
    spade().fit(some, **how, cluster=ELSEWHERE)
    assert "21 images to learn" in capsys.readouterr().err
    with pytest.warns(UserWarning, match=r"1 image has changed since it was learnt: 003\.png"):
        more = spade().fit(images, **how, cluster=OnCluster(actors=1))
    assert "21 images are there (1 of them changed), 29 images to learn" in capsys.readouterr().err
    assert_same(here, more, tmp_path)
    again = spade().fit(images, **how, cluster="auto")  # nothing to learn: no process is started
    assert "48 images are there, nothing to learn" in capsys.readouterr().err
    assert_same(here, again, tmp_path)
    # Without a cluster the shards are gone on with, too.
    with pytest.warns(UserWarning, match="1 image has changed"):
        fewer = spade().fit(some, **how)
    assert isinstance(fewer.gallery_, ks.ShardedGallery)
    assert fewer.gallery_.ids == sorted(path.name for path in some.iterdir())
    fewer.save(folder)
    model: Any = ks.load(folder)
    model.add([images / "047.png"])
    assert ks.load(folder).n_images_ == 22


def test_images_in_memory_and_variants(cluster: None, here: ks.Spade, tmp_path: Path) -> None:
    arrays = {
        f"{number:02d}": np.array(Image.open(path)) for number, path in enumerate(SPLIT.train[:10])
    }
    patchcore = ks.PatchCore(
        ks.Backbone(image_size=64, device="cpu"),
        coreset=0.1,
        variants=ks.Variants(mirror=True),
        gallery_dtype="int8",
    )
    fitted, expected = (
        ks.PatchCore(**patchcore.get_params(deep=False)).fit(
            arrays, folder=tmp_path / name, batch_size=4, cluster=cluster
        )
        for name, cluster in (("there", ELSEWHERE), ("here", None))
    )
    for each, name in ((fitted, "there.ks"), (expected, "here.ks")):
        each.save(tmp_path / name)
    assert (tmp_path / "there.ks").read_bytes() == (tmp_path / "here.ks").read_bytes()
    kept = [ks.Gallery.open(tmp_path / name / "gallery") for name in ("there", "here")]
    assert kept[0].ids == kept[1].ids
    assert kept[0].n_images > 10
    for a, b in zip(*(each.pyramid(each.ids).levels for each in kept), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "detector",
    [
        ks.Padim(ks.Backbone(image_size=64)),
        ks.SimpleNet(ks.Backbone(image_size=64), max_epochs=1),
        ks.VAE(max_epochs=1),
    ],
    ids=lambda detector: type(detector).__name__,
)
def test_what_learns_from_features_reads_the_shards(
    cluster: None, images: Path, tmp_path: Path, detector: ks.Detector
) -> None:
    """With GPUs that are but numbers: an actor for each."""
    # Sums over shards are those of the same shards, taken by whatever process.
    again = "there" if isinstance(detector, ks.Padim) else "here"
    fitted, expected = (
        type(detector)(**detector.get_params(deep=False)).fit(
            images, folder=tmp_path / name, batch_size=4, cluster=cluster
        )
        for name, cluster in (("there", OnCluster(shards=2)), (again, None))
    )
    for each, name in ((fitted, "there.ks"), (expected, "here.ks")):
        each.save(tmp_path / name)
    assert (tmp_path / "there.ks").read_bytes() == (tmp_path / "here.ks").read_bytes()


def test_images_that_cannot_be_used(cluster: None, images: Path, tmp_path: Path) -> None:
    some = tmp_path / "some"
    shutil.copytree(images, some)
    bad = ["004.png", "022.png", "030.png"]
    for name in bad:
        (some / name).write_bytes(b"no image")
    folder = tmp_path / "cells.ks"
    with pytest.raises(
        ks.ImageError, match=r"0\d\d\.png: expected a PNG.* \(on node \S+\)$"
    ) as caught:
        spade().fit(some, folder=folder, batch_size=4, cluster=ELSEWHERE)
    assert caught.value.path is not None
    assert caught.value.path.name in bad
    assert none_left()
    left_out: list[tuple[str, str]] = []
    fitted = spade().fit(
        some,
        folder=folder,
        batch_size=4,
        skip_bad=lambda id_, error: left_out.append((id_, str(error))),
        cluster=ELSEWHERE,
    )
    assert [id_ for id_, _ in left_out] == bad
    expected: list[tuple[str, str]] = []
    one = spade().fit(
        some,
        folder=tmp_path / "here",
        batch_size=4,
        skip_bad=lambda id_, error: expected.append((id_, str(error))),
    )
    assert left_out == expected
    assert_same(one, fitted, tmp_path)


def test_what_is_to_be_said_of_images_is_said_once(cluster: None, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    deep = {f"{n}": rng.integers(0, 5000, (40, 40), np.uint16) for n in range(8)}
    said = []
    for name, where in (("there", ELSEWHERE), ("here", None)):
        backbone = ks.Backbone(image_size=64, device="cpu", white=4095)
        with pytest.warns(ks.ReadingWarning, match="above the white level 4095") as caught:
            ks.Spade(backbone, image_neighbors=2).fit(
                deep, folder=tmp_path / name, batch_size=2, cluster=where
            )
        of_kind = [each for each in caught if each.category is ks.ReadingWarning]
        said.append([str(each.message) for each in of_kind])
    assert said[0] == said[1]
    assert len(said[0]) == 1


def test_normal_images_of_two_grids_are_refused(cluster: None, tmp_path: Path) -> None:
    images = {f"{n}": np.full((64, 64 + 64 * (n > 10), 3), n, np.uint8) for n in range(16)}
    backbone = ks.Backbone(image_size=64, resize="shorter", device="cpu")
    detector = ks.PatchCore(backbone)
    with pytest.raises(ks.ShapeError, match="the grids of normal images must be equal"):
        detector.fit(images, folder=tmp_path / "model", batch_size=2, cluster=ELSEWHERE)
    assert none_left()


def test_processes_that_die_are_asked_again(
    cluster: None, images: Path, here: ks.Spade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_cluster, "_ROUND", 0.1)
    killed: list[str] = []

    def kill() -> None:
        gallery = tmp_path / "cells.ks" / "gallery"
        for word in ("ray::MapWorker", "ray::ShardOwner"):
            n_before = n_images_in(gallery)
            while not (found := processes(word)) or n_images_in(gallery) <= n_before:
                time.sleep(0.01)
            os.kill(found[-1], signal.SIGKILL)
            killed.append(word)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    fitted = spade().fit(
        slow(images), folder=tmp_path / "cells.ks", batch_size=1, cluster=ELSEWHERE
    )
    thread.join(30)
    assert killed == ["ray::MapWorker", "ray::ShardOwner"]
    assert fitted.gallery_.ids == here.gallery_.ids
    assert_same(here, fitted, tmp_path)
    ks.Gallery.open(tmp_path / "cells.ks" / "gallery", verify=True)
    assert none_left()


def test_a_full_disk_of_one_node_leaves_the_others_unharmed(
    cluster: None, images: Path, here: ks.Spade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = ShardOwners.__enter__

    def limited(owners: ShardOwners) -> ShardOwners:
        # Writing a file beyond this size fails, as it does on a full disk.
        (process,) = [
            process
            for process in processes("ray::ShardOwner")
            if any(
                "shard-0001" in str(path.readlink())
                for path in Path(f"/proc/{process}/fd").iterdir()
            )
        ]
        hard = resource.prlimit(process, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(process, resource.RLIMIT_FSIZE, (250_000, hard))
        return begin(owners)

    folder = tmp_path / "cells.ks"
    with monkeypatch.context() as patched:
        patched.setattr(ShardOwners, "__enter__", limited)
        patched.setattr(on_cluster, "_ROUND", 0.1)
        with pytest.raises(
            ks.StoreError,
            match=r"^shard shard-0001 on node \S+: image '0\d\d\.png'.*cannot be written",
        ):
            spade().fit(slow(images), folder=folder, batch_size=1, cluster=ELSEWHERE)
    gallery = ks.ShardedGallery.open(folder / "gallery", verify=True)
    assert all(shard.n_images for shard in gallery.shards.shards)
    assert len(gallery) < 48
    assert none_left()
    fitted = spade().fit(images, folder=folder, batch_size=4, cluster=ELSEWHERE)
    assert_same(here, fitted, tmp_path)


def environment() -> dict[str, str]:
    """Of processes that import this module."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]
    paths.append(os.environ.get("PYTHONPATH", ""))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


FIT_SLOWLY = """
import sys, time
from pathlib import Path
import knnspect as ks
from knnspect.normal_features import on_cluster
from test_fit_on_a_cluster import ELSEWHERE, LIMITS, slow, spade
import ray

if __name__ == "__main__":
    ray.init("local", log_to_driver=False, configure_logging=False, **LIMITS)
    on_cluster._ROUND = 0.1
    sys.stdout.write("ready\\n")
    sys.stdout.flush()
    spade().fit(slow(Path(sys.argv[1])), folder=sys.argv[2], batch_size=1, cluster=ELSEWHERE)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_fit_whose_process_ends_goes_on(
    cluster: None,
    images: Path,
    here: ks.Spade,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    end: signal.Signals,
) -> None:
    folder = tmp_path / "cells.ks"
    command = [sys.executable, "-c", FIT_SLOWLY, str(images), str(folder)]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE) as process:
        while n_images_in(folder / "gallery") < 5 and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None, process.stderr and process.stderr.read()
        start = time.monotonic()
        process.send_signal(end)
        process.wait(60)
        assert process.returncode != 0
        if end == signal.SIGINT:
            assert time.monotonic() - start < 30
    n_kept = len(ks.Gallery.open(folder / "gallery", verify=True))
    assert 5 <= n_kept < 48
    fitted = spade().fit(images, folder=folder, batch_size=4, progress=True, cluster=ELSEWHERE)
    assert f"{n_kept} images are there, {48 - n_kept} images to learn" in capsys.readouterr().err
    assert_same(here, fitted, tmp_path)


FIT_ON_NODES = """
import sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from knnspect import OnCluster
from knnspect.normal_features import on_cluster
from test_fit_on_a_cluster import n_images_in, slow, spade

if __name__ == "__main__":
    images, folder = Path(sys.argv[1]), Path(sys.argv[2])
    limits = {"object_store_memory": 100_000_000}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **limits}
    )
    nodes = [cluster.add_node(num_cpus=1, **limits) for _ in range(2)]
    ray.init(cluster.address, log_to_driver=False, configure_logging=False)
    on_cluster._ROUND = 0.1
    killed = []

    def kill():
        while n_images_in(folder / "gallery") < 5:
            time.sleep(0.01)
        cluster.remove_node(nodes[1], allow_graceful=False)
        killed.append(n_images_in(folder / "gallery"))

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    where = OnCluster(cluster.address)
    fitted = spade().fit(slow(images), folder=folder, batch_size=1, cluster=where)
    thread.join(60)
    assert len(killed) == 1 and killed[0] < 48, killed
    assert len(fitted.gallery_.shards.shards) == 3  # one for each node
    fitted.save(folder)
    ray.shutdown()
    cluster.shutdown()
"""


def test_a_node_that_dies_is_done_without(images: Path, here: ks.Spade, tmp_path: Path) -> None:
    folder = tmp_path / "cells.ks"
    done = subprocess.run(
        [sys.executable, "-c", FIT_ON_NODES, str(images), str(folder)],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded: Any = ks.load(folder)
    assert_same(here, loaded, tmp_path)


def test_the_command_line(
    cluster: None, images: Path, here: ks.Spade, tmp_path: Path, run: Run
) -> None:
    folder = tmp_path / "cells.ks"
    how = [
        "--method",
        "spade",
        "--image-size",
        "64",
        "--patch-size",
        "1",
        "--image-neighbors",
        "5",
        "--device",
        "cpu",
    ]
    code, out, err = run(
        "fit", images, "--output", folder, *how, "--ray", "--actors", "2", "--shards", "3"
    )
    assert code == 0, err
    assert "learnt from 48 images" in out
    assert "learning: 48 of 48 images" in err
    loaded: Any = ks.load(folder)
    assert_same(here, loaded, tmp_path)
    code, _, err = run("fit", images, "--output", folder, *how, "--shards", "3")
    assert (code, "--shards: goes with --ray" in err) == (2, True)


def test_what_cannot_be_done_is_said(
    cluster: None, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_owners, "_PATIENCE", 1)

    def fit(cluster: Any, images: object = images, folder: str = "model", **more: Any) -> None:
        spade().fit(images, folder=tmp_path / folder, cluster=cluster, **more)

    with pytest.raises(ks.ParameterError, match="folder: is needed with cluster"):
        spade().fit(images, cluster="auto")
    with pytest.raises(ks.ParameterError, match=r"images: expected files.* got a loader"):
        fit("auto", (each for each in [np.zeros((8, 8), np.uint8)]))
    with pytest.raises(ks.ParameterError, match="Ray Data needs a process on a node"):
        fit("ray://localhost:10001")
    with pytest.raises(ks.DTypeError, match=r"cluster: expected an address .* got int"):
        fit(7)
    with pytest.raises(ks.BackendUnavailable, match="expected the cluster at nowhere:1"):
        fit("nowhere:1")
    with pytest.raises(ks.ParameterError, match=r"num_gpus: expected at most 2.*, got 3"):
        fit(OnCluster(num_gpus=3))
    with pytest.raises(ks.ParameterError, match=r"actors: expected at most 2.* got 3"):
        fit(OnCluster(num_gpus=1, actors=3))
    with pytest.raises(ks.ParameterError, match=r"shards: .*gallery is in 2, got 3"):
        fit(OnCluster(shards=3))
    spade().fit(images, folder=tmp_path / "one")
    with pytest.raises(ks.StoreError, match=r"expected a gallery in shards .* in one folder"):
        fit("auto", folder="one")
    with (
        ks.Gallery.open(tmp_path / "model" / "gallery", "r+"),
        pytest.raises(ks.StoreError, match="is open for writing"),
    ):
        fit("auto")


def test_processes_of_one_node_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    nodes = [Node(16, 4), Node(8, 4)]
    for options, expected in (
        (OnCluster(), (8, 2, 1)),
        (OnCluster(num_gpus=0), (2, 8, 0)),
        (OnCluster(num_gpus=0.5), (16, 1, 0.5)),
        (OnCluster(num_gpus=0, actors=3), (3, 4, 0)),
        (OnCluster(num_gpus=3), (2, 8, 3)),
    ):
        pool = planned(options, nodes, may_use_gpus=True)
        assert (pool.n_actors, pool.n_threads, pool.num_gpus) == expected
    assert planned(OnCluster(), nodes, may_use_gpus=False).num_gpus == 0
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert planned(OnCluster(), nodes, may_use_gpus=True).n_threads == 3
