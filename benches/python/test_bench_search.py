"""The public path with pytest-benchmark, to notice when it becomes slower.

pytest benches/python --benchmark-autosave
pytest benches/python --benchmark-compare
"""

from __future__ import annotations

import numpy as np
import pytest
from common import concatenated
from pytest_benchmark.fixture import BenchmarkFixture

import knnspect as ks
from knnspect.backends import RustBackend
from knnspect.data import elpv_split


@pytest.fixture(scope="module")
def spade() -> ks.Spade:
    return ks.Spade(ks.Backbone(), image_neighbors=50).fit(elpv_split(n_train=50).train)


@pytest.fixture(scope="module")
def features(spade: ks.Spade) -> ks.Features:
    return spade.backbone.extract(elpv_split().defective[:1])


def rows_of(pyramid: ks.FeaturePyramid) -> ks.FeaturePyramid:
    rows = concatenated(pyramid, "bilinear")
    height, width, _ = pyramid.shapes[0]
    return ks.FeaturePyramid([rows.reshape(pyramid.n_images, height, width, -1)])


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("upsample", ["bilinear", "block"])
def test_search(
    benchmark: BenchmarkFixture, spade: ks.Spade, features: ks.Features, upsample: str, k: int
) -> None:
    gallery = ks.Gallery(upsample=upsample)
    gallery.add(spade.gallery_.pyramid())
    neighbors = benchmark.pedantic(  # type: ignore[no-untyped-call]
        gallery.search, args=(features.pyramid, k), rounds=5, warmup_rounds=1
    )
    alone = gallery.search(
        features.pyramid, k, threads=1, backend=RustBackend(matcher="exhaustive")
    )
    np.testing.assert_array_equal(neighbors.sq_distances, alone.sq_distances)


def test_search_of_one_level(
    benchmark: BenchmarkFixture, spade: ks.Spade, features: ks.Features
) -> None:
    gallery = ks.Gallery()
    gallery.add(rows_of(spade.gallery_.pyramid()[:5]))
    query = rows_of(features.pyramid)
    neighbors = benchmark.pedantic(  # type: ignore[no-untyped-call]
        gallery.search, args=(query,), rounds=5, warmup_rounds=1
    )
    exhaustive = gallery.search(query, backend=RustBackend(matcher="exhaustive"))
    np.testing.assert_array_equal(neighbors.sq_distances, exhaustive.sq_distances)


def test_predict(benchmark: BenchmarkFixture, spade: ks.Spade) -> None:
    image = elpv_split().defective[:1]
    (prediction,) = benchmark.pedantic(  # type: ignore[no-untyped-call]
        spade.predict, args=(image,), rounds=5, warmup_rounds=1
    )
    assert prediction.score > 0
