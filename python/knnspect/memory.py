"""How much memory the process uses, and how much it may."""

from __future__ import annotations

import re
import threading
from pathlib import Path

from knnspect.errors import DTypeError, ParameterError

__all__ = ["PeakMemory", "anonymous_bytes", "check_memory", "describe_bytes", "parse_bytes"]

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{unit}{end}": 1000**power for power, unit in enumerate("KMGT", 1) for end in ("", "B")}
_UNITS |= {f"{unit}IB": 1024**power for power, unit in enumerate("KMGT", 1)}


def parse_bytes(name: str, value: object) -> int:
    """Return a number of bytes that was given as a number, or in words such as ``"2GB"``.

    >>> parse_bytes("max_memory", "1.5 GB"), parse_bytes("max_memory", "512MiB")
    (1500000000, 536870912)
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise DTypeError(f'{name}: expected bytes, such as "2GB", got {type(value).__name__}')
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(value), re.ASCII)
    if match is None or match[2].upper() not in _UNITS:
        raise ParameterError(f'{name}: expected bytes, such as "2GB" or "512MiB", got {value!r}')
    n_bytes = int(float(match[1]) * _UNITS[match[2].upper()])
    if n_bytes < 1:
        raise ParameterError(f"{name}: expected at least 1 byte, got {value!r}")
    return n_bytes


def describe_bytes(n_bytes: float) -> str:
    """Return a number of bytes in words.

    >>> describe_bytes(1_500_000_000), describe_bytes(12_000_000)
    ('1.5 GB', '12 MB')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"


def anonymous_bytes() -> int | None:
    """Return the memory that only this process has, files in memory not counted.

    None where the system does not say it (it does on Linux).
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    match = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    return None if match is None else 1024 * int(match[1])


def check_memory(limit: int | None, advice: str) -> None:
    """Raise a MemoryError if more than a limit is in use, with what to do about it.

    >>> check_memory(None, "raise it")
    """
    used = anonymous_bytes()
    if limit is not None and used is not None and used > limit:
        raise MemoryError(
            f"max_memory: {describe_bytes(used)} are in use, more than the limit of "
            f"{describe_bytes(limit)}: {advice}"
        )


class PeakMemory:
    """Watches the memory of the process while it is entered.

    Parameters
    ----------
    interval : float
        Seconds between two looks.

    Attributes
    ----------
    peak : int
        The most that was seen, in bytes; 0 where the system does not say it.

    Examples
    --------
    >>> with PeakMemory() as memory:
    ...     values = b"1" * 50_000_000
    >>> memory.peak == 0 or memory.peak > 50_000_000
    True
    """

    def __init__(self, interval: float = 0.002) -> None:
        self.peak = 0
        self._interval = interval
        self._ended = threading.Event()

    def __enter__(self) -> PeakMemory:
        self._look()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(self._interval):
            self._look()

    def _look(self) -> None:
        self.peak = max(self.peak, anonymous_bytes() or 0)
