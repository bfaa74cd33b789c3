"""Decoders that log what is wrong with a file, kept from printing it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet"]

_LOGGERS = ("tifffile", "imagecodecs")
_here = threading.local()


class _NotFromHere(logging.Filter):
    """Leaves out what is logged by a thread that is reading a file for us."""

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        return getattr(_here, "depth", 0) == 0


_FILTER = _NotFromHere()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep decoders from logging in this thread: an error of ours says what is wrong.

    Other threads, and programs that use the same libraries, go on logging.

    Examples
    --------
    >>> with quiet():
    ...     logging.getLogger("tifffile").error("not seen")
    """
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)  # once, however often it is added
    _here.depth = getattr(_here, "depth", 0) + 1
    try:
        yield
    finally:
        _here.depth -= 1
