"""Signals that end a command as Ctrl-C does: nothing is left half written."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Ended", "Ending", "ending_like_interrupts"]

#: Those that the system has: what `kill` and service managers send, and a terminal that closes.
_SIGNALS = tuple(
    signal.Signals(getattr(signal, name)) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)
#: Seconds in which further signals are taken for the same one: `timeout` sends each twice, and the
#: second must not end the cleaning up after the first.
_SAME = 2.0


class Ended(KeyboardInterrupt):
    """Raised where the process is when a signal arrives, as Ctrl-C raises KeyboardInterrupt."""


class Ending:
    """Which signal came.

    Attributes
    ----------
    signal : signal.Signals or None
        None as long as none has come.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._at = float("-inf")

    @property
    def code(self) -> int:
        """The exit code that shells know: 128 and the signal's number; 130 for Ctrl-C."""
        return 128 + (signal.SIGINT if self.signal is None else self.signal)

    @property
    def words(self) -> str:
        """What ended the command."""
        return "interrupted" if self.signal is None else f"ended by {self.signal.name}"

    def receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Handle a signal."""
        now = time.monotonic()
        if now - self._at < _SAME:
            return
        self._at, self.signal = now, signal.Signals(number)
        raise Ended


@contextmanager
def ending_like_interrupts() -> Iterator[Ending]:
    """Let SIGTERM and SIGHUP raise `Ended` inside the ``with`` block.

    Signals that the process was started to ignore, as by ``nohup``, stay ignored. Only the main
    thread can set this up; in others nothing changes.

    Examples
    --------
    >>> with ending_like_interrupts() as ending:
    ...     ending.signal, ending.code, ending.words
    (None, 130, 'interrupted')
    """
    ending = Ending()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, ending.receive)
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
