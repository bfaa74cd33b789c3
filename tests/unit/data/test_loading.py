"""Batches: order, equality for any number of threads, bad images, and an early end."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from knnspect.data import Batch, Geometry, ImageItem, ImageSource, elpv_split, open_images
from knnspect.data.loading import iterate_batches
from knnspect.errors import ImageError, KnnspectError, ParameterError, ShapeError

GEOMETRY = Geometry((16, 24), "pad")
WORKERS = range(5)


def data_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("knnspect-data")]


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    yield
    assert data_threads() == []


def folder(tmp_path: Path, n: int, bad: tuple[int, ...] = ()) -> ImageSource:
    rng = np.random.default_rng(0)
    for i in range(n):
        path = tmp_path / f"{i:03d}.png"
        size = rng.integers(4, 60, 2)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
        if i in bad:
            path.write_bytes(path.read_bytes()[:60])
    return open_images(tmp_path)


def assert_equal(got: list[Batch], expected: list[Batch]) -> None:
    assert [batch.ids for batch in got] == [batch.ids for batch in expected]
    assert [batch.sizes for batch in got] == [batch.sizes for batch in expected]
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one.images, other.images)


@pytest.mark.parametrize("n_workers", WORKERS)
def test_real_images_in_order(n_workers: int) -> None:
    source = open_images(elpv_split(11, 0, 0).train)
    batches = list(iterate_batches(source, GEOMETRY, 4, n_workers))
    assert [len(batch.ids) for batch in batches] == [4, 4, 3]
    items = list(source)
    assert [id_ for batch in batches for id_ in batch.ids] == [item.id for item in items]
    expected = [GEOMETRY.prepare(item.load()) for item in items]
    np.testing.assert_array_equal(np.concatenate([b.images for b in batches]), np.stack(expected))
    assert isinstance(batches[0].images, np.ndarray)
    assert batches[0].images.dtype == np.float32
    assert batches[0].images.shape == (4, 3, 16, 24)
    assert batches[0].sizes == [(300, 300)] * 4


@pytest.mark.parametrize("batch_size", [1, 3, 12, 13, 100])
def test_same_for_any_number_of_threads(tmp_path: Path, batch_size: int) -> None:
    source = folder(tmp_path, 13)
    expected = list(iterate_batches(source, GEOMETRY, batch_size, 0))
    assert sum(len(batch.ids) for batch in expected) == 13
    for n_workers in WORKERS[1:]:
        assert_equal(list(iterate_batches(source, GEOMETRY, batch_size, n_workers)), expected)


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 12),
    bad=st.sets(st.integers(0, 11)),
    batch_size=st.integers(1, 5),
    n_workers=st.integers(0, 4),
)
def test_skipping(n: int, bad: set[int], batch_size: int, n_workers: int) -> None:
    images = np.zeros((n, 5, 6), np.float32)
    images[[i for i in bad if i < n]] = 7
    reported: list[tuple[str, ImageError]] = []

    def report(id_: str, error: ImageError) -> None:
        reported.append((id_, error))

    batches = list(iterate_batches(open_images(images), GEOMETRY, batch_size, n_workers, report))
    good = [f"{i:06d}" for i in range(n) if i not in bad]
    assert [id_ for batch in batches for id_ in batch.ids] == good
    assert all(len(batch.ids) == batch_size for batch in batches[:-1])
    assert all(len(batch.ids) == len(batch.images) == len(batch.sizes) > 0 for batch in batches)
    assert [id_ for id_, _ in reported] == [f"{i:06d}" for i in range(n) if i in bad]


@pytest.mark.parametrize("n_workers", WORKERS)
def test_bad_images(tmp_path: Path, n_workers: int) -> None:
    source = folder(tmp_path, 12, bad=(5, 7))
    batches = iterate_batches(source, GEOMETRY, 2, n_workers)
    assert next(batches).ids == ["000.png", "001.png"]
    assert next(batches).ids == ["002.png", "003.png"]
    with pytest.raises(ImageError, match=r"005\.png: expected"):
        next(batches)
    assert data_threads() == []
    bad: dict[str, ImageError] = {}
    kept = list(iterate_batches(source, GEOMETRY, 4, n_workers, bad.__setitem__))
    assert [batch.ids[0] for batch in kept] == ["000.png", "004.png", "010.png"]
    assert list(bad) == ["005.png", "007.png"]
    assert all(id_ in str(error) for id_, error in bad.items())


@pytest.mark.parametrize("n_workers", WORKERS)
def test_mistakes_are_not_skipped(n_workers: int) -> None:
    source = open_images([np.zeros((4, 4), np.uint8), np.zeros((4, 4, 7), np.uint8)])
    with pytest.raises(ShapeError, match="000001: expected"):
        list(iterate_batches(source, GEOMETRY, 1, n_workers, print))


@pytest.mark.parametrize("n_workers", WORKERS)
def test_a_source_that_fails(n_workers: int) -> None:
    def broken() -> Iterator[Any]:
        yield np.zeros((3, 4, 5, 3), np.uint8)
        raise RuntimeError("the disk is gone")

    batches = iterate_batches(open_images(broken()), GEOMETRY, 1, n_workers, print)
    assert [next(batches).ids for _ in range(3)] == [["000000"], ["000001"], ["000002"]]
    with pytest.raises(RuntimeError, match="the disk is gone"):
        next(batches)


@pytest.mark.parametrize("n_workers", WORKERS)
@pytest.mark.parametrize("how", ["close", "break", "forget"])
def test_abandoned_early(tmp_path: Path, n_workers: int, how: str) -> None:
    source = folder(tmp_path, 30)
    batches: Any = iterate_batches(source, GEOMETRY, 2, n_workers)
    next(batches)
    assert bool(data_threads()) == (n_workers > 0)
    if how == "close":
        batches.close()
    elif how == "break":
        for _ in batches:
            break
        del batches
    else:
        batches = None
    gc.collect()
    assert data_threads() == []


@pytest.mark.parametrize("n_workers", WORKERS)
def test_looks_ahead_a_little_only(n_workers: int) -> None:
    given_out: list[int] = []

    def items() -> Iterator[ImageItem]:
        for i in range(100):
            given_out.append(i)
            yield ImageItem(str(i), lambda: np.zeros((4, 4, 3), np.uint8))

    batches = iterate_batches(ImageSource(items(), None), GEOMETRY, 4, n_workers)
    for taken in range(1, 4):
        next(batches)
        assert len(given_out) <= 4 * taken + 8
    assert isinstance(batches, Iterator)
    del batches


def test_nothing_starts_before_it_is_asked_for(tmp_path: Path) -> None:
    batches = iterate_batches(folder(tmp_path, 3), GEOMETRY, 2, 3)
    assert data_threads() == []
    del batches


@pytest.mark.parametrize("n_workers", WORKERS)
def test_interrupt_in_the_middle(n_workers: int) -> None:
    def interrupted() -> Any:
        raise KeyboardInterrupt

    items = [ImageItem(str(i), lambda: np.zeros((4, 4, 3), np.uint8)) for i in range(20)]
    items[3] = ImageItem("3", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(iterate_batches(ImageSource(items, 20), GEOMETRY, 2, n_workers))


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
@pytest.mark.parametrize("n_workers", [0, 3])
def test_ctrl_c_ends_the_process(n_workers: int) -> None:
    script = f"""
