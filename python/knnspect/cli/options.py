"""Options that are made from the parameters of a method, and those that commands share."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar, cast

import typer

from knnspect.errors import ParameterError

if TYPE_CHECKING:
    from knnspect.detectors import Detector
    from knnspect.locators import Locator
    from knnspect.parameters import Parameter

__all__ = [
    "BatchSize",
    "Config",
    "GoodNames",
    "Method",
    "OptionGroup",
    "SkipBad",
    "Workers",
    "build_detector",
    "build_parametrized",
    "check_option",
    "detector_options",
    "flag",
    "good_names",
    "parsed",
    "signature_of",
    "with_options",
]

#: What has the parameters of a method, and those of its backbone.
HasBackbone: TypeAlias = "Detector | Locator"
Made = TypeVar("Made", bound="Detector | Locator")

#: Methods that a message names.
_AT_MOST_NAMED = 6

BatchSize = Annotated[int, typer.Option(help="Images that go through the network together.")]
Workers = Annotated[int, typer.Option(help="Threads that read images.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Report unusable images and go on without them.")
]
GoodNames = Annotated[
    str,
    typer.Option("--good", help="Dataset: names of the folders of normal images, such as good,ok."),
]
Method = Annotated[
    str, typer.Option(help="What learns and judges: one of those that `knnspect methods` lists.")
]
Config = Annotated[
    Path | None,
    typer.Option(help="TOML file of options, such as max_epochs = 12; options given here count."),
]


def flag(name: str) -> str:
    """Return the option of a parameter.

    >>> flag("image_neighbors")
    '--image-neighbors'
    """
    return "--backbone" if name == "name" else f"--{name.replace('_', '-')}"


def detector_options(kind: type[HasBackbone]) -> dict[str, Parameter]:
    """Return the parameters of a method and of its backbone by their options."""
    from knnspect.constraints import Choice
    from knnspect.parameters import Parameter

    default = kind.parameters["backbone"].make_default()
    of_backbone = {
        name: replace(declared, default=getattr(default, name))
        for name, declared in default.parameters.items()
    }
    own = {name: each for name, each in kind.parameters.items() if name != "backbone"}
    if presets := getattr(kind, "presets", None):
        text = "Settings that belong together, which other options change."
        preset = Parameter(None, Choice(*presets), name="preset", text=text)
        own = {"preset": preset, **own}
    return {flag(name): each for name, each in (own | of_backbone).items()}


def with_options(
    command: Callable[..., None], kind: type[HasBackbone], without: Sequence[str] = ()
) -> Callable[..., None]:
    """Return a command that also has the options of a method, for typer.

    Parameters
    ----------
    command : callable
        Is called with its own options, and with ``kind`` and ``given``: the method, and what was
        given of its options, as texts by the names of parameters.
    kind : type
        The method.
    without : sequence of str
        Parameters that are no options here.
    """
    made = [each for each in detector_options(kind).values() if each.name not in without]
    names = {f"of_{each.name}": each.name for each in made}

    groups = _groups_of(command)

    @functools.wraps(command)
    def run(**options: Any) -> None:
        chosen = {name: options.pop(key) for key, name in names.items()}
        given = {name: text for name, text in chosen.items() if text is not None}
        grouped = {
            name: group(**{each: options.pop(each) for each in _options_in(group)})
            for name, group in groups.items()
        }
        command(**options, **grouped, kind=kind, given=given)

    own = [
        each
        for each in signature_of(command).parameters.values()
        if each.name not in ("kind", "given")
    ]
    more = [
        inspect.Parameter(
            key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(each, kind)
        )
        for key, each in zip(names, made, strict=True)
    ]
    own = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
    run.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in (*own, *more)}
    return run


class OptionGroup:
    """The base of dataclasses whose fields are options that several commands have.

    A command takes it as one parameter, in whose place its fields are options.
    """


def signature_of(command: Callable[..., None]) -> inspect.Signature:
    """Return a command's options and their types, with those of groups."""
    found = []
    for name, each in _own_signature(command).parameters.items():
        if name in _groups_of(command):
            found += list(_options_in(each.annotation).values())
        else:
            found.append(each)
    return inspect.Signature(found)


