"""Runs the command line: warnings, errors and signals become lines and exit codes."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import typer

from knnspect.errors import DTypeError, KnnspectError, ParameterError
from knnspect.signals import ending_like_interrupts

__all__ = ["run"]

_INTERRUPTED = 130


def run(prepare: Callable[[list[str]], Callable[[], None]]) -> None:
    """Run a command line, and raise SystemExit with its exit code.

    What goes wrong is said in one line on standard error. A fault of knnspect itself is said so;
    with ``KNNSPECT_TRACEBACK`` in the environment it ends in Python's traceback.

    Parameters
    ----------
    prepare : callable
        Takes the arguments, and returns what runs the command that they name.
    """
    warnings.showwarning = _show_warning
    # Each warning once, also where the same line of code repeats it for another image.
    warnings.simplefilter("always", UserWarning)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an id may hold what an encoding lacks
            stream.reconfigure(errors="backslashreplace")
    with ending_like_interrupts() as ending:
        try:
            _check_arguments(sys.argv[1:])
            prepare(sys.argv[1:])()
        except (ParameterError, DTypeError) as error:
            _fail(error, 2)
        except (KnnspectError, MemoryError) as error:
            _fail(error, 1)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _fail(f"{where}{error.strerror or error}", 1)
        except SystemExit as end:
            if end.code == _INTERRUPTED:  # which typer makes of a KeyboardInterrupt
                _fail(ending.words, ending.code)
            raise
        except KeyboardInterrupt:
            _fail(ending.words, ending.code)
        except Exception as error:
            if os.environ.get("KNNSPECT_TRACEBACK"):
                raise
            _fail(
                f"{_first_line(error)} ({type(error).__name__}, which is a fault of knnspect: "
                "please report it; KNNSPECT_TRACEBACK=1 shows where it happened)",
                1,
            )


def _check_arguments(arguments: list[str]) -> None:
    """Raise a ParameterError for an empty argument, as of a variable that is not set.

    A path would take it for the current folder.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not argument:
            name = before if before.startswith("--") else "arguments"
            raise ParameterError(f"{name}: expected a value, got an empty one")


def _fail(error: object, code: int) -> None:
    with contextlib.suppress(OSError):  # as where a terminal was closed
        typer.echo(f"knnspect: {str(error) or type(error).__name__}", err=True)
    sys.exit(code)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or "something went wrong"


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,  # noqa: ARG001 - the signature is Python's
    lineno: int,  # noqa: ARG001
    file: Any = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    if issubclass(category, UserWarning):
        typer.echo(f"knnspect: {message}", err=True)
