"""Taking times: of work that may run on a GPU, in turns, and what many times come to."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

__all__ = ["percentiles", "ratios", "spread", "synchronize", "timed", "turns"]

Result = TypeVar("Result")
Rival = TypeVar("Rival")


def synchronize() -> None:
    """Wait until the GPU has done all it was given, where PyTorch uses one.

    Examples
    --------
    >>> synchronize()
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            torch.cuda.synchronize(device)


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Return the seconds that some work took, on the GPU too, and what it gave.

    Parameters
    ----------
    work : callable
        Called once, without arguments.

    Returns
    -------
    seconds : float
        Wall-clock time.
    result : object
        What `work` returned.

    Examples
    --------
    >>> seconds, result = timed(lambda: sum(range(100)))
    >>> seconds > 0, result
    (True, 4950)
    """
    synchronize()
    start = time.perf_counter()
    result = work()
    synchronize()
    return time.perf_counter() - start, result


def turns(
    rivals: Mapping[str, Rival], n_rounds: int, pause: float = 0.05
) -> Iterator[tuple[int, str, Rival]]:
    """Let rivals take turns, so that whatever disturbs the machine disturbs them all alike.

    Parameters
    ----------
    rivals : mapping of str to object
        By name.
    n_rounds : int
        How often each has its turn. Another one begins in each round, since whoever follows a
        rival that fills the caches starts worse.
    pause : float, default 0.05
        Seconds of rest before each turn.

    Yields
    ------
    (int, str, object)
        The round, and whose turn it is.

    Examples
    --------
    >>> [(n, name) for n, name, _ in turns({"a": 1, "b": 2}, 2, pause=0)]
    [(0, 'a'), (0, 'b'), (1, 'b'), (1, 'a')]
    """
    names = list(rivals)
    for number in range(n_rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(pause)
            yield number, name, rivals[name]


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median and the 95th and 99th percentile of some times, in milliseconds.

    Between two times it is interpolated linearly, as NumPy does.

    Parameters
    ----------
    seconds : sequence of float
        At least one.

    Returns
    -------
    dict of str to float
        "p50", "p95" and "p99".

    Examples
    --------
    >>> percentiles([0.001 * n for n in range(1, 102)])
    {'p50': 51.0, 'p95': 96.0, 'p99': 100.0}
    """
    values = 1000 * np.percentile(seconds, (50, 95, 99))
    return {
        name: round(float(value), 3)
        for name, value in zip(("p50", "p95", "p99"), values, strict=True)
    }


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return the least, the median and the largest of some times, in milliseconds.

    Parameters
    ----------
    seconds : sequence of float
        At least one.

    Returns
    -------
    dict of str to float
        "min_ms", "median_ms" and "max_ms".

    Examples
    --------
    >>> spread([0.003, 0.001, 0.002])
    {'min_ms': 1.0, 'median_ms': 2.0, 'max_ms': 3.0}
    """
    values = 1000 * np.sort(seconds)
    return {
        "min_ms": round(float(values[0]), 2),
        "median_ms": round(float(np.median(values)), 2),
        "max_ms": round(float(values[-1]), 2),
    }


def ratios(slower: Sequence[float], faster: Sequence[float]) -> dict[str, float]:
    """Return how many times faster something is: image by image, then over the images.

    Parameters
    ----------
    slower, faster : sequence of float
        Times of the two, one for each image.

    Returns
    -------
    dict of str to float
        "min", "median" and "max" of the ratios.

    Examples
    --------
    >>> ratios([2.0, 6.0, 9.0], [1.0, 2.0, 1.0])
    {'min': 2.0, 'median': 3.0, 'max': 9.0}
    """
    values = np.array(slower) / np.array(faster)
    parts = {"min": values.min(), "median": np.median(values), "max": values.max()}
    return {name: round(float(value), 2) for name, value in parts.items()}