def _own_signature(command: Callable[..., None]) -> inspect.Signature:
    """Return a command's parameters and their types; detectors are loaded for it alone."""
    from knnspect.detectors import Detector
    from knnspect.locators import Locator

    known = {"Detector": Detector, "Locator": Locator}
    return inspect.signature(command, eval_str=True, locals=known)


def _groups_of(command: Callable[..., None]) -> dict[str, type[OptionGroup]]:
    """Return the groups of options that a command takes, by its parameters."""
    return {
        name: each.annotation
        for name, each in _own_signature(command).parameters.items()
        if isinstance(each.annotation, type) and issubclass(each.annotation, OptionGroup)
    }


def _options_in(group: type[OptionGroup]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(group, eval_str=True).parameters)


def parsed(declared: Parameter, text: str) -> Any:
    """Return the value of a parameter that was given as an option."""
    return declared.constraint.parse(flag(declared.name), text)


def build_detector(kind: type[Detector], given: Mapping[str, str]) -> Detector:
    """Return the detector that options describe; see `build_parametrized`."""
    return build_parametrized(kind, given)


def build_parametrized(kind: Callable[..., Made], given: Mapping[str, str]) -> Made:
    """Return the detector, or the locator, that options describe.

    Parameters
    ----------
    kind : type
        The method, which has a backbone.
    given : mapping of str to str
        What was given, by the names of parameters.
    """
    values = {
        declared.name: parsed(declared, given[declared.name])
        for declared in detector_options(cast("type[HasBackbone]", kind)).values()
        if declared.name in given
    }
    preset = values.pop("preset", None)
    made = kind() if preset is None else cast("Any", kind).from_preset(preset)
    of_backbone = {k: values.pop(k) for k in list(values) if k in made.backbone.parameters}
    made.backbone.set_params(**of_backbone)
    made.set_params(**values)
    made.check_params()
    return made


def check_option(option: str, kind: type[Detector]) -> None:
    """Raise a ParameterError if an option belongs to other methods than the chosen one."""
    if option in detector_options(kind):
        return
    kinds = _usable_methods()
    having = [word for word, other in kinds.items() if option in detector_options(other)]
    if option == "--checkpoint" and not kind.trains:
        having = [word for word, other in kinds.items() if other.trains]
    if having:
        if len(having) > _AT_MOST_NAMED:
            n_more = len(having) - _AT_MOST_NAMED + 1
            having = [*having[: _AT_MOST_NAMED - 1], f"{n_more} more"]
        *others, last = having
        words = f"{', '.join(others)} and {last}" if others else last
        raise ParameterError(f"{option}: is an option of {words}, the method is {kind.method}")


def _usable_methods() -> dict[str, type[Detector]]:
    """Return all methods but those of other packages that cannot be loaded."""
    from knnspect.detectors import get_method, methods

    found = {}
    for word in methods():
        with contextlib.suppress(ParameterError):
            found[word] = get_method(word)
    return found


def good_names(text: str) -> list[str]:
    """Return the names of folders that were given as one option."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ParameterError(f"--good: expected names separated by ',', got {text!r}")
    return names


def _option(declared: Parameter, kind: type[HasBackbone]) -> Any:
    """Return the annotation of an option, as typer reads it."""
    from knnspect.constraints import Choice

    default = declared.make_default()
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    words = declared.constraint.words if isinstance(declared.constraint, Choice) else ()
    summary = declared.summary + (f" ({', '.join(words)})" if words else "")
    help_ = summary + ("." if default is None else f"; {shown} by default.")
    of_backbone = kind.parameters["backbone"].make_default().parameters
    panel = "Backbone" if declared.name in of_backbone else f"Method: {kind.method}"
    option = flag(declared.name)
    return Annotated[
        str | None,
        typer.Option(
            option,
            help=help_,
            metavar=declared.constraint.metavar,
            show_default=False,
            rich_help_panel=panel,
        ),
    ]
