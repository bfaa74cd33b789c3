"""The torch backend: what its bounds promise, what it keeps, and whom it asks."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from knnspect import (
    BackendUnavailable,
    DTypeError,
    FeaturePyramid,
    Gallery,
    ImageError,
    Neighbors,
    ParameterError,
    ShapeError,
)
from knnspect.backends import get_backend
from knnspect.backends.torch import TorchBackend
from knnspect.backends.torch.bounds import PcaProjection, round_up
from knnspect.backends.torch.cache import BLOCK, GalleryCache, block_order
from knnspect.backends.torch.filter import Pairs, candidates, seeds
from knnspect.backends.torch.rescore import in_order, nearest_per_query, sq_l2
from knnspect.backends.torch.upsampling import Grid

CPU = torch.device("cpu")
DTYPES = [torch.bfloat16, torch.float32]
#: What the vectors of products are made of: a type, and whether they are split in two parts.
VECTORS = [(torch.bfloat16, False), (torch.float32, False), (torch.bfloat16, True)]
SHAPES = [(12, 16, 8), (6, 8, 12), (3, 4, 20)]


def smooth(seed: int, n: int, shapes: list[tuple[int, int, int]] = SHAPES) -> FeaturePyramid:
    """Maps that vary slowly and are alike, with some noise: as features are."""
    rng = np.random.default_rng(seed)
    levels = []
    for height, width, channels in shapes:
        y, x = np.meshgrid(np.linspace(0, 3, height), np.linspace(0, 3, width), indexing="ij")
        phases = np.random.default_rng(channels).uniform(0, 6, (1, 1, 1, channels))
        phases = phases + 0.1 * rng.normal(size=(n, 1, 1, channels))
        waves = np.sin(y[None, :, :, None] + phases) + np.cos(x[None, :, :, None] * 1.5 + phases)
        levels.append((waves + 0.1 * rng.normal(size=waves.shape)).astype("f4"))
    return FeaturePyramid(levels)


def filled(n: int = 6, seed: int = 0) -> Gallery:
    gallery = Gallery()
    gallery.add(smooth(seed, n), [str(image) for image in range(n)])
    return gallery


def tensors(pyramid: FeaturePyramid) -> list[torch.Tensor]:
    return [torch.from_numpy(level.copy()) for level in pyramid.levels]


def assert_same(found: Neighbors, expected: Neighbors) -> None:
    assert found.image_ids == expected.image_ids
    np.testing.assert_array_equal(found.image_index, expected.image_index)
    np.testing.assert_array_equal(found.cells, expected.cells)
    np.testing.assert_array_equal(found.sq_distances, expected.sq_distances)


# -------------------------------------------------------------------------------------- bounds


def features_of_kind(kind: str, n: int, n_features: int) -> torch.Tensor:
    rng = np.random.default_rng([n, n_features])
    values = rng.normal(size=(n, n_features))
    if kind == "correlated":
        values = values @ (rng.normal(size=(n_features, n_features)) * 0.8 ** np.arange(n_features))
    elif kind == "offset":
        values += 1e4
    elif kind == "scales":
        values *= 10.0 ** rng.integers(-6, 7, (n, 1))
    elif kind == "tiny":
        values *= 1e-30
    elif kind == "huge":
        values *= 1e30
    elif kind == "one sign":  # rounding errors add up
        values = np.abs(values) + 1.0
    return torch.from_numpy(values.astype("f4").astype("f8"))


@pytest.mark.parametrize(
    "kind", ["normal", "correlated", "offset", "scales", "tiny", "huge", "one sign"]
)
@pytest.mark.parametrize(("dtype", "is_split"), VECTORS)
@pytest.mark.parametrize("n_features", [1, 2, 5, 40, 176])
def test_no_product_is_above_the_limit_of_the_true_distance(
    kind: str, dtype: torch.dtype, is_split: bool, n_features: int
) -> None:
    features = features_of_kind(kind, 256, n_features)
    projection = PcaProjection.fit(features, dtype, is_split)
    assert projection is not None
    projected = projection.project(features)
    order = block_order(16, 16, CPU)
    queries = projection.query_rows(projected)
    assert queries.shape == (len(features), projection.width)
    products = projection.gallery_rows(projected, order) @ queries.T
    exact = torch.stack([(features[order] - query).square().sum(dim=1) for query in features], 1)
    for query in range(len(features)):
        # Every pair is within its own distance: a limit set by it must let the pair through.
        many = [query] * len(features)
        one = type(projected)(
            projected.leading[many], projected.rest[many], projected.sq_norms[many]
        )
        limits = round_up(projection.limits(one, exact[:, query]), dtype)
        assert (products[:, query] <= limits).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_tell_far_pairs_from_near_ones(dtype: torch.dtype) -> None:
    pyramid = smooth(0, 4)
    features = Grid(SHAPES, "bilinear", CPU).features(tensors(pyramid)).flatten(0, 1)
    projection = PcaProjection.fit(features, dtype)
    assert projection is not None
    projected = projection.project(features)
    order = torch.arange(len(features))
    products = projection.gallery_rows(projected, order) @ projection.query_rows(projected).T
    exact = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist").square()
    nearest = (exact + 1e9 * torch.eye(len(exact))).min(dim=0).values
    limits = round_up(projection.limits(projected, nearest), dtype)
    assert (products <= limits).double().mean() < 0.05


def test_split_vectors_leave_few_of_the_pairs_that_bfloat16_leaves() -> None:
    """Cells of a dark background are nearly the same, and far from the mean of all."""
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=(128, 40)), 3 + 0.1 * rng.normal(size=(128, 40))])
    features = torch.from_numpy(values)
    exact = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist").square()
    nearest = (exact + 1e9 * torch.eye(len(exact))).min(dim=0).values
    n_left = []
    for is_split in (False, True):
        projection = PcaProjection.fit(features, torch.bfloat16, is_split)
        assert projection is not None
        projected = projection.project(features)
        rows = projection.gallery_rows(projected, torch.arange(len(features)))
        products = rows @ projection.query_rows(projected).T
        limits = round_up(projection.limits(projected, nearest), torch.bfloat16)
        n_left.append(int((products <= limits).sum()))
    assert n_left[1] < n_left[0] / 10


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rounding_up_is_the_least_that_is_not_below(dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, 1.0, 1.0 + 1e-12, -1.0 - 1e-12, 1 / 3, -1 / 3, 1e30, -1e-30])
    values = values.double() + torch.tensor([0, 0, 1e-12, -1e-12, 0, 0, 0, 0]).double()
    rounded = round_up(values, dtype)
    assert (rounded.double() >= values).all()
    below = torch.nextafter(rounded, torch.full_like(rounded, -torch.inf))
    assert (below.double() < values).all()


def test_features_that_are_all_the_same_have_no_frame() -> None:
    assert PcaProjection.fit(torch.ones(10, 3, dtype=torch.float64), torch.float32) is None


# ----------------------------------------------------------------------------------- its parts


@pytest.mark.parametrize("upsample", ["bilinear", "block"])
@pytest.mark.parametrize("coarse", [(12, 16), (6, 8), (4, 4), (1, 1), (12, 1)])
def test_upsampled_features_are_those_of_the_core(upsample: str, coarse: tuple[int, int]) -> None:
    shapes = [(12, 16, 3), (*coarse, 5)]
    pyramid = smooth(1, 2, shapes)
    grid = Grid(shapes, upsample, CPU)
    features = grid.features(tensors(pyramid))
    expected = pyramid.concatenated(upsample).reshape(2, 12 * 16, 8)  # type: ignore[arg-type]
    np.testing.assert_array_equal(features.float().numpy(), expected)
    images, cells = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 191, 77, 100])
    at = grid.features_at(tensors(pyramid), images, cells)
    assert torch.equal(at, features[images, cells])


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 65, 176])
def test_sums_are_the_same_whatever_is_summed_beside_them(n: int) -> None:
    x, y = torch.randn(50, n, dtype=torch.float64), torch.randn(50, n, dtype=torch.float64)
    sums = sq_l2(x, y)
    torch.testing.assert_close(sums, (x - y).square().sum(dim=1), rtol=1e-13, atol=0)
    for start in range(0, 50, 7):
        assert torch.equal(sq_l2(x[start:], y[start:]), sums[start:])


def test_blocks_are_squares_of_cells() -> None:
    order = block_order(6, 8, CPU).view(-1, BLOCK)
    assert order[0].tolist() == [r * 8 + c for r in range(4) for c in range(4)]
    assert order[1].tolist() == [r * 8 + c for r in range(4) for c in range(4, 8)]
    assert sorted(order.flatten().tolist()) == list(range(48))
    filled_up = block_order(3, 5, CPU)
    assert len(filled_up) == BLOCK
    assert sorted(filled_up.tolist()) == [-1, *range(15)]


def test_candidates_come_by_query_and_nearness() -> None:
    queries = torch.tensor([1, 0, 1, 1, 0])
    values = torch.tensor([3.0, 5.0, 1.0, 1.0, 2.0])
    order, ranks = in_order(3, queries, values)
    assert order.tolist() == [4, 1, 2, 3, 0]
    assert ranks.tolist() == [0, 1, 0, 1, 2]
    found, nearest = nearest_per_query(3, 2, queries, values)
    assert found.tolist() == [[2.0, 5.0], [1.0, 1.0], [np.inf, np.inf]]
    assert nearest[:2].tolist() == [[4, 1], [2, 3]]


@pytest.mark.parametrize("k", [1, 3])
def test_limits_are_lowered_by_what_is_found(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from knnspect.backends.torch import filter as filtering

    rng = torch.Generator().manual_seed(0)
    rows = [torch.rand(64, 5, generator=rng) for _ in range(8)]
    queries = torch.rand(20, 5, generator=rng)
    products = torch.cat([image @ queries.T for image in rows])
    kth = products.sort(dim=0).values[k - 1]
    told: list[int] = []

    def tighten(found: Pairs) -> torch.Tensor:
        told.append(len(found))
        first = found.smallest(k, 20)
        limits, _ = nearest_per_query(20, k, first.queries, first.products)
        return limits[:, -1].double()

    monkeypatch.setattr(filtering, "MANY", 10)
    monkeypatch.setattr(filtering, "PRODUCTS_ON_CPU", 64 * 20)
    everything = torch.full((20,), torch.inf, dtype=torch.float64)
    found = candidates(rows, queries, everything, tighten)
    assert found is not None
    assert len(told) > 1
    assert len(found) == 20 * k
    assert (found.products <= kth[found.queries]).all()
    monkeypatch.setattr(filtering, "MOST", 1)
    no_help = torch.full((20,), torch.inf, dtype=torch.float64)
    assert candidates(rows, queries, everything, lambda _: no_help) is None


def test_seeds_are_cells_that_are_there() -> None:
    order = block_order(3, 3, CPU)
    features = torch.randn(18, 4, dtype=torch.float64)
    projection = PcaProjection.fit(features, torch.float32)
    assert projection is not None
    projected = projection.project(features)
    rows = [
        projection.gallery_rows(projection.project(part), order)
        for part in torch.split(features, 9)
    ]
    found = seeds(rows, order, projection.query_rows(projected), 4)
    assert found is not None
    images, at = found
    assert (order[at] >= 0).all()
    places = images * 9 + order[at]
    assert all(len(set(row)) == 4 for row in places.tolist())
    assert seeds(rows, order, projection.query_rows(projected), 18) is not None
    assert seeds(rows, order, projection.query_rows(projected), 19) is None


# ---------------------------------------------------------------------------------- the backend


def test_what_it_says_of_itself() -> None:
    backend = TorchBackend("cpu", dtype="float32")
    assert backend.name == "torch"
    assert backend.capabilities.devices == ("cpu",)
    assert backend.capabilities.dtypes == ("float32",)
    assert backend.capabilities.is_exact
    assert get_backend("torch:cpu") is get_backend("torch:cpu")


@pytest.mark.parametrize("device", ["gpu", "meta", "mps", "cpu:x", "cuda:x"])
def test_another_device_is_an_error(device: str) -> None:
    with pytest.raises(ParameterError, match="expected device cpu, cuda or cuda:N"):
        TorchBackend(device)
    with pytest.raises(ParameterError, match="expected device"):
        get_backend(f"torch:{device}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_named() -> None:
    with pytest.raises(BackendUnavailable, match=r"'torch': cuda:1 was asked for.*no CUDA device"):
        TorchBackend("cuda:1")


def test_other_types_are_an_error() -> None:
    with pytest.raises(ParameterError, match="expected 'bfloat16' or 'float32', got 'float16'"):
        TorchBackend("cpu", dtype="float16")


def test_it_searches_itself_where_features_have_structure() -> None:
    gallery, query = filled(), smooth(9, 2)
    for dtype in ("bfloat16", "float32"):
        found = gallery.search(query, 3, backend=TorchBackend("cpu", dtype=dtype))
        assert_same(found, gallery.search(query, 3))
        assert found.stats is not None
        assert found.stats.pairs == 2 * 192 * 6 * 192
        assert found.stats.shares["core"] == 0
        assert 0 < found.stats.shares["float64"] < 0.1


def test_the_core_does_what_it_cannot() -> None:
    backend = TorchBackend("cpu")
    gallery, query = filled(), smooth(9, 1)
    of_many = gallery.search(query, 65, backend=backend)
    assert of_many.stats is not None
    assert of_many.stats.shares["core"] == 1
    assert_same(of_many, gallery.search(query, 65))
    even = Gallery()
    even.add(FeaturePyramid([np.ones((30, 32, 32, 4), "f4")]))
    one_off = np.ones((1, 32, 32, 4), "f4")
    one_off[0, 0, 0] = 2
    even.add(FeaturePyramid([one_off]), ["one off"])
    found = even.search(FeaturePyramid([one_off]), backend=backend)
    assert found.stats is not None
    assert found.stats.shares["core"] == 1, "ties without end"
    assert_same(found, even.search(FeaturePyramid([one_off])))


def test_tensors_stay_tensors() -> None:
    backend = TorchBackend("cpu")
    gallery, query = filled(), smooth(9, 2)
    found = backend.search_tensors(
        gallery.prepare(FeaturePyramid(tensors(query)), 3, [["1", "4"], ["0"]])
    )
    expected = gallery.search(query, 3, [["1", "4"], ["0"]])
    assert found.image_ids == expected.image_ids
    assert torch.equal(found.sq_distances, torch.from_numpy(expected.sq_distances))
    assert found.image_index.tolist() == expected.image_index.tolist()
    assert found.cells.tolist() == expected.cells.tolist()


def test_what_is_wrong_with_tensors_is_said() -> None:
    gallery, good = filled(), tensors(smooth(9, 2))
    with pytest.raises(ShapeError, match="at least one level, got none"):
        gallery.prepare(FeaturePyramid([]))
    with pytest.raises(ShapeError, match="12x16x8"):
        gallery.prepare(FeaturePyramid(good[:2]))
    with pytest.raises(ShapeError, match=r"levels\[1\] has 1 images, the finer levels have 2"):
        gallery.prepare(FeaturePyramid([good[0], good[1][:1], good[2]]))
    with pytest.raises(DTypeError, match=r"levels\[0\]: .*torch\.int64"):
        gallery.prepare(FeaturePyramid([level.long() for level in good]))
    with pytest.raises(DTypeError, match=r"query: expected a FeaturePyramid, got list"):
        gallery.prepare(good)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="nobody"):
        gallery.prepare(FeaturePyramid(good), images=[["nobody"]])
    good[1][1, 0, 0, 0] = torch.nan
    with pytest.raises(ImageError, match="query image 1, level 1"):
        gallery.prepare(FeaturePyramid(good))


def test_tensors_are_searched_where_they_are() -> None:
    gallery, levels = filled(), tensors(smooth(9, 2))
    found = gallery.search(FeaturePyramid(levels), 3, backend=TorchBackend("cpu"))
    assert_same(found, gallery.search(smooth(9, 2), 3))
    with torch.inference_mode():
        of_a_network = [level.clone() for level in levels]
    assert_same(found, gallery.search(FeaturePyramid(of_a_network), 3, backend=TorchBackend("cpu")))
    for level in levels:
        level.requires_grad_()
    assert_same(found, gallery.search(FeaturePyramid(levels), 3, backend=TorchBackend("cpu")))
    frozen = smooth(9, 2)
    for array in frozen.levels:
        array.flags.writeable = False
    assert_same(found, gallery.search(frozen, 3, backend=TorchBackend("cpu")))


def test_a_gallery_without_some_images_is_searched_by_what_is_kept_of_it() -> None:
    backend, gallery, query = TorchBackend("cpu"), filled(), smooth(9, 1)
    gallery.search(query, backend=backend)
    cache = kept(backend, gallery)
    found = gallery.without(["0", "3"]).search(query, 2, backend=backend)
    assert_same(found, gallery.search(query, 2, ["1", "2", "4", "5"]))
    assert (len(backend._caches), len(cache)) == (1, 6)


@pytest.mark.parametrize("setting", ["highest", "high", "medium"])
def test_what_products_may_be_rounded_to_is_put_back(setting: str) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        settings = [
            torch.backends.cuda.matmul.fp32_precision,
            torch.backends.mkldnn.matmul.fp32_precision,  # type: ignore[attr-defined]
        ]
        gallery, query = filled(), smooth(9, 1)
        backend = TorchBackend("cpu", dtype="float32")
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: gallery.search(query, backend=backend), range(12)))
        assert settings == [
            torch.backends.cuda.matmul.fp32_precision,
            torch.backends.mkldnn.matmul.fp32_precision,  # type: ignore[attr-defined]
        ]
        assert torch.get_float32_matmul_precision() == setting
    finally:
        torch.set_float32_matmul_precision(before)
    for one in found:
        assert_same(one, gallery.search(query))


def test_the_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    filled().search(smooth(9, 1), threads=before + 1, backend=TorchBackend("cpu"))
    assert torch.get_num_threads() == before


# ------------------------------------------------------------------------------- what is kept


class Rescoring(TorchBackend):
    """As on another device than the CPU."""

    _rescores_on_device = True


def kept(backend: TorchBackend, gallery: Gallery) -> GalleryCache:
    return backend._caches[gallery.prepare(smooth(9, 1)).source]


def test_images_are_made_ready_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make = GalleryCache._make

    def counted(self: GalleryCache, search: object, image: int, ranks: list[int]) -> object:
        made.append(len(ranks))
        return make(self, search, image, ranks)  # type: ignore[arg-type]

    monkeypatch.setattr(GalleryCache, "_make", counted)
    backend, gallery, query = TorchBackend("cpu"), filled(), smooth(9, 1)
    gallery.search(query, images=["0", "3"], backend=backend)
    assert sum(made) == 2
    gallery.search(query, backend=backend)
    assert sum(made) == 6
    gallery.search(query, backend=backend)
    assert sum(made) == 6
    gallery.replace(smooth(5, 1), ["3"])
    found = gallery.search(query, backend=backend)
    assert sum(made) == 7
    assert_same(found, gallery.search(query))


def test_images_that_are_gone_are_not_kept() -> None:
    backend, gallery, query = TorchBackend("cpu"), filled(), smooth(9, 1)
    gallery.search(query, backend=backend)
    assert len(kept(backend, gallery)) == 6
    gallery.remove(["0", "1"])
    gallery.search(query, backend=backend)
    assert len(kept(backend, gallery)) == 4
    del gallery
    gc.collect()
    assert len(backend._caches) == 0


@pytest.mark.parametrize("k", [1, 3, 40])
def test_images_that_do_not_fit_are_searched_one_group_after_the_other(k: int) -> None:
    gallery, query = filled(20), smooth(9, 1)
    whole = TorchBackend("cpu")
    expected = gallery.search(query, k, backend=whole)
    assert_same(expected, gallery.search(query, k))
    limit = kept(whole, gallery).nbytes // 4
    backend = TorchBackend("cpu", max_memory=limit)
    for _ in range(2):
        found = gallery.search(query, k, backend=backend)
        assert_same(found, expected)
        assert found.stats is not None
        assert found.stats.shares["core"] == 0
        assert 0 < kept(backend, gallery).nbytes <= limit
        assert kept(backend, gallery).images_at_once == 5
    of_little = TorchBackend("cpu", max_memory=1)
    assert_same(gallery.search(query, k, backend=of_little), expected)
    rescoring = Rescoring("cpu", max_memory=limit)
    assert_same(gallery.search(query, k, backend=rescoring), expected)


def test_an_image_beyond_the_frame_is_left_to_the_core() -> None:
    backend, gallery, query = TorchBackend("cpu"), filled(), smooth(9, 1)
    gallery.search(query, backend=backend)
    far = FeaturePyramid([level * np.float32(1e12) for level in smooth(3, 1).levels])
    gallery.add(far, ["far"])
    found = gallery.search(query, backend=backend)
    assert found.stats is not None
    assert found.stats.shares["core"] == 1
    assert_same(found, gallery.search(query))
    without = gallery.search(query, images=["0", "1"], backend=backend)
    assert without.stats is not None
    assert without.stats.shares["core"] == 0
