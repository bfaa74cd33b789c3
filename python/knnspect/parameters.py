"""Parameters that are declared once: what users give, what is checked, saved, shown and asked for.

A class declares a parameter in one line, its text stands in the docstring::

    class Mean(Parametrized):
        \"\"\"Judge by the mean.

Parameters
----------
        share : float, default 0.5
            Of the cells, how many count.
        \"\"\"

        share: float = parameter(Positive(at_most=1), default=0.5)

From that follow ``__init__`` and its signature, the checks, `get_params`, `set_params`, ``repr``,
equality, `sklearn.base.clone`, what a model file keeps, and the options of the command line.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np

from knnspect.constraints import Constraint
from knnspect.errors import ParameterError, errors_about

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:

    def dataclass_transform(**_: object) -> Callable[[_Class], _Class]:
        return lambda decorated: decorated


__all__ = ["Parameter", "Parametrized", "learnt", "parameter", "plain", "section"]

_Class = TypeVar("_Class")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a class.

    Parameters
    ----------
    default : object
        Its value if none is given; a function without arguments if `is_made`.
    constraint : Constraint
        Which values it may have.
    is_made : bool
        Whether each object has a default of its own.
    is_saved : bool
        Whether it belongs to a model: not so what says how a machine works, such as threads.
    changes_training : bool
        Whether what is learnt depends on it; else it may differ when a training goes on.
    is_positional : bool
        Whether it may be given without its name.
    name : str
        Its name.
    text : str
        What the docstring says of it.
    """

    default: Any
    constraint: Constraint
    is_made: bool = False
    is_saved: bool = True
    changes_training: bool = True
    is_positional: bool = False
    name: str = ""
    text: str = ""

    def make_default(self) -> Any:
        """Return the value that it has if none is given."""
        return self.default() if self.is_made else self.default

    @property
    def summary(self) -> str:
        """The first sentence of its text."""
        text = self.text.replace("``", "").replace("`", "")
        # Up to a full stop or a semicolon, or a colon before a list, not inside of brackets.
        return re.match(r"(?:\([^)]*\)|(?![.;](?:\s|$))[^(])*", text)[0]  # type: ignore[index]


def parameter(
    constraint: Constraint | None = None,
    *,
    default: Any = inspect.Parameter.empty,
    default_factory: Callable[[], Any] | None = None,
    is_saved: bool | None = None,
    changes_training: bool | None = None,
    kw_only: bool = True,
) -> Any:
    """Declare a parameter in the body of a class.

    What is left out is as a base class has it, if it declares the same parameter.

    Parameters
    ----------
    constraint : Constraint, optional
        Which values it may have.
    default : object, optional
        Its value if none is given.
    default_factory : callable, optional
        Makes the default, for each object anew.
    is_saved, changes_training : bool, default True
        See `Parameter`.
    kw_only : bool, default True
        Whether it has to be given by name.
    """
    return _Declaration(
        {
            "constraint": constraint,
            "is_saved": is_saved,
            "changes_training": changes_training,
            "default": default_factory or (None if default is _EMPTY else default),
            "is_made": None if default is _EMPTY and not default_factory else bool(default_factory),
            "is_positional": not kw_only,
        },
        has_default=default is not _EMPTY or default_factory is not None,
    )


def learnt(*, init: Literal[False] = False) -> Any:  # noqa: ARG001 - type checkers read it
    """Declare an attribute that is no parameter: what an object has learnt, or keeps."""
    return _LEARNT


_LEARNT = object()
_EMPTY = inspect.Parameter.empty


