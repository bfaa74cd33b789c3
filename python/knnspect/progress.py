"""Progress of long work: a bar on a terminal, plain lines elsewhere, always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

__all__ = ["Progress", "Stopwatch"]

#: Seconds between plain lines, so that a log stays short.
_LINE_INTERVAL = 5.0


class Progress:
    """Reports how many of `total` images (or other things) are done; a context manager.

    Parameters
    ----------
    label : str
        What is being done.
    total : int or None
        How many there are, if it is known.
    show : bool
        Report at all.
    unit : str, default "images"
        What is counted.
    done : int, default 0
        How many were done before.

    Examples
    --------
    >>> with Progress("features", total=2, show=False) as progress:
    ...     progress.advance(2)
    """

    def __init__(
        self, label: str, total: int | None, show: bool, unit: str = "images", done: int = 0
    ) -> None:
        self._label, self._total, self._done, self._unit = label, total, done, unit
        self._before, self._start = done, time.monotonic()
        self._note = self._noted = ""
        self._bar = None
        self._lines = show and not sys.stderr.isatty()
        self._last_line = time.monotonic()
        if show and not self._lines:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(label, total=total, completed=done, note="")

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif self._lines and kind is None and not self._noted:
            self._print_line()

    def advance(self, n: int) -> None:
        """Report that `n` more are done."""
        self._done += n
        if self._bar:
            self._bar.advance(self._task, n)
        elif self._lines and time.monotonic() - self._last_line >= _LINE_INTERVAL:
            self._print_line()

    def reach(self, n: int) -> None:
        """Report that `n` are done by now."""
        self.advance(n - self._done)

    def note(self, text: str) -> None:
        """Say something beside the bar; elsewhere at once, with how long it will take."""
        self._note = text
        if self._bar:
            self._bar.update(self._task, note=text)
        elif self._lines:
            self._print_line()
            self._noted = text

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        total = "" if self._total is None else f" of {self._total}"
        note = f"; {self._note}{self._time_left()}" if self._note else ""
        self._noted = ""
        sys.stderr.write(f"{self._label}: {self._done}{total} {self._unit}{note}\n")
        sys.stderr.flush()

    def _time_left(self) -> str:
        done = self._done - self._before
        if self._total is None or done == 0 or self._done >= self._total:
            return ""
        seconds = (time.monotonic() - self._start) / done * (self._total - self._done)
        return f", {seconds:.0f} s left"


class Stopwatch:
    """Adds up the seconds that named stages take.

    Examples
    --------
    >>> watch = Stopwatch()
    >>> with watch.stage("matching"):
    ...     pass
    >>> list(watch.seconds)
    ['matching']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside the ``with`` block towards `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
