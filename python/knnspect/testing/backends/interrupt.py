"""Ctrl-C ends a search that would take minutes, and leaves everything in working order."""

from __future__ import annotations

import signal
import sys
import threading
import time
from functools import lru_cache
from types import FrameType
from unittest import SkipTest

import numpy as np

from knnspect.gallery import Gallery
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Backend
from knnspect.testing.cases import NESTED, Shapes, random_pyramid, shared_oracle
from knnspect.testing.checks import Checks
from knnspect.testing.expectations import expect
from knnspect.testing.oracle import assert_same_neighbors

__all__ = ["CHECKS"]

CHECKS: Checks[Backend] = Checks()
#: Seconds after which a search is interrupted, and within which it has to end.
_AFTER, _WITHIN = 0.5, 5


@lru_cache(1)
def _features(shapes: Shapes) -> tuple[FeaturePyramid, FeaturePyramid]:
    """Return a query and normal images that take minutes to compare."""
    rng = np.random.default_rng(0)
    query, normal = (
        FeaturePyramid([rng.random((n, *shape), dtype="f4") for shape in shapes]) for n in (16, 4)
    )
    return query, normal


class _CtrlC:
    """Sends SIGINT to this process after a while; what is running raises a KeyboardInterrupt."""

    def __enter__(self) -> _CtrlC:
        self.sent: float | None = None
        self.used = 0.0
        self._handler = signal.signal(signal.SIGINT, self._interrupt)
        self._timer = threading.Timer(_AFTER, self._send)
        self._timer.start()
        return self

    def _send(self) -> None:
        self.sent, self.used = time.perf_counter(), time.process_time()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        try:
            self._timer.cancel()
            self._timer.join()
        finally:
            signal.signal(signal.SIGINT, self._handler or signal.SIG_DFL)


@CHECKS.add(n_levels=[1, 2])
def ctrl_c_ends_a_search(backend: Backend, n_levels: int) -> None:
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        raise SkipTest("signals need POSIX and the main thread")
    shapes: Shapes = ((112, 112, 256),) if n_levels == 1 else ((112, 112, 64), (28, 28, 256))
    query, normal = _features(shapes)
    gallery = Gallery()
    gallery.add(normal)
    is_interrupted = False
    try:
        with _CtrlC() as ctrl_c:
            gallery.search(query, threads=2, backend=backend)
    except KeyboardInterrupt:
        is_interrupted = True
    expect(ctrl_c.sent is not None, f"the search was over in less than {_AFTER} s")
    expect(is_interrupted, "the search went on after Ctrl-C: expected a KeyboardInterrupt")
    seconds = time.perf_counter() - (ctrl_c.sent or 0)
    used = time.process_time() - ctrl_c.used
    # On a busy machine a search also waits for its turn.
    expect(
        seconds < _WITHIN or (used < _WITHIN and seconds < 4 * _WITHIN),
        f"Ctrl-C: expected less than {_WITHIN} s, it took {seconds:.1f} s, {used:.1f} s of the CPU",
    )
    expect(_is_idle_soon(), "Ctrl-C: the search goes on in the background")
    gallery.remove(gallery.ids)

    query, normal = random_pyramid(0, 1, NESTED), random_pyramid(1, 2, NESTED)
    gallery = Gallery()
    gallery.add(normal, ["a", "b"])
    found = gallery.search(query, backend=backend)
    oracle = shared_oracle(query.levels, normal.levels, ["a", "b"], "bilinear")
    assert_same_neighbors(found, oracle)


def _is_idle_soon() -> bool:
    """Return whether the process comes to use less than a tenth of a core."""
    deadline = time.perf_counter() + _WITHIN
    while time.perf_counter() < deadline:
        start, used = time.perf_counter(), time.process_time()
        time.sleep(0.2)
        if time.process_time() - used < 0.1 * (time.perf_counter() - start):
            return True
    return False
