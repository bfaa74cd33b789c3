"""The contract of exactness, for every backend and for every instruction set of the Rust core."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knnspect import FeaturePyramid, Gallery
from knnspect._core import instruction_sets
from knnspect.backends import (
    Backend,
    RustBackend,
    available_backends,
    get_backend,
    unavailable_backends,
)
from knnspect.testing import Check, backend_checks
from knnspect.testing.drawing import cases, ks
from knnspect.testing.expectations import expect_identical


def variants(name: str) -> dict[str, Backend]:
    """Every way in which a backend searches here."""
    if name == "rust":
        ways: list[dict[str, Any]] = [{"instruction_set": each} for each in instruction_sets()]
        ways += [{"matcher": matcher} for matcher in ("exhaustive", "pruned")]
        return {f"rust-{next(iter(way.values()))}": RustBackend(**way) for way in ways}
    if name == "torch":
        return torch_variants()
    return {name: get_backend(name)}


def torch_variants() -> dict[str, Backend]:
    """On the CPU, in both types; and with candidates rescored by PyTorch, as on other devices."""
    from knnspect.backends.torch import TorchBackend

    class Rescoring(TorchBackend):
        _rescores_on_device = True

    backends: dict[str, Backend] = {
        f"torch-{dtype}": TorchBackend("cpu", dtype=dtype) for dtype in ("bfloat16", "float32")
    }
    return backends | {"torch-rescoring": Rescoring("cpu")}


BACKENDS = {
    variant: backend for name in available_backends() for variant, backend in variants(name).items()
}
#: Backends that cannot run here are tests that are skipped, and say why.
MISSING = {
    name: pytest.mark.skip(reason=problem) for name, problem in unavailable_backends().items()
}


def every_check() -> Iterator[Any]:
    """Every check of every backend; check by check, so that backends share what is expected."""
    for check in backend_checks():
        for name, backend in BACKENDS.items():
            yield pytest.param(check, backend, id=f"{check}-{name}")
        for name, skip in MISSING.items():
            yield pytest.param(check, None, id=f"{check}-{name}", marks=skip)


@pytest.mark.parametrize(("check", "backend"), list(every_check()))
def test_every_backend(check: Check[Backend], backend: Backend) -> None:
    check(backend)


def by_every_instruction_set(gallery: Gallery, query: FeaturePyramid, k: int = 1) -> None:
    """Search with every instruction set and matcher; all must find the same to the bit."""
    found = [
        gallery.search(
            query, k, backend=RustBackend(instruction_set=instruction_set, matcher=matcher)
        )
        for instruction_set in instruction_sets()
        for matcher in ("exhaustive", "pruned")
    ]
    for one, other in pairwise(found):
        expect_identical("another instruction set or matcher", other, one)


@given(data=st.data())
@settings(max_examples=200)
def test_instruction_sets_change_no_bit(data: st.DataObject) -> None:
    case = data.draw(cases())
    by_every_instruction_set(case.gallery(), case.query, data.draw(ks(case), label="k"))


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
    by_every_instruction_set(gallery, FeaturePyramid(query))


SEARCH_FOR_MINUTES = """
import signal, sys
import numpy as np
import knnspect as ks
from knnspect.backends import get_backend

signal.signal(signal.SIGINT, signal.default_int_handler)
backend, rng = get_backend(sys.argv[1]), np.random.default_rng(0)
for shapes in [(112, 112, 256)], [(112, 112, 64), (28, 28, 256)]:
    gallery = ks.Gallery()
    gallery.add(ks.FeaturePyramid([rng.random((4, *shape), dtype="f4") for shape in shapes]))
    query = ks.FeaturePyramid([rng.random((16, *shape), dtype="f4") for shape in shapes])
    print("searching", flush=True)
    try:
        gallery.search(query, threads=2, backend=backend)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        gallery.remove(gallery.ids)  # still in working order
        if len(shapes) == 2:
            raise
    else:
        print("finished", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    "name",
    [*available_backends(), *(pytest.param(name, marks=skip) for name, skip in MISSING.items())],
)
def test_ctrl_c_ends_a_process_that_searches(name: str) -> None:
    word = "torch:cpu" if name == "torch" else name
    child = subprocess.Popen(
        [sys.executable, "-c", SEARCH_FOR_MINUTES, word],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        for _ in range(2):
            assert child.stdout.readline() == "searching\n"
            time.sleep(0.5)
            assert child.poll() is None, "the search was over too soon to be interrupted"
            start = time.perf_counter()
            child.send_signal(signal.SIGINT)
            assert child.stdout.readline() == "interrupted\n"
            assert time.perf_counter() - start < 5
        out, err = child.communicate(timeout=60)
        seconds = time.perf_counter() - start
    finally:
        child.kill()
        child.communicate()
    assert out == ""
    assert err.rstrip().endswith("KeyboardInterrupt"), err
    assert child.returncode != 0
    assert seconds < 5, seconds
