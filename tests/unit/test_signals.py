"""Signals that end a command as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from knnspect import signals
from knnspect.signals import Ended, ending_like_interrupts


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_interrupts_and_is_known_afterwards(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with ending_like_interrupts() as ending:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert (ending.signal, ending.code, ending.words) == (
            number,
            code,
            f"ended by {number.name}",
        )
    assert signal.getsignal(number) is before


def test_a_second_one_does_not_end_the_cleaning_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with ending_like_interrupts() as ending:
        with pytest.raises(Ended):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        assert ending.signal == signal.SIGTERM
        monkeypatch.setattr(signals, "_SAME", 0.0)
        with pytest.raises(Ended):  # but one that comes later ends what hangs
            os.kill(os.getpid(), signal.SIGHUP)


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_like_interrupts() as ending:
            os.kill(os.getpid(), signal.SIGHUP)
            assert ending.signal is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_change_nothing() -> None:
    found = []

    def look() -> None:
        with ending_like_interrupts() as ending:
            found.append((signal.getsignal(signal.SIGTERM), ending.words))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [(before, "interrupted")]
