"""Checks of backends find what is wrong with one, say so, and tell what they could not try."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import SkipTest

import numpy as np
import pytest
from hypothesis import Phase, settings
from numpy.typing import NDArray

from knnspect.backends import RustBackend
from knnspect.search import Backend, Capabilities, Neighbors, Search
from knnspect.testing import Check, ContractError, backend_checks, check_backend
from knnspect.testing.backends import interrupt
from knnspect.testing.checks import Checks, needed, run_checks

#: Checks of large features.
SLOW = ("ctrl_c", "real_features")


class Plain:
    """Compares all pairs in float64: right, where no rounding has a say."""

    name = "plain"
    capabilities = Capabilities("rows", devices=("cpu",), dtypes=("float32",))

    def search(self, search: Search) -> Neighbors:
        queries = search.query.concatenated(search.upsample).astype(np.float64)  # type: ignore[arg-type]
        found = [
            self.of_image(search, image, queries[image].reshape(-1, queries.shape[-1]))
            for image in range(len(queries))
        ]
        sq_distances, ranks, cells = (np.concatenate(part) for part in zip(*found, strict=True))
        return search.found(sq_distances, ranks, cells)

    def of_image(
        self, search: Search, image: int, query: NDArray[np.float64]
    ) -> tuple[NDArray[Any], ...]:
        rows = self.rows(search, image)
        places = rows.reshape(-1, rows.shape[-1])
        sq_distances = np.stack([np.square(places - cell).sum(axis=-1) for cell in query])
        order = self.order(sq_distances, search.k)
        ranks, cells = np.divmod(order, rows.shape[1])
        return (
            self.distances(np.take_along_axis(sq_distances, order, axis=1)),
            search.ranks(image)[ranks],
            cells,
        )

    def rows(self, search: Search, image: int) -> NDArray[np.float32]:
        return search.rows(image)

    def order(self, sq_distances: NDArray[np.float64], k: int) -> NDArray[np.int64]:
        return sq_distances.argsort(axis=1, kind="stable")[:, :k]

    def distances(self, sq_distances: NDArray[np.float64]) -> NDArray[np.float64]:
        return sq_distances


class SecondNearest(Plain):
    def order(self, sq_distances: NDArray[np.float64], k: int) -> NDArray[np.int64]:
        order = sq_distances.argsort(axis=1, kind="stable")
        return order[:, 1 : k + 1] if k < order.shape[1] else order


class LastTieFirst(Plain):
    def order(self, sq_distances: NDArray[np.float64], k: int) -> NDArray[np.int64]:
        backwards = sq_distances[:, ::-1].argsort(axis=1, kind="stable")[:, :k]
        return np.asarray(sq_distances.shape[1] - 1 - backwards)


class NotSquared(Plain):
    def distances(self, sq_distances: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.sqrt(sq_distances)


class RootOfCore(RustBackend):
    """The core, whose distances are not squared."""

    def search(self, search: Search) -> Neighbors:
        found = super().search(search)
        return replace(found, sq_distances=np.sqrt(found.sq_distances))


class OfSingleRows(Plain):
    """Takes distances from float32 products, as fast searches do, and leaves them so."""

    def of_image(
        self, search: Search, image: int, query: NDArray[np.float64]
    ) -> tuple[NDArray[Any], ...]:
        rows = self.rows(search, image)
        places, singles = rows.reshape(-1, rows.shape[-1]), query.astype("f4")
        with np.errstate(all="ignore"):
            products = 2 * singles @ places.T
            sq_distances = np.square(singles).sum(1)[:, None] - products + np.square(places).sum(1)
        order = self.order(sq_distances.astype("f8"), search.k)
        ranks, cells = np.divmod(order, rows.shape[1])
        return np.take_along_axis(sq_distances, order, 1), search.ranks(image)[ranks], cells


class KeepsTheFirst(Plain):
    """Keeps the rows of a gallery, and takes them for those of every later search of it."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[object, NDArray[np.float32]]] = {}

    def rows(self, search: Search, image: int) -> NDArray[np.float32]:
        rows = search.rows(image)
        source, kept = self.kept.setdefault(id(search.source), (search.source, rows))
        assert source is search.source
        return kept if kept.shape == rows.shape else rows


