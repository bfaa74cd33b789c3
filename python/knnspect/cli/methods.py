"""The command ``knnspect methods``."""

from __future__ import annotations

from knnspect.cli.printing import print_table

__all__ = ["methods"]


def methods() -> None:
    """List the methods, each with its paper."""
    from knnspect.detectors import get_method
    from knnspect.detectors import methods as words

    print_table("fit, evaluate --method", {word: get_method(word).paper() for word in words()})
