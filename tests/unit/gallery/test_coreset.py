"""Coresets: which rows are picked, what they are searched for, and what is kept of them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect import (
    Backbone,
    Coreset,
    DTypeError,
    FeaturePyramid,
    Gallery,
    ImageError,
    Neighbors,
    ParameterError,
    ShapeError,
    StoreError,
)
from knnspect.backends import RustBackend
from knnspect.gallery.leaving_out import nearest_without

Rows = NDArray[np.float32]


def pyramid(n: int = 4, seed: int = 0, kind: str = "random") -> FeaturePyramid:
    rng = np.random.default_rng(seed)
    levels = []
    for size in ((n, 8, 8, 5), (n, 4, 2, 7)):
        values = rng.normal(size=size)
        if kind == "integers":
            values = np.round(values)
        elif kind == "constant":
            values = np.broadcast_to(values[:1, :1, :1], size)
        elif kind == "duplicates":
            values = np.broadcast_to(values[:1], size)
        elif kind == "offset":
            values = values + 1e6
        elif kind in ("tiny", "huge"):
            values = values * (1e-40 if kind == "tiny" else 3e37)
        levels.append(values.astype("f4"))
    return FeaturePyramid(levels)


def filled(features: FeaturePyramid, **kwargs: str) -> Gallery:
    gallery = Gallery(**kwargs)
    gallery.add(features, [f"image {number}" for number in range(features.n_images)])
    return gallery


def rows_of(gallery: Gallery) -> Rows:
    """All rows, in the order of (image id, row, column)."""
    features = gallery.pyramid().concatenated(gallery.upsample)  # type: ignore[arg-type]
    return features.reshape(-1, features.shape[-1])


def sq_l2(rows: Rows, row: Rows) -> NDArray[np.float64]:
    """In the order of summation that is promised, as ties are common among small integers."""
    differences = np.square(rows.astype("f8") - row.astype("f8"))
    sums = np.zeros((8, len(rows)))
    for channel in range(rows.shape[1]):
        sums[channel % 8] += differences[:, channel]
    a, b, c, d, e, f, g, h = sums
    return ((a + e) + (c + g)) + ((b + f) + (d + h))


def greedy(rows: Rows, count: int, first: int) -> tuple[list[int], float]:
    picks, nearest = [first], sq_l2(rows, rows[first])
    while len(picks) < count and nearest.max() > 0:
        picks.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, sq_l2(rows, rows[picks[-1]]))
    return picks, float(nearest.max())


def places(coreset: Coreset) -> list[int]:
    """The numbers of the rows among all, in the order in which they were picked."""
    height, width, _ = coreset.shapes[0]
    rows, columns = coreset.cells.T
    numbers = (coreset.image_index * height + rows) * width + columns
    return [int(number) for number in numbers[coreset.order]]


@pytest.mark.parametrize("upsample", ["bilinear", "block"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize(
    "kind", ["random", "integers", "constant", "duplicates", "offset", "tiny", "huge"]
)
def test_picks_what_a_naive_selection_picks(kind: str, dtype: str, upsample: str) -> None:
    if dtype == "float16" and kind in ("offset", "huge"):
        pytest.skip("more than float16 can hold")
    gallery = filled(pyramid(kind=kind), upsample=upsample, dtype=dtype)
    rows = rows_of(gallery)
    for size, seed in ((1, 0), (60, 1), (1.0, 2)):
        first = int(np.random.default_rng(seed).integers(len(rows)))
        picks, radius = greedy(rows, size if isinstance(size, int) else len(rows), first)
        for threads in (1, 2, 3):
            coreset = gallery.coreset(size, seed, threads=threads)
            assert places(coreset) == picks
            assert coreset.sq_radius == radius
            np.testing.assert_array_equal(coreset.rows[coreset.order], rows[picks])
            assert np.all(np.diff(np.sort(places(coreset))) > 0)


def test_the_first_300_picks_of_real_images() -> None:
    elpv = pytest.importorskip("elpv_dataset")
    files = sorted(Path(next(iter(elpv.__path__))).rglob("*.png"))[:5]
    features = Backbone(levels=(1, 2, 3), image_size=128).extract(files)
    gallery = Gallery()
    gallery.add(features.pyramid)
    rows = rows_of(gallery)
    coreset = gallery.coreset(300, seed=7)
    picks, radius = greedy(rows, 300, int(np.random.default_rng(7).integers(len(rows))))
    assert places(coreset) == picks
    assert coreset.sq_radius == radius
    # Farther than the radius is nothing, and something is as far.
    farthest = float(coreset.search(features.pyramid).sq_distances.max())
    assert farthest == np.float32(radius)


@pytest.mark.parametrize("n_columns", [1, 6, 40])
def test_a_projection_changes_what_is_picked_and_not_what_is_kept(n_columns: int) -> None:
    gallery = filled(pyramid())
    rows = rows_of(gallery)
    coreset = gallery.coreset(50, seed=3, projection=n_columns)
    rng = np.random.default_rng(3)
    first = int(rng.integers(len(rows)))
    matrix = rng.standard_normal((rows.shape[1], n_columns)) / np.sqrt(n_columns)
    sums = np.zeros((len(rows), n_columns))
    for channel in range(rows.shape[1]):
        sums += rows[:, channel, None].astype("f8") * matrix[channel].astype("f4").astype("f8")
    assert places(coreset) == greedy(sums.astype("f4"), 50, first)[0]
    np.testing.assert_array_equal(coreset.rows[coreset.order], rows[places(coreset)])
    assert coreset.sq_radius is None
    assert places(coreset) != places(gallery.coreset(50, seed=3))


def test_rows_know_where_they_came_from() -> None:
    features = pyramid()
    gallery = Gallery()
    gallery.add(features, ids=["d", "b", "a", "c"])
    coreset = gallery.coreset(0.25, seed=1)
    assert len(coreset) == 64
    assert coreset.image_ids == ("a", "b", "c", "d")
    assert (coreset.upsample, coreset.shapes) == ("bilinear", [(8, 8, 5), (4, 2, 7)])
    assert coreset.rows.dtype == np.float32
    assert not coreset.rows.flags.writeable
    concatenated = gallery.pyramid().concatenated()
    rows, columns = coreset.cells.T
    np.testing.assert_array_equal(coreset.rows, concatenated[coreset.image_index, rows, columns])
    keys = [(i, r, c) for i, (r, c) in zip(coreset.image_index, coreset.cells, strict=True)]
    assert keys == sorted(keys)
    assert repr(coreset) == "Coreset(n_rows=64, n_features=12, n_images=4, upsample='bilinear')"
    assert coreset.nbytes == 64 * (12 * 4 + 8 + 16 + 8)


@pytest.mark.parametrize("kind", ["random", "integers"])
@pytest.mark.parametrize("upsample", ["bilinear", "block"])
def test_a_search_finds_the_nearest_rows(upsample: Any, kind: str) -> None:
    gallery = filled(pyramid(kind=kind), upsample=upsample)
    coreset = gallery.coreset(90)
    query = pyramid(3, seed=9, kind=kind)
    rows = query.concatenated(upsample).reshape(-1, 12)
    distances = np.stack([sq_l2(coreset.rows, row) for row in rows])
    nearest = np.argsort(distances, axis=1, kind="stable")
    for k in (1, 4, len(coreset)):
        found = coreset.search(query, k)
        assert found.sq_distances.shape == (3, 8, 8, k)
        assert found.image_ids == coreset.image_ids
        expected = np.take_along_axis(distances, nearest[:, :k], axis=1)
        np.testing.assert_allclose(found.sq_distances.reshape(-1, k), expected, rtol=1e-7)
        if kind == "integers" or k < 5:  # exact, or without near ties
            index = coreset.image_index[nearest[:, :k]]
            np.testing.assert_array_equal(found.image_index.reshape(-1, k), index)
            cells = coreset.cells[nearest[:, :k]]
            np.testing.assert_array_equal(found.cells.reshape(-1, k, 2), cells)
        for backend in (RustBackend(matcher="exhaustive"), RustBackend(matcher="pruned"), "rust"):
            same_bits(coreset.search(query, k, threads=3, backend=backend), found)


def same_bits(found: Neighbors, expected: Neighbors) -> None:
    for name in ("sq_distances", "image_index", "cells"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_all_rows_are_as_good_as_the_gallery() -> None:
    gallery = filled(pyramid())
    query = pyramid(2, seed=5)
    by_rows, by_levels = gallery.coreset(1.0).search(query, 3), gallery.search(query, 3)
    np.testing.assert_allclose(by_rows.sq_distances, by_levels.sq_distances, rtol=1e-5)
    np.testing.assert_array_equal(by_rows.images, by_levels.images)
    np.testing.assert_array_equal(by_rows.cells, by_levels.cells)


def test_a_large_image_is_searched_in_strips_and_finds_the_same() -> None:
    rng = np.random.default_rng(1)
    shapes = [(600, 500, 80), (300, 250, 40)]  # more values than are concatenated at a time
    query = FeaturePyramid([rng.random((1, *shape), np.float32) for shape in shapes])
    gallery = Gallery()
    small = [(2, height // 50, width // 50, n) for height, width, n in shapes]
    gallery.add(FeaturePyramid([rng.random(shape, np.float32) for shape in small]))
    coreset = gallery.coreset(20)
    assert len(list(query.concatenated_in_strips())) == 2
    found = coreset.search(query, 2)
    expected = coreset.bank.search(FeaturePyramid([query.concatenated()]), 2)
    np.testing.assert_array_equal(found.sq_distances, expected.sq_distances)
    for name in ("image_index", "cells"):
        np.testing.assert_array_equal(
            getattr(found, name), getattr(coreset.evidence(expected), name)
        )
    assert found.stats is not None
    assert expected.stats is not None
    assert found.stats.pairs == expected.stats.pairs
    (other,) = nearest_without(coreset, query, [["000001"]])
    assert other is not None
    without = coreset.without(["000001"]).search(query)
    np.testing.assert_array_equal(other.sq_distances, without.sq_distances)


def test_rows_of_removed_images_are_found_no_more() -> None:
    gallery = filled(pyramid())
    coreset = gallery.coreset(40, seed=2)
    order = [coreset.image_ids[image] for image in coreset.image_index[coreset.order]]
    rows = coreset.rows[coreset.order]
    stays = np.array([id_ not in ("image 0", "image 2") for id_ in order])
    coreset.remove(["image 2", "image 0", "image 0"])
    assert coreset.image_ids == ("image 1", "image 3")
    assert len(coreset) == stays.sum() > 0
    np.testing.assert_array_equal(coreset.rows[coreset.order], rows[stays])
    assert coreset.sq_radius is None
    found = coreset.search(pyramid())
    assert set(found.images.ravel()) <= {"image 1", "image 3"}
    nearest = np.stack([sq_l2(coreset.rows, row) for row in rows_of(gallery)]).min(axis=1)
    np.testing.assert_allclose(found.sq_distances.ravel(), nearest, rtol=1e-7)
    with pytest.raises(ParameterError, match="ids: there is no image 'image 0' in the coreset"):
        coreset.remove(["image 1", "image 0"])
    assert coreset.image_ids == ("image 1", "image 3")
    coreset.remove(["image 1", "image 3"])
    assert len(coreset) == len(coreset.image_ids) == 0
    with pytest.raises(ParameterError, match="k: expected at most the number of rows, 0, got 1"):
        coreset.search(pyramid())


def test_an_image_of_which_no_row_was_picked_is_known() -> None:
    coreset = filled(pyramid(kind="duplicates")).coreset(1.0)
    ids = ("image 0", "image 1", "image 2", "image 3")
    assert coreset.image_ids == ids
    picked = {coreset.image_ids[image] for image in coreset.image_index}
    assert len(picked) <= 2  # that of the first row, and the first of all
    unpicked = max(set(ids) - picked)
    coreset.remove([unpicked])
    assert coreset.image_ids == tuple(id_ for id_ in ids if id_ != unpicked)
    assert (len(coreset), coreset.sq_radius) == (64, 0.0)


def test_the_gallery_may_change_afterwards() -> None:
    gallery = filled(pyramid())
    coreset = gallery.coreset(30)
    before = coreset.search(pyramid(1, seed=4))
    gallery.remove(gallery.ids)
    same_bits(coreset.search(pyramid(1, seed=4)), before)
    with pytest.raises(ParameterError, match="the gallery is empty"):
        gallery.coreset(1)


@pytest.mark.parametrize("projection", [None, 8])
def test_a_saved_coreset_is_the_same_coreset(tmp_path: Path, projection: int | None) -> None:
    gallery = filled(pyramid(), upsample="block", dtype="int8")
    coreset = gallery.coreset(33, projection=projection)
    coreset.save(tmp_path / "a.coreset")
    for verify in (True, False):
        opened = Coreset.open(tmp_path / "a.coreset", verify)
        for name in ("rows", "image_index", "cells", "order"):
            ours, others = getattr(opened, name), getattr(coreset, name)
            assert ours.dtype == others.dtype
            np.testing.assert_array_equal(ours, others)
        for name in ("image_ids", "upsample", "shapes", "sq_radius"):
            assert getattr(opened, name) == getattr(coreset, name)
        query = pyramid(1, seed=8)
        same_bits(opened.search(query, 2), coreset.search(query, 2))
        opened.save(tmp_path / "b.coreset")
        assert (tmp_path / "a.coreset").read_bytes() == (tmp_path / "b.coreset").read_bytes()


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    gallery = filled(pyramid())
    gallery.save(tmp_path / "normal.gallery")
    with pytest.raises(StoreError, match="expected a coreset, it holds a gallery"):
        Coreset.open(tmp_path / "normal.gallery")
    gallery.coreset(5).save(tmp_path / "normal.coreset")
    with pytest.raises(StoreError, match="expected a gallery, it holds a coreset"):
        Gallery.open(tmp_path / "normal.coreset")
    empty = gallery.coreset(5)
    empty.remove(gallery.ids)
    with pytest.raises(ParameterError, match="empty"):
        empty.save(tmp_path / "empty.coreset")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("order", np.array([0, 1, 1, 3])),
        ("order", np.arange(3)),
        ("image_index", np.array([0, 1, 2, 4])),
        ("image_index", np.array([0, -1, 2, 3])),
        ("cells", np.zeros((4, 3), np.int64)),
    ],
)
def test_a_coreset_that_is_not_consistent_is_refused(
    tmp_path: Path, name: str, value: NDArray[np.int64]
) -> None:
    coreset = filled(pyramid()).coreset(4)
    metadata, tensors = coreset.state()
    tensors[f"coreset.{name}"] = value
    coreset.bank.core.save(tmp_path / "a.coreset", "coreset", metadata, tensors)
    with pytest.raises(StoreError, match=r"a\.coreset: is damaged: its coreset cannot be used"):
        Coreset.open(tmp_path / "a.coreset")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"size": 0}, ParameterError, "size: expected at least 1, got 0"),
        ({"size": 257}, ParameterError, "size: expected at most the number of rows, 256, got 257"),
        ({"size": 0.0}, ParameterError, "size: expected a finite number above 0"),
        ({"size": 1.01}, ParameterError, "size: expected a share of at most 1.0, got 1.01"),
        ({"size": float("nan")}, ParameterError, "size: expected a finite number above 0"),
        ({"size": "all"}, DTypeError, "size: expected an integer, got str"),
        ({"size": True}, DTypeError, "size: expected an integer, got bool"),
        ({"seed": -1}, ParameterError, "seed: expected at least 0, got -1"),
        ({"seed": 0.5}, DTypeError, "seed: expected an integer, got float"),
        ({"projection": 0}, ParameterError, "projection: expected at least 1, got 0"),
        ({"projection": 2.0}, DTypeError, "projection: expected an integer, got float"),
        ({"threads": 0}, ParameterError, "threads: expected at least 1, got 0"),
    ],
)
def test_bad_parameters_are_named(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    gallery = filled(pyramid())
    with pytest.raises(error, match=message):
        gallery.coreset(**{"size": 5, **arguments})


@pytest.mark.parametrize("grid", [(2, 4), (4, 12), (16, 8)])
def test_a_query_may_lie_on_another_grid(grid: tuple[int, int]) -> None:
    """Its cells are looked up one by one, as rows of their own."""
    coreset = filled(pyramid()).coreset(40)
    height, width = grid
    rng = np.random.default_rng(3)
    query = FeaturePyramid(
        [
            rng.random((2, height, width, 5), dtype="f4"),
            rng.random((2, height // 2, width // 4, 7), dtype="f4"),
        ]
    )
    found = coreset.search(query, k=2)
    assert found.sq_distances.shape == (2, height, width, 2)
    rows = query.concatenated(coreset.upsample).reshape(-1, 12)  # type: ignore[arg-type]
    bank = coreset.rows.astype(np.float64)
    expected = np.square(rows[:, None].astype(np.float64) - bank).sum(axis=-1)
    np.testing.assert_allclose(
        found.sq_distances.reshape(-1, 2), np.sort(expected)[:, :2], rtol=1e-5
    )


def test_bad_queries_are_named() -> None:
    coreset = filled(pyramid()).coreset(5)
    other = FeaturePyramid([np.zeros((1, 8, 8, 5), "f4"), np.zeros((1, 4, 4, 7), "f4")])
    with pytest.raises(ShapeError, match=r"8x8x5 \+ 4x4x7, the coreset's is 8x8x5 \+ 4x2x7"):
        coreset.search(other)
    with pytest.raises(ParameterError, match="k: expected at most the number of rows, 5, got 6"):
        coreset.search(pyramid(), k=6)
    with pytest.raises(DTypeError, match="query: expected a FeaturePyramid, got ndarray"):
        coreset.search(np.zeros((1, 8, 8, 12)))  # type: ignore[arg-type]
    query = pyramid(2)
    query.levels[1][1, 2, 1, 3] = np.nan
    with pytest.raises(ImageError, match="query image 1"):
        coreset.search(query)
    with pytest.raises(DTypeError, match="ids: expected a sequence of str"):
        coreset.remove("image 1")


def test_shares_are_rounded_and_never_nothing() -> None:
    gallery = filled(pyramid())
    sizes = [len(gallery.coreset(share)) for share in (1e-9, 0.01, 0.1, 0.999, np.float32(0.5))]
    assert sizes == [1, 3, 26, 256, 128]
    assert len(gallery.coreset(1)) == 1
    assert len(gallery.coreset(np.int64(7))) == 7


def test_a_coreset_is_not_made_by_hand() -> None:
    with pytest.raises(TypeError, match=r"comes from Gallery\.coreset"):
        Coreset()


def test_progress_counts_rows(capsys: pytest.CaptureFixture[str]) -> None:
    filled(pyramid()).coreset(40, progress=True)
    assert capsys.readouterr() == ("", "coreset: 40 of 40 rows\n")
    filled(pyramid(kind="constant")).coreset(40, progress=True)
    assert capsys.readouterr() == ("", "coreset: 1 of 40 rows\n")


@pytest.mark.parametrize("upsample", ["bilinear", "block"])
def test_concatenated_features_are_those_of_float64(upsample: Any) -> None:
    query = FeaturePyramid([level.astype("f2") for level in pyramid(2).levels])
    rows = query.concatenated(upsample)
    assert rows.shape == (2, 8, 8, 12)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows[..., :5], query.levels[0].astype("f4"))

    def blend(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        ratio = 8 // values.shape[axis]
        place = np.clip((np.arange(8) + 0.5) / ratio - 0.5, 0, values.shape[axis] - 1)
        first = np.floor(place).astype(int)
        second = np.minimum(first + 1, values.shape[axis] - 1)
        weight = np.expand_dims(place - first, [0, *({1: (2, 3), 2: (1, 3)}[axis])])
        blended: NDArray[np.float64] = values.take(first, axis) * (1 - weight)
        blended += values.take(second, axis) * weight
        return blended

    coarse = query.levels[1].astype("f8")
    if upsample == "block":
        expected = coarse.repeat(2, axis=1).repeat(4, axis=2)
    else:
        expected = blend(blend(coarse, 1), 2)
    np.testing.assert_allclose(rows[..., 5:], expected, rtol=1e-6, atol=1e-7)


PICK_FOR_MINUTES = """
import signal, sys
import numpy as np
import knnspect as ks

signal.signal(signal.SIGINT, signal.default_int_handler)
rng = np.random.default_rng(0)
gallery = ks.Gallery()
gallery.add(ks.FeaturePyramid([rng.random((16, 112, 112, 128), dtype="f4")]))
print("picking", flush=True)
try:
    gallery.coreset(0.5, threads=2, progress=sys.argv[1] == "progress")
except KeyboardInterrupt:
    print("interrupted", flush=True)
    raise
print("finished", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("how", ["silent", "progress"])
def test_ctrl_c_ends_a_selection(how: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", PICK_FOR_MINUTES, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "picking\n"
        time.sleep(1.5)
        assert child.poll() is None, "the selection was over too soon to be interrupted"
        start = time.perf_counter()
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "interrupted\n"
        seconds = time.perf_counter() - start
        _, err = child.communicate(timeout=60)
    finally:
        child.kill()
        child.communicate()
    assert err.rstrip().endswith("KeyboardInterrupt"), err
    assert child.returncode != 0
    assert seconds < 2, seconds
