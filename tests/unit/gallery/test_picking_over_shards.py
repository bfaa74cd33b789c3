"""Coresets over shards: the rows that one process picks, in the same order, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect import (
    Coreset,
    FeaturePyramid,
    Gallery,
    ParameterError,
    ShapeError,
    ShardedGallery,
    StoreError,
    _core,
)
from knnspect.cluster.crew import LocalCrew
from knnspect.cluster.shard_picker import ShardPicker
from knnspect.gallery import picking
from knnspect.gallery.picking_over_shards import SpreadRows

N_IMAGES, SIDE = 13, 12
N_FORGOTTEN = 5


def pyramid(kind: str) -> FeaturePyramid:
    rng = np.random.default_rng(3)
    levels = []
    for shape in ((N_IMAGES, SIDE, SIDE, 5), (N_IMAGES, SIDE // 2, SIDE // 2, 9)):
        values = rng.normal(size=shape)
        if kind == "integers":
            values = np.round(values)
        elif kind == "few":  # what coincides
            values = np.broadcast_to(np.round(values[:, :1, :1]), shape)
        elif kind == "one far":  # all of the farthest in one shard
            values[4] *= 50
        levels.append(values.astype("f4"))
    return FeaturePyramid(levels)


@pytest.fixture(scope="module")
def galleries(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str], ShardedGallery]:
    """Galleries in so many shards, by their kind."""
    made: dict[tuple[int, str], ShardedGallery] = {}

    def make(n_shards: int, kind: str) -> ShardedGallery:
        if (n_shards, kind) not in made:
            path = tmp_path_factory.mktemp("shards") / "normal.gallery"
            with ShardedGallery.create(path, shards=n_shards) as gallery:
                gallery.add(pyramid(kind))
            made[n_shards, kind] = ShardedGallery.open(path)
        return made[n_shards, kind]

    return make


class Forgetful(LocalCrew):
    """Objects of which one is made anew, now and then, as where a process has died."""

    def __init__(self, parts: list[tuple[Any, ...]], period: int) -> None:
        super().__init__(ShardPicker, parts)
        self._parts, self._period, self._n_asked = parts, period, 0
        self.n_forgotten = 0

    def ask(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        for part in arguments:
            self._n_asked += 1
            # Only so often: what forgets faster than it learns comes to no end.
            if self._n_asked % self._period == 0 and self.n_forgotten < N_FORGOTTEN:
                self.n_forgotten += 1
                self._members[part] = ShardPicker(*self._parts[part])
                for name, args in self.recall(part):
                    getattr(self._members[part], name)(*args)
        return super().ask(method, arguments)


class Here:
    """In place of a cluster: the shards are asked in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, period: int = 10**9) -> None:
        chooser: Any = _core.Chooser
        # Short rounds, as there are few rows.
        monkeypatch.setattr(_core, "Chooser", lambda *args: chooser(*args[:-1], 60))
        self.period, self.n_forgotten = period, 0
        monkeypatch.setattr(picking, "over_cluster", self._over)

    def _over(self, address: str, spread: SpreadRows, task: Any) -> Here:
        self.crew = Forgetful(spread.of_pickers(task), self.period)
        return self

    def __enter__(self) -> Forgetful:
        return self.crew

    def __exit__(self, *_: object) -> None:
        self.n_forgotten = self.crew.n_forgotten


