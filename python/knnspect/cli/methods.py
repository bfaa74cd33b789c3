"""The command ``knnspect methods``."""

from __future__ import annotations

from knnspect.cli.printing import print_table
from knnspect.errors import ParameterError

__all__ = ["methods"]


def methods() -> None:
    """List the methods, each with its paper."""
    from knnspect.detectors import get_method
    from knnspect.detectors import methods as words

    def paper(word: str) -> str:
        try:
            return get_method(word).paper()
        except ParameterError as error:  # of another package
            return str(error)

    print_table("fit, evaluate --method", {word: paper(word) for word in words()})