import time, numpy as np
from knnspect.data import Geometry, ImageItem, ImageSource, iterate_batches
def slow():
    time.sleep(0.05)
    return np.zeros((4, 4, 3), np.uint8)
source = ImageSource([ImageItem(str(i), slow) for i in range(10000)], 10000)
for batch in iterate_batches(source, Geometry((8, 8)), 2, {n_workers}):
    print("batch", flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors
    assert process.returncode != 0


def test_parameters(tmp_path: Path) -> None:
    source = folder(tmp_path, 1)
    with pytest.raises(ParameterError, match="batch_size: expected at least 1, got 0"):
        iterate_batches(source, GEOMETRY, 0, 1)
    with pytest.raises(KnnspectError, match="n_workers: expected at least 0, got -1"):
        iterate_batches(source, GEOMETRY, 1, -1)


@pytest.mark.parametrize("n_workers", WORKERS)
def test_pictures_are_kept_when_asked_but_for_large_ones(n_workers: int) -> None:
    large = np.broadcast_to(np.uint8(3), (2**13, 2**12))
    images = [np.full((2, 3), 7, np.uint8), large]
    (batch,) = iterate_batches(open_images(images), GEOMETRY, 2, n_workers, keep_pictures=True)
    first, second = batch.pictures
    assert first is not None
    assert first.shape == (2, 3, 3)
    assert (first == 7).all()
    assert second is None
    (batch,) = iterate_batches(open_images(images[:1]), GEOMETRY, 2, n_workers)
    assert batch.pictures == [None]
