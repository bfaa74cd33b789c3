"""What checks expect: failures say what was expected and what came, with ``python -O``, too."""

from __future__ import annotations

__all__ = ["expect", "expect_equal"]


def expect(holds: object, problem: str) -> None:
    """Raise an AssertionError with the problem unless something holds."""
    if not holds:
        raise AssertionError(problem)


def expect_equal(what: str, got: object, expected: object) -> None:
    """Raise an AssertionError that names what differs, unless both are equal."""
    if got != expected:
        raise AssertionError(f"{what}: expected {expected!r}, got {got!r}")
