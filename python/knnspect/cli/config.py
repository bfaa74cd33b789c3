"""Settings that a user repeats, from a TOML file: they become options of the command line."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from typer.models import OptionInfo

from knnspect.cli.options import detector_options, flag, signature_of
from knnspect.errors import ParameterError

if TYPE_CHECKING:
    from knnspect.detectors import Detector

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["config_options", "read_config"]


def read_config(path: Path, command: str) -> dict[str, Any]:
    """Return the settings that a file has for a command, by name.

    Those at the top are for all commands, those of a table such as ``[fit]`` for that command.

    Raises
    ------
    ParameterError
        If the file cannot be read, or is no TOML; the message names the line.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(f"--config: {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path}: expected a TOML file: {error}", path=path) from error
    tables = {name: part for name, part in content.items() if isinstance(part, dict)}
    settings = {name: value for name, value in content.items() if name not in tables}
    return settings | tables.get(command, {})


def config_options(
    path: Path,
    settings: Mapping[str, Any],
    command: str,
    run: Callable[..., None],
    kind: type[Detector] | None,
) -> list[str]:
    """Return the settings of a file as options of a command.

    Parameters
    ----------
    path : Path
        The file.
    settings : mapping of str to object
        What `read_config` returned.
    command : str
        The name of the command.
    run : callable
        What is run for it, whose parameters are its own options.
    kind : type, optional
        The method, if the command takes one.

    Raises
    ------
    ParameterError
        If a setting is no option of the command, or of another type; the message names the line.
    """
    own = _options_of(run)
    made = {} if kind is None else detector_options(kind)
    options: list[str] = []
    for name, value in settings.items():
        option = flag("name" if name == "backbone" else name)
        where = f"{path}:{_line_of(path, name)}: {name}"
        if option in made:
            made[option].constraint.parse(where, _text(where, value))
            is_flag = False
        elif option in own:
            is_flag = _check_type(where, own[option], value)
        else:
            of_method = "" if kind is None else f" with the method {kind.method}"
            raise ParameterError(f"{where}: is no option of {command}{of_method}")
        if is_flag:
            options += [option] if value else []
        else:
            options += [option, _text(where, value)]
    return options


def _options_of(run: Callable[..., None]) -> dict[str, Any]:
    """Return the types of a command's own options."""
    found = {}
    for name, each in signature_of(run).parameters.items():
        type_, *about = get_args(each.annotation) or (each.annotation,)
        if about and isinstance(about[0], OptionInfo) and name != "config":
            found[next(iter(about[0].param_decls or [flag(name)]))] = type_
    return found


def _text(where: str, value: Any) -> str:
    """Return a value as it is written on a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        separator = "x" if where.endswith("image_size") else ","
        return separator.join(map(_part, value))
    if isinstance(value, (str, int, float)):
        return str(value)
    raise ParameterError(f"{where}: expected a text, a number or a list, got {value!r}")


def _part(value: Any) -> str:
    """Return a value of a list; a name that is a number is in quotes."""
    return repr(value) if isinstance(value, str) and value.isdecimal() else str(value)


def _check_type(where: str, type_: Any, value: Any) -> bool:
    """Check a setting against an option's type; return whether the option is a flag."""
    kinds = set(get_args(type_) or (type_,))
    if bool in kinds:
        if not isinstance(value, bool):
            raise ParameterError(f"{where}: expected true or false, got {value!r}")
        return True
    if int in kinds and (isinstance(value, bool) or not isinstance(value, int)):
        raise ParameterError(f"{where}: expected a whole number, got {value!r}")
    takes = (str, int, float, list) if str in kinds else (str, int)
    if kinds & {str, Path} and not isinstance(value, takes):
        raise ParameterError(f"{where}: expected a text, got {value!r}")
    return False


def _line_of(path: Path, name: str) -> int:
    """Return the first line that sets a name."""
    begins = re.compile(rf"""\s*["']?{re.escape(name)}["']?\s*=""")
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((n for n, line in enumerate(lines, 1) if begins.match(line)), 1)
