"""The commands: which there are, and how a command line becomes one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from knnspect.cli.running import run
from knnspect.errors import ParameterError

__all__ = ["main"]

#: In the order in which they are listed; each is a function in a file of its name, but for hyphens.
_COMMANDS = (
    "demo",
    "fit",
    "fit-locator",
    "calibrate",
    "predict",
    "judge-unlabelled",
    "watch",
    "add",
    "remove",
    "reject",
    "history",
    "rollback",
    "evaluate",
    "export",
    "check",
    "clean",
    "bench",
    "info",
    "methods",
)
#: Those that have the options of a method, and what of these they have not.
_OF_METHODS: dict[str, Sequence[str]] = {
    "fit": (),
    "evaluate": (),
    "bench": ("backend", "image_neighbors", "pixel_neighbors"),
}
#: Those that have the options of one class, and its room.
_OF_CLASSES = {"judge-unlabelled": ("cleaning", "MutualScoring")}
#: That which has the options of a locator.
_OF_LOCATORS = "fit-locator"
_DEFAULT_METHOD, _DEFAULT_LOCATOR = "spade", "golden_template"


def main() -> None:
    """Run the command line; errors end it with one line and an exit code, not a traceback."""
    run(_app)


def _app(arguments: list[str]) -> Callable[[], None]:
    """Return what runs a command line.

    The options of a method are there for the chosen method only, which is looked for first.
    """
    app = typer.Typer(
        help="Find defects in images by comparing deep features with those of normal images.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(_about)
    chosen = arguments[0] if arguments else ""
    for name in _COMMANDS:
        own = name.replace("-", "_")
        command: Callable[..., None] = getattr(import_module(f"knnspect.cli.{own}"), own)
        words = command.__doc__
        if name == chosen:
            command, arguments = _chosen(name, command, arguments)
        elif name in _OF_METHODS or name in _OF_CLASSES or name == _OF_LOCATORS:
            command = _about  # only its help is asked for
        app.command(name, help=words)(command)
    return partial(app, arguments, prog_name="knnspect")


def _chosen(
    name: str, command: Callable[..., None], arguments: list[str]
) -> tuple[Callable[..., None], list[str]]:
    """Return the chosen command with all of its options, and the arguments with those of a file."""
    from knnspect.cli.config import config_options, read_config
    from knnspect.cli.on_cluster import with_address
    from knnspect.cli.options import check_option, with_options
    from knnspect.detectors import get_method, methods

    if name == "fit":
        arguments = with_address(arguments)
    file = _value_of("--config", arguments)
    settings = {} if file is None else read_config(Path(file), name)
    kind: Any = None
    complete = command
    if name in _OF_METHODS:
        word = _value_of("--method", arguments) or str(settings.get("method", _DEFAULT_METHOD))
        if word not in methods():
            raise ParameterError(f"--method: expected one of {', '.join(methods())}, got {word!r}")
        kind = get_method(word)
        for argument in arguments[1:]:
            check_option(argument.partition("=")[0], kind)
        complete = with_options(command, kind, _OF_METHODS[name])
    elif name == _OF_LOCATORS:
        from knnspect.locators import locator_methods

        word = _value_of("--method", arguments) or str(settings.get("method", _DEFAULT_LOCATOR))
        words = locator_methods()
        if word not in words:
            raise ParameterError(f"--method: expected one of {', '.join(words)}, got {word!r}")
        complete, kind = with_options(command, words[word]), words[word]
    elif name in _OF_CLASSES:
        room, of_class = _OF_CLASSES[name]
        kind = getattr(import_module(f"knnspect.{room}"), of_class)
        complete = with_options(command, kind)
    if file is not None:
        options = config_options(Path(file), settings, name, command, kind)
        arguments = [name, *options, *arguments[1:]]
    return complete, arguments


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    """Return the value of an option on a command line, the last one if there are several."""
    found = None
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == option:
            found = value if equals else next(iter(arguments[place + 1 :]), "")
    return found


def _about(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from knnspect import __version__

        typer.echo(f"knnspect {__version__}")
        raise typer.Exit
