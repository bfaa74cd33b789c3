"""Checks as values: each has a name that is a sentence, and fails with an AssertionError.

A test of one's own runs each by itself::

    @pytest.mark.parametrize("check", backend_checks(), ids=str)
    def test_my_backend(check):
        check(MyBackend())

A check that cannot run here raises `unittest.SkipTest`, which pytest takes for a test skipped.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from types import ModuleType
from typing import Any, Generic, TypeVar
from unittest import SkipTest

__all__ = ["Check", "Checks", "ContractError", "Results", "needed", "run_checks"]

Subject = TypeVar("Subject")
Function = TypeVar("Function", bound=Callable[..., None])


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """One promise that backends or detectors make.

    Call it with what is to be checked: it returns if the promise is kept, and raises an
    AssertionError that says what was expected and what came if it is not.

    Parameters
    ----------
    function : callable
        Takes what is to be checked, and the arguments. Its name is the promise.
    arguments : mapping
        The values with which the promise is tried.
    n_cases : int, default 0
        Random cases to be drawn, by hypothesis; the function takes these, too.
    share : float, default 0
        Of the number of random cases that a user asks for, how many it takes. 0: it draws none.
    """

    function: Callable[..., None]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    n_cases: int = 0
    share: float = 0

    @property
    def name(self) -> str:
        """The promise as a sentence, and the values with which it is tried."""
        values = ", ".join(
            f"{name}={getattr(value, '__name__', None) or repr(value)}"
            for name, value in self.arguments.items()
        )
        return self.function.__name__ + (f"({values})" if values else "")

    def __str__(self) -> str:
        return self.name

    def __call__(self, subject: Subject) -> None:
        """Raise an AssertionError unless the promise is kept, SkipTest if it cannot be tried."""
        if not self.share:
            self.function(subject, **self.arguments)
            return
        needed("hypothesis", "for random cases")
        from knnspect.testing.drawing import for_drawn_cases

        for_drawn_cases(lambda data: self.function(subject, data), self.n_cases)


class Checks(Generic[Subject]):
    """A list of checks that grows as functions are decorated."""

    def __init__(self) -> None:
        self._all: list[Check[Subject]] = []

    def __iter__(self) -> Iterator[Check[Subject]]:
        return iter(self._all)

    def add(self, **values: Iterable[Any]) -> Callable[[Function], Function]:
        """Add the decorated function, once for each combination of the values."""
        combinations = [
            dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
        ]

        def decorate(function: Function) -> Function:
            self._all += [Check(function, arguments) for arguments in combinations]
            return function

        return decorate

    def add_drawn(self, share: float) -> Callable[[Function], Function]:
        """Add the decorated function, which draws random cases: this share of their number."""

        def decorate(function: Function) -> Function:
            self._all.append(Check(function, share=share))
            return function

        return decorate


def with_cases(checks: Iterable[Check[Subject]], n_cases: int) -> list[Check[Subject]]:
    """Return checks that draw their share of so many random cases."""
    return [
        replace(check, n_cases=max(1, round(check.share * n_cases))) if check.share else check
        for check in checks
    ]


@dataclass(frozen=True)
class Results:
    """What became of checks that did not fail.

    Parameters
    ----------
    passed : sequence of str
        Names of checks.
    skipped : mapping of str to str
        Names of checks that could not run here, and why.
    """

    passed: Sequence[str]
    skipped: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Results({len(self.passed)} passed, {len(self.skipped)} skipped)"


class ContractError(AssertionError):
    """Some promises are not kept; the message has a paragraph for each.

    Attributes
    ----------
    failures : dict of str to Exception
        What each check raised, by its name.
    """

    def __init__(self, what: str, failures: Mapping[str, Exception], n_checks: int) -> None:
        self.failures = dict(failures)
        parts = [f"{name}\n{_indented(error)}" for name, error in self.failures.items()]
        super().__init__(
            f"{what}: {len(failures)} of {n_checks} checks failed\n\n" + "\n\n".join(parts)
        )


def run_checks(what: str, subject: Subject, checks: Sequence[Check[Subject]]) -> Results:
    """Run all checks, whichever fail.

    Parameters
    ----------
    what : str
        What is checked, in words.
    subject : object
        What is checked.
    checks : sequence of Check
        Those to run.

    Returns
    -------
    Results
        Which passed, and which could not run here; of these a warning tells, too.

    Raises
    ------
    ContractError
        If any failed.
    """
    problems = {check.name: _problem(check, subject) for check in checks}
    skipped = {name: str(why) for name, why in problems.items() if isinstance(why, SkipTest)}
    failures = {name: why for name, why in problems.items() if why and name not in skipped}
    if skipped:
        reasons = "; ".join(sorted(set(skipped.values())))
        warnings.warn(
            f"{what}: {len(skipped)} of {len(checks)} checks were skipped: {reasons}", stacklevel=3
        )
    if failures:
        raise ContractError(what, failures, len(checks)) from next(iter(failures.values()))
    return Results([name for name, problem in problems.items() if problem is None], skipped)


def _problem(check: Check[Subject], subject: Subject) -> Exception | None:
    try:
        check(subject)
    except Exception as error:  # also what the checked object raises, and should not
        return error
    return None


def needed(name: str, why: str, package: str | None = None) -> ModuleType:
    """Import an optional module; raise SkipTest that says what to install if it is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        raise SkipTest(f"pip install {package or name}, {why}: {error}") from error


def _indented(error: Exception) -> str:
    text = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
    notes = getattr(error, "__notes__", [])
    return "\n".join(f"    {line}" for part in (text, *notes) for line in part.strip().splitlines())
