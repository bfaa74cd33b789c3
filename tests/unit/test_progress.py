"""Progress: lines and bars on standard error, nothing on standard output."""

from __future__ import annotations

import io
import sys
import time

import pytest

from knnspect import progress
from knnspect.progress import Progress, Stopwatch


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_than_on_a_terminal_the_end_is_a_plain_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress("features", total=5, show=True) as report:
        for n_images in (2, 3):
            report.advance(n_images)
    assert capsys.readouterr() == ("", "features: 5 of 5 images\n")


def test_an_unknown_total_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("features", total=None, show=True) as report:
        report.advance(2)
    assert capsys.readouterr() == ("", "features: 2 images\n")


def test_lines_come_at_intervals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)  # type: ignore[attr-defined]
    with Progress("features", total=9, show=True) as report:
        for _ in range(9):
            now += 2
            report.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"features: {n} of 9 images" for n in (3, 6, 9, 9)]


def test_notes_come_at_once_with_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)  # type: ignore[attr-defined]
    with Progress("training", total=50, show=True, done=10) as report:
        for loss in (3, 2):
            now += 8
            report.advance(20)
            report.note(f"loss {loss}")
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "training: 50 of 50 images; loss 2"
    assert "training: 30 of 50 images; loss 3, 8 s left" in lines


def test_nothing_is_shown_when_not_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("features", total=5, show=False) as report:
        report.advance(5)
    assert capsys.readouterr() == ("", "")


def test_after_an_error_no_line_says_that_it_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), Progress("features", total=5, show=True):
        raise RuntimeError
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_it_is_a_bar_that_goes_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Progress("features", total=5, show=True) as report:
        report.advance(5)
    assert "features" in terminal.getvalue()
    assert "\x1b[" in terminal.getvalue()
    assert "images\n" not in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_a_stopwatch_adds_up_stages_also_after_errors() -> None:
    watch = Stopwatch()
    for _ in range(2):
        with watch.stage("matching"):
            time.sleep(0.02)
    with pytest.raises(RuntimeError), watch.stage("maps"):
        raise RuntimeError
    assert list(watch.seconds) == ["matching", "maps"]
    assert 0.04 <= watch.seconds["matching"] < 1
    assert 0 <= watch.seconds["maps"] < 0.5