class _Declaration:
    """What the body of a class says of a parameter."""

    def __init__(self, given: dict[str, Any], has_default: bool) -> None:
        self._given = {k: v for k, v in given.items() if v is not None or k == "default"}
        if not has_default:
            del self._given["default"]

    def of(self, name: str, inherited: Parameter | None, text: str) -> Parameter:
        """Return the parameter."""
        if inherited is None:
            return Parameter(**self._given, name=name, text=text)
        given = {k: v for k, v in self._given.items() if k != "is_positional"}
        return replace(inherited, **given, text=text or inherited.text)


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(parameter, learnt))
class Parametrized:
    """An object whose parameters are declared in its class, and are its attributes."""

    #: By name; those of the class itself first.
    parameters: ClassVar[Mapping[str, Parameter]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        texts = parameter_texts(cls.__doc__ or "")
        inherited = {
            name: declared
            for base in reversed(cls.__bases__)
            for name, declared in getattr(base, "parameters", {}).items()
        }
        own = {}
        for name, declared in list(vars(cls).items()):
            if isinstance(declared, _Declaration):
                own[name] = declared.of(name, inherited.get(name), texts.get(name, ""))
                delattr(cls, name)
            elif declared is _LEARNT:
                delattr(cls, name)
        changed = {name: own.pop(name) for name in list(own) if name in inherited}
        merged = {**own, **inherited, **changed}
        cls.parameters = dict(
            sorted(merged.items(), key=lambda item: not item[1].is_positional)  # a stable sort
        )
        cls.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(
                    name,
                    inspect.Parameter.POSITIONAL_OR_KEYWORD
                    if declared.is_positional
                    else inspect.Parameter.KEYWORD_ONLY,
                    default=None if declared.is_made else declared.default,
                )
                for name, declared in cls.parameters.items()
            ]
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        signature: inspect.Signature = type(self).__signature__  # type: ignore[attr-defined]
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        for name, declared in self.parameters.items():
            value = given.get(name, _EMPTY)
            if value is _EMPTY or (value is None and declared.is_made):
                value = declared.make_default()
            setattr(self, name, value)
        self._begin()

    def __setattr__(self, name: str, value: Any) -> None:
        declared = self.parameters.get(name)
        super().__setattr__(name, value if declared is None else declared.constraint.kept(value))

    def _begin(self) -> None:
        """Set what a new object has besides its parameters."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name.

        Parameters
        ----------
        deep : bool, default True
            Also return those of parameters that have some themselves, as ``backbone__levels``.
        """
        params = {name: getattr(self, name) for name in self.parameters}
        if deep:
            for name, value in list(params.items()):
                if isinstance(value, Parametrized):
                    inner = value.get_params()
                    params |= {f"{name}__{key}": of_it for key, of_it in inner.items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters; they are checked when they are used.

        Parameters
        ----------
        **params
            By name, as `get_params` returns them.

        Returns
        -------
        object
            Itself.

        Raises
        ------
        ParameterError
            If there is no parameter of a name; then none is set.
        """
        nested: dict[str, dict[str, Any]] = {}
        for key in params:
            name, _, inner = key.partition("__")
            if name not in self.parameters:
                known = ", ".join(self.parameters)
                raise ParameterError(
                    f"{name}: is no parameter of {type(self).__name__}, which has {known}"
                )
            if inner:
                nested.setdefault(name, {})[inner] = params[key]
        for name, values in nested.items():
            owner = params.get(name, getattr(self, name))
            params[name] = copy(owner).set_params(**values)
        for name in self.parameters:
            if name in params:
                setattr(self, name, params[name])
        return self

    def check_params(self) -> None:
        """Raise a ParameterError or DTypeError for the first parameter outside its values."""
        for name, declared in self.parameters.items():
            with errors_about(parameter=name):
                declared.constraint.check(name, getattr(self, name))

    def saved_params(self) -> dict[str, Any]:
        """Return the parameters that a model keeps, as JSON has them."""
        return {
            name: plain(declared.constraint.saved(getattr(self, name)))
            for name, declared in self.parameters.items()
            if declared.is_saved and not isinstance(getattr(self, name), Parametrized)
        }

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(_is_same(getattr(self, name), getattr(other, name)) for name in self.parameters)

    __hash__ = None  # type: ignore[assignment]  # parameters may be changed

    def __repr__(self) -> str:
        parts = [
            repr(value) if declared.is_positional and place == 0 else f"{name}={value!r}"
            for place, (name, declared) in enumerate(self.parameters.items())
            if not _is_same(value := getattr(self, name), declared.make_default())
        ]
        return f"{type(self).__name__}({', '.join(parts)})"


def plain(value: Any) -> Any:
    """Return a parameter as JSON has it, without NumPy's types.

    >>> plain(np.float32(0.5)), plain((1, 2))
    (0.5, [1, 2])
    """
    if isinstance(value, (tuple, list)):
        return [plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def parameter_texts(docstring: str) -> dict[str, str]:
    r"""Return what the section "Parameters" of a docstring says of each, without types.

    >>> parameter_texts("One line.\n\nParameters\n----------\na, b : int\n    Two.\n")
    {'a': 'Two.', 'b': 'Two.'}
    """
    lines = inspect.cleandoc(docstring).splitlines()
    texts: dict[str, str] = {}
    names: list[str] = []
    if "Parameters" not in lines:
        return texts
    for line, after in zip(
        lines[lines.index("Parameters") + 2 :],
        [*lines[lines.index("Parameters") + 3 :], ""],
        strict=True,
    ):
        if after.startswith("---"):
            break
        if line and not line.startswith(" "):
            names = [name.strip() for name in line.partition(":")[0].split(",")]
        elif line:
            for name in names:
                texts[name] = f"{texts.get(name, '')} {line.strip()}".strip()
    return texts


def section(docstring: str, title: str) -> str:
    """Return a section of a docstring on one line, empty if there is none."""
    lines = inspect.cleandoc(docstring).splitlines()
    if title not in lines:
        return ""
    found = []
    for line, after in itertools.pairwise([*lines[lines.index(title) + 2 :], ""]):
        if after.startswith("---"):
            break
        found.append(line)
    return " ".join(" ".join(found).split())


def _is_same(one: Any, other: Any) -> bool:
    return one is other or bool(type(one) is type(other) and one == other)
