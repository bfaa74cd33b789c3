"""What ends the command line, and what is said then."""

from __future__ import annotations

import errno
import os
import warnings
from functools import partial

import pytest
import typer

from knnspect import ImageWarning, ParameterError, StoreError
from knnspect.cli.running import run


def ended(
    error: BaseException | None, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...] = ()
) -> int:
    """Run a command that raises; return the exit code."""
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

    @app.command()
    def command() -> None:
        warnings.warn("said once", ImageWarning, stacklevel=1)
        if error is not None:
            raise error

    monkeypatch.setattr("sys.argv", ["knnspect", *arguments])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with warnings.catch_warnings(), pytest.raises(SystemExit) as end:
        run(lambda given: partial(app, given, prog_name="knnspect"))
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ParameterError("k: expected at least 1, got 0"), 2, "k: expected at least 1, got 0"),
        (StoreError("a.ks: is damaged"), 1, "a.ks: is damaged"),
        (OSError(errno.EACCES, "Permission denied", "a.ks"), 1, "a.ks: Permission denied"),
        (OSError("the disk is gone"), 1, "the disk is gone"),
        (MemoryError(), 1, "MemoryError"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_are_one_line_and_a_code(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ended(error, monkeypatch) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["knnspect: said once", f"knnspect: {line}"]


def test_nothing_wrong_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(None, monkeypatch) == 0


def test_a_fault_of_ours_is_said_so_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(RuntimeError("it broke\nand goes on for pages"), monkeypatch) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("knnspect: it broke (RuntimeError, which is a fault of knnspect")
    monkeypatch.setitem(os.environ, "KNNSPECT_TRACEBACK", "1")
    monkeypatch.setattr("sys.argv", ["knnspect"])
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

    @app.command()
    def command() -> None:
        raise RuntimeError("it broke")

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with warnings.catch_warnings(), pytest.raises(RuntimeError, match="it broke"):
        run(lambda given: partial(app, given, prog_name="knnspect"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("images", "--output", ""), "--output: expected a value, got an empty one"),
        (("",), "arguments: expected a value, got an empty one"),
    ],
)
def test_an_empty_argument_is_not_the_current_folder(
    arguments: tuple[str, ...],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ended(None, monkeypatch, arguments) == 2
    assert capsys.readouterr().err == f"knnspect: {line}\n"
