"""Every backend with pytest-benchmark, on what ``knnspect bench`` measures.

pytest benches/python/test_bench_backends.py
"""

from __future__ import annotations

import pytest
from common import features_of
from pytest_benchmark.fixture import BenchmarkFixture

import knnspect as ks
from knnspect.backends import available_backends, get_backend
from knnspect.bench import Case, SearchCase, check_agreement, synthetic_case


def elpv_case() -> SearchCase:
    train, test = features_of(None, 2)
    gallery = ks.Gallery()
    gallery.add(train.pyramid, train.ids)
    return SearchCase(gallery, test.pyramid, ids=test.ids, description="elpv")


@pytest.fixture(scope="module", params=["synthetic", "elpv"])
def case(request: pytest.FixtureRequest) -> Case:
    return synthetic_case(n_queries=2) if request.param == "synthetic" else elpv_case()


@pytest.mark.parametrize("backend", available_backends())
def test_search(benchmark: BenchmarkFixture, case: Case, backend: str) -> None:
    found = case.search(0, backend, None)  # cold
    if get_backend(backend).capabilities.is_exact:
        check_agreement(case, 0, backend, found, case.search(0, "rust", None))
    seconds = benchmark.pedantic(  # type: ignore[no-untyped-call]
        case.run, args=([0], backend, None), rounds=5
    )
    assert seconds["total"] > 0
