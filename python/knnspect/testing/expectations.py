"""What checks expect: failures say what was expected and what came, with ``python -O``, too."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from knnspect.search import Neighbors

__all__ = ["expect", "expect_equal", "expect_identical", "raises", "warns"]


def expect(holds: object, problem: str) -> None:
    """Raise an AssertionError with the problem unless something holds."""
    if not holds:
        raise AssertionError(problem)


def expect_equal(what: str, got: object, expected: object) -> None:
    """Raise an AssertionError that names what differs, unless both are equal."""
    if got != expected:
        raise AssertionError(f"{what}: expected {expected!r}, got {got!r}")


def expect_identical(what: str, got: Neighbors, expected: Neighbors) -> None:
    """Raise an AssertionError unless two searches found the same, to the bit."""
    expect_equal(f"{what}: image_ids", got.image_ids, expected.image_ids)
    np.testing.assert_array_equal(got.images, expected.images, f"{what}: images")
    np.testing.assert_array_equal(got.cells, expected.cells, f"{what}: cells")
    np.testing.assert_array_equal(
        got.sq_distances.view(np.uint32),
        expected.sq_distances.view(np.uint32),
        f"{what}: bits of sq_distances",
    )


@contextmanager
def raises(kind: type[BaseException], match: str = "", what: str = "it") -> Iterator[None]:
    """Fail unless an error of a kind is raised within, whose text the pattern is found in."""
    wanted = f"{what}: expected a {kind.__name__}" + (f" that says {match!r}" if match else "")
    try:
        yield
    except kind as error:
        if not re.search(match, str(error)):
            raise AssertionError(f"{wanted}, it says {str(error)!r}") from error
    except Exception as error:
        raise AssertionError(f"{wanted}, got {type(error).__name__}: {error}") from error
    else:
        raise AssertionError(f"{wanted}, got no error")


@contextmanager
def warns(kind: type[Warning], match: str) -> Iterator[None]:
    """Fail unless there is a warning of a kind within, whose text the pattern is found in."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    texts = [str(warning.message) for warning in caught if issubclass(warning.category, kind)]
    if not any(re.search(match, text) for text in texts):
        raise AssertionError(
            f"expected a {kind.__name__} that says {match!r}, got "
            f"{[f'{warning.category.__name__}: {warning.message}' for warning in caught]}"
        )