class DependsOnThreads(RustBackend):
    def search(self, search: Search) -> Neighbors:
        found = super().search(search)
        if search.threads != 3:
            return found
        return replace(found, sq_distances=np.nextafter(found.sq_distances, np.float32(np.inf)))


class NotAtOnce(RustBackend):
    """Leaves the query where other threads find it."""

    last: Search

    def search(self, search: Search) -> Neighbors:
        self.last = search
        time.sleep(0.001)
        return super().search(self.last)


def checks_named(name: str) -> list[Check[Backend]]:
    found = [check for check in backend_checks(n_cases=8) if check.name.startswith(name)]
    assert found
    return found


def failures(backend: Backend, name: str) -> str:
    """What the checks of a name say of a backend."""
    with pytest.raises(ContractError) as raised:
        run_checks(f"backend {backend.name!r}", backend, checks_named(name))
    assert raised.value.failures
    return str(raised.value)


@pytest.mark.parametrize(
    ("backend", "check", "problem"),
    [
        (SecondNearest(), "each_query_image_has", "places: .* got image .* expected image"),
        (SecondNearest(), "ties_go_to", "Mismatched"),
        (LastTieFirst(), "ties_go_to", "Mismatched"),
        (LastTieFirst(), "a_constant_region_is_one_tie", "the lowest of images that are the same"),
        (LastTieFirst(), "repeated_content_is_a_tie", "column .*: expected one before"),
        (NotSquared(), "each_query_image_has", "distances: .* got image .* expected image"),
        (OfSingleRows(), "no_scale_is_too_small", "distances: .* got image .* expected image"),
        (KeepsTheFirst(), "what_is_kept_of_one_search", "query image 0, cell"),
        (NotAtOnce(), "threads_that_search_one_gallery", "image_ids: expected"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, (Plain, RustBackend)) else None,
)
def test_a_wrong_backend_is_caught(backend: Backend, check: str, problem: str) -> None:
    message = failures(backend, check)
    assert message.startswith(f"backend '{backend.name}': ")
    assert f"checks failed\n\n{check}" in message
    assert re.search(problem, message), message


@pytest.fixture
def without_shrinking() -> Iterator[None]:
    """Hypothesis stops at the first case that fails, as making it small takes long."""
    before = settings()
    settings.register_profile("no shrinking", before, phases=[Phase.generate], database=None)
    settings.load_profile("no shrinking")
    yield
    settings.register_profile("knnspect", before)
    settings.load_profile("knnspect")


@pytest.mark.usefixtures("without_shrinking")
@pytest.mark.parametrize(
    ("backend", "check", "problem"),
    [
        (RootOfCore(), "finds_the_true_neighbors", "(places|ties|distances): .* wrong"),
        (DependsOnThreads(), "threads_batches_order", "with 3 threads: bits of sq_distances"),
    ],
    ids=["RootOfCore", "DependsOnThreads"],
)
def test_random_cases_catch_it_and_are_shown(backend: Backend, check: str, problem: str) -> None:
    message = failures(backend, check)
    assert re.search(problem, message), message
    assert "Case(shapes=" in message


@pytest.mark.parametrize(
    "check",
    ["ties_go_to", "a_constant_region_is_one_tie", "what_is_kept_of_one_search", "negative_zeros"],
)
def test_one_that_is_not_wrong_passes_the_same(check: str) -> None:
    checks = checks_named(check)
    assert run_checks("plain", Plain(), checks).passed == [each.name for each in checks]


@pytest.mark.usefixtures("without_shrinking")
def test_all_checks_run_whichever_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = [check for check in backend_checks() if not check.name.startswith(SLOW)]
    monkeypatch.setattr("knnspect.testing.backends._ALL", quick)
    with pytest.raises(ContractError) as raised:
        check_backend(RootOfCore(), n_cases=1)
    failed = raised.value.failures
    assert "ties_go_to_the_lowest_image_row_and_column" not in failed, "their distances are 1"
    assert any(name.startswith("no_scale_is_too_small") for name in failed)
    assert any(name.startswith("what_is_kept_of_one_search") for name in failed)


class Deaf(RustBackend):
    """Searches for more than two seconds, whatever is pressed."""

    def search(self, search: Search) -> Neighbors:
        end = time.perf_counter() + 2.5
        while time.perf_counter() < end:
            try:
                time.sleep(0.01)
            except KeyboardInterrupt:  # noqa: PERF203
                continue
        return self.answer(search)

    def answer(self, search: Search) -> Neighbors:
        height, width, _ = search.query.shapes[0]
        nothing = np.zeros(len(search.query.levels[0]) * height * width * search.k)
        return search.found(nothing, nothing.astype(int), nothing.astype(int))


class DeafAndLate(Deaf):
    def answer(self, search: Search) -> Neighbors:
        raise KeyboardInterrupt


class GoesOn(RustBackend):
    """Ends when it is told to, and leaves a thread that does not."""

    def search(self, search: Search) -> Neighbors:
        end = time.perf_counter() + 1.5
        busy = threading.Thread(target=self.work, args=[end])
        busy.start()
        time.sleep(5)
        return super().search(search)

    @staticmethod
    def work(end: float) -> None:
        while time.perf_counter() < end:
            sum(range(1000))


@pytest.mark.parametrize(
    ("backend", "problem"),
    [
        (Deaf(), "the search went on after Ctrl-C: expected a KeyboardInterrupt"),
        (DeafAndLate(), "Ctrl-C: expected less than 0.5 s, it took 2"),
        (GoesOn(), "the search goes on in the background"),
    ],
    ids=["Deaf", "DeafAndLate", "GoesOn"],
)
def test_a_search_that_does_not_end_is_caught(
    backend: Backend, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupt, "_AFTER", 0.1)
    monkeypatch.setattr(interrupt, "_WITHIN", 0.5)
    handler = signal.getsignal(signal.SIGINT)
    assert problem in failures(backend, "ctrl_c_ends_a_search(n_levels=1)")
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_search_that_is_over_too_soon_says_nothing_of_ctrl_c() -> None:
    class Quick(Deaf):
        def search(self, search: Search) -> Neighbors:
            return self.answer(search)

    assert "over in less than 0.5 s" in failures(Quick(), "ctrl_c_ends_a_search(n_levels=1)")


def test_what_cannot_be_tried_is_said_once() -> None:
    checks: Checks[Backend] = Checks()

    @checks.add(number=[1, 2])
    def needs_an_abacus(backend: Backend, number: int) -> None:
        needed("abacus_of_bamboo", "to count", "abacus")

    @checks.add()
    def needs_nothing(backend: Backend) -> None:
        pass

    with pytest.warns(UserWarning, match="2 of 3 checks were skipped: pip install abacus, to cou"):
        results = run_checks("backend 'plain'", Plain(), list(checks))
    assert results.passed == ["needs_nothing"]
    assert list(results.skipped) == ["needs_an_abacus(number=1)", "needs_an_abacus(number=2)"]
    assert repr(results) == "Results(1 passed, 2 skipped)"
    with pytest.raises(SkipTest, match="pip install abacus"):
        next(iter(checks))(Plain())


def test_an_error_of_the_backend_is_a_failure_with_its_kind() -> None:
    class Broken(Plain):
        def search(self, search: Search) -> Neighbors:
            raise RuntimeError("out of beads")

    assert "RuntimeError: out of beads" in failures(Broken(), "negative_zeros")
    assert "expected a ParameterError" not in failures(Broken(), "more_neighbors")


def test_checks_of_backends_need_numpy_alone() -> None:
    code = (
        "import sys\n"
        "from knnspect.testing import backend_checks\n"
        "from knnspect.backends import get_backend\n"
        "names = ('negative_zeros', 'each_query_image', 'what_is_kept')\n"
        "for check in backend_checks():\n"
        "    if check.name.startswith(names):\n"
        "        check(get_backend('rust'))\n"
        "heavy = ('torch', 'timm', 'PIL', 'scipy', 'sklearn', 'rich', 'hypothesis', 'pytest')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