def expect_same(found: Coreset, expected: Coreset) -> None:
    for name in ("rows", "image_index", "cells", "order"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert (found.image_ids, found.sq_radius) == (expected.image_ids, expected.sq_radius)


@pytest.mark.parametrize("kind", ["random", "integers", "few", "one far"])
@pytest.mark.parametrize("n_shards", [1, 2, 4, 7])
def test_shards_pick_what_one_process_picks(
    galleries: Any, monkeypatch: pytest.MonkeyPatch, n_shards: int, kind: str
) -> None:
    gallery = galleries(n_shards, kind)
    Here(monkeypatch)
    whole = Gallery()
    whole.add(pyramid(kind))
    cases: list[tuple[float, dict[str, Any]]] = [
        (1, {}),
        (0.2, {"seed": 5}),
        (1.0, {}),
        (60, {"projection": 4, "seed": 2}),
    ]
    for size, how in cases:
        expected = whole.coreset(size, **how)
        expect_same(gallery.coreset(size, cluster="auto", **how), expected)
        expect_same(gallery.coreset(size, **how), expected)


@pytest.mark.parametrize("n_shards", [2, 7])
def test_cells_that_are_left_out_are_as_if_they_were_not_there(
    galleries: Any, monkeypatch: pytest.MonkeyPatch, n_shards: int
) -> None:
    kept = np.random.default_rng(0).random((N_IMAGES, SIDE, SIDE)) < 0.4
    kept[2] = False
    kept[:, :, 0] = False
    Here(monkeypatch)
    gallery = galleries(n_shards, "integers")
    how: Any = {"projection": None, "threads": None, "progress": False, "kept": kept}
    found = picking.pick_coreset(gallery, 0.3, 4, **how, cluster="auto")
    expect_same(found, picking.pick_coreset(gallery, 0.3, 4, **how))
    assert kept[found.image_index, found.cells[:, 0], found.cells[:, 1]].all()


@pytest.mark.parametrize("period", [1, 5, 17])
def test_a_shard_whose_process_was_started_anew_goes_on(
    galleries: Any, monkeypatch: pytest.MonkeyPatch, period: int
) -> None:
    here = Here(monkeypatch, period)
    gallery = galleries(4, "random")
    found = gallery.coreset(0.5, cluster="auto")
    assert here.n_forgotten == N_FORGOTTEN
    expect_same(found, gallery.coreset(0.5))


def two_rounds(gallery: ShardedGallery, size: int, seed: int, kept: Any = None) -> Coreset:
    how: Any = {"projection": None, "threads": None, "progress": False, "kept": kept}
    return picking.pick_coreset(gallery, size, seed, **how, two_rounds=True)


def radius_of(coreset: Coreset, rows: NDArray[np.float32]) -> float:
    """The distance of the farthest row from its nearest of the coreset."""
    apart = rows[:, None].astype("f8") - coreset.rows[None].astype("f8")
    return float(np.sqrt(np.square(apart).sum(axis=2)).min(axis=1).max())


@pytest.mark.parametrize("kind", ["random", "integers", "one far"])
@pytest.mark.parametrize("n_shards", [1, 4, 7])
def test_two_rounds_cover_all_rows_within_their_radius(
    galleries: Any, n_shards: int, kind: str
) -> None:
    gallery = galleries(n_shards, kind)
    rows = gallery.pyramid().concatenated().reshape(-1, 14)
    for size, seed in ((1, 0), (40, 1), (200, 2)):
        found, exact = two_rounds(gallery, size, seed), gallery.coreset(size, seed)
        assert len(found) == size
        assert found.sq_radius is not None
        assert exact.sq_radius is not None
        bound, radius = np.sqrt(found.sq_radius), radius_of(found, rows)
        assert radius <= bound
        # The least radius is at least half of the greedy one's.
        assert radius >= np.sqrt(exact.sq_radius) / 2
        # Either round's is at most twice the least, and that at most the greedy one's.
        assert bound <= 4 * np.sqrt(exact.sq_radius) * (1 + 1e-9)
        at = (found.image_index, found.cells[:, 0], found.cells[:, 1])
        np.testing.assert_array_equal(found.rows, gallery.pyramid().concatenated()[at])
        first = int(np.random.default_rng(seed).integers(len(rows)))
        np.testing.assert_array_equal(found.rows[found.order[0]], rows[first])
        if n_shards == 1:
            np.testing.assert_array_equal(found.rows, exact.rows)
        again = two_rounds(gallery, size, seed)
        np.testing.assert_array_equal(again.order, found.order)


def test_two_rounds_pick_among_cells_that_are_kept(
    galleries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = galleries(4, "random")
    kept = np.random.default_rng(1).random((N_IMAGES, SIDE, SIDE)) < 0.2
    owners = gallery.shards.owners(gallery.ids)
    kept[owners == owners[0]] = False  # a shard of which nothing is kept
    found = two_rounds(gallery, 30, 0, kept)
    assert kept[found.image_index, found.cells[:, 0], found.cells[:, 1]].all()
    assert len(found) == 30
    rows = gallery.pyramid().concatenated()[kept]
    assert radius_of(found, rows) <= np.sqrt(found.sq_radius or 0)
    Here(monkeypatch, 3)
    expect_same(gallery.coreset(30, cluster="auto", two_rounds=True), two_rounds(gallery, 30, 0))
    assert gallery.coreset(30, projection=3, two_rounds=True).sq_radius is None
    few = galleries(4, "few")
    assert len(few.coreset(1.0, two_rounds=True)) == len(few.coreset(1.0))


def test_progress_is_told(
    galleries: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Here(monkeypatch)
    galleries(4, "random").coreset(0.5, cluster="auto", progress=True)
    assert f"{round(N_IMAGES * SIDE * SIDE / 2)} rows" in capsys.readouterr().err


def test_a_shard_that_is_damaged_is_named_with_its_node(
    galleries: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with ShardedGallery.create(tmp_path / "g", shards=2) as gallery:
        gallery.add(pyramid("random"))
    Here(monkeypatch)
    gallery = ShardedGallery.open(tmp_path / "g")
    (features,) = (tmp_path / "g" / "shard-0001").glob("features-*")
    altered = bytearray(features.read_bytes())
    altered[len(altered) // 2] ^= 1
    features.write_bytes(bytes(altered))
    node = ShardPicker(gallery.shards.shards[0], np.empty(0, np.uint32), None, None).about().node
    with pytest.raises(StoreError, match=f"shard shard-0001 on node {node}: .*damaged") as caught:
        gallery.coreset(5, cluster="auto")
    assert caught.value.image in gallery.ids


def test_the_core_refuses_what_does_not_fit(galleries: Any) -> None:
    gallery = galleries(1, "random")
    ranks = np.arange(N_IMAGES, dtype=np.uint32)
    values = np.zeros((1, 14), np.float32)

    def rows(ranks: NDArray[np.uint32] = ranks, projection: Any = None) -> _core.ShardRows:
        return _core.ShardRows(gallery.core, ranks, None, projection, 1)

    with pytest.raises(ParameterError, match="ranks: expected one for each of 13 images"):
        rows(ranks[1:])
    with pytest.raises(ShapeError, match="projection: expected 14 rows"):
        rows(projection=np.ones((13, 2), np.float32))
    with pytest.raises(ParameterError, match="picks: expected the first one before others"):
        rows().front(0.0, 1)
    with pytest.raises(ParameterError, match="most: expected at least 1, got 0"):
        rows().front(0.0, 0)
    with pytest.raises(ParameterError, match="there is no row 99999 in this shard"):
        rows().values(np.array([99999], np.uint64), True)
    with pytest.raises(ParameterError, match="count: expected at least 1"):
        _core.Chooser(1, 5, 0, 0, values[0], values, None)
    chooser = _core.Chooser(1, 5, 2, 0, values[0], values, None)
    with pytest.raises(ParameterError, match="sample: expected one value"):
        chooser.reach(np.empty(0))
    assert (chooser.step, chooser.sq_radius, chooser.rows.tolist()) == (1, None, [0])
