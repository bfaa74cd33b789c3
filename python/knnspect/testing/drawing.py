"""Random cases, drawn by hypothesis: it makes a case that fails as small as it can.

All checks that draw in one process draw the same cases, unless one fails: so these, and what the
oracle knows of them, are made once for all backends.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from knnspect.testing.cases import KINDS, WIDE, Case, Shapes

__all__ = ["cases", "for_drawn_cases", "ks", "shapes_of_levels"]

#: Another one in each process.
_SEED = random.SystemRandom().getrandbits(64)


def for_drawn_cases(function: Callable[[st.DataObject], None], n_cases: int) -> None:
    """Call a function with so many sources of random values; raise for the smallest that fails."""

    @settings(
        max_examples=n_cases,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(data=st.data())
    def try_all(data: st.DataObject) -> None:
        function(data)

    # With `derandomize`, hypothesis draws the same cases in each process.
    (try_all if settings().derandomize else seed(_SEED)(try_all))()


@st.composite
def shapes_of_levels(draw: st.DrawFn) -> Shapes:
    """Draw the shapes of one to three levels, each of which divides the one before."""
    n_levels = draw(st.integers(1, 3))
    channels = st.one_of(st.just(1), st.integers(1, 67))
    side = st.integers(1, 13 if n_levels == 1 else 4)
    height, width = draw(side), draw(side)
    shapes = [(height, width, draw(channels))]
    for _ in range(n_levels - 1):
        height *= draw(st.sampled_from([r for r in (2, 1, 3, 4) if height * r <= 12]))
        width *= draw(st.sampled_from([r for r in (2, 1, 3, 4) if width * r <= 12]))
        shapes.insert(0, (height, width, draw(channels)))
    return tuple(shapes)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a case."""
    shapes = draw(shapes_of_levels())
    kind = draw(st.sampled_from(KINDS))
    dtype = draw(st.sampled_from(["float32", "float16"]))
    stored = draw(st.sampled_from(["float32", "float16", "int8"]))
    if stored == "float16" and kind in WIDE:
        stored = dtype
    upsample = draw(st.sampled_from(["bilinear", "block"]))
    n_normal, n_queries = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    number, is_stored = draw(st.integers(0, 2**32)), draw(st.booleans())
    return Case(shapes, kind, dtype, stored, upsample, n_normal, n_queries, number, is_stored)


def ks(case: Case) -> st.SearchStrategy[int]:
    """Draw a number of neighbours: one, a few, or all cells of the gallery."""
    most = case.n_cells * case.n_normal
    return st.sampled_from(sorted({1, min(2, most), min(5, most), most}))
