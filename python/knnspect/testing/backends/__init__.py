"""The contract of exactness as checks of a backend.

``neighbours``  the true ones are found, at every scale, with ties in order
``windows``     and so are those within a position window
``invariance``  nothing else has a say: threads, batches, order, storage, strides
``changes``     galleries that change, and several searches at once
``mistakes``    what cannot be searched is refused by name
``real``        features of real images
``interrupt``   Ctrl-C ends a search
"""

from __future__ import annotations

from knnspect.search import Backend
from knnspect.testing.backends import (
    changes,
    interrupt,
    invariance,
    mistakes,
    neighbours,
    real,
    windows,
)
from knnspect.testing.checks import Check, Results, run_checks, with_cases
from knnspect.validation import check_count

__all__ = ["backend_checks", "check_backend"]

_ALL: list[Check[Backend]] = [
    check
    for module in (neighbours, windows, invariance, changes, mistakes, real, interrupt)
    for check in module.CHECKS
]


def backend_checks(n_cases: int = 200) -> list[Check[Backend]]:
    """Return what every backend promises, as checks.

    Parameters
    ----------
    n_cases : int, default 200
        Random cases for the check that the true neighbours are found; others that draw cases take
        a quarter of it.

    Returns
    -------
    list of Check
        Each is called with a backend.

    Examples
    --------
    >>> from knnspect.backends import get_backend
    >>> check = backend_checks()[2]
    >>> print(check)
    a_constant_region_is_one_tie(ratio=2, dtype='float32')
    >>> check(get_backend("rust"))
    """
    return with_cases(_ALL, check_count("n_cases", n_cases))


def check_backend(backend: Backend, n_cases: int = 200) -> Results:
    """Check that a backend keeps the contract of exactness; it takes about a minute.

    Parameters
    ----------
    backend : Backend
        An object that searches.
    n_cases : int, default 200
        See `backend_checks`.

    Returns
    -------
    Results
        Which checks passed, and which could not run here.

    Raises
    ------
    ContractError
        An AssertionError that says of each check that failed what was expected and what came.

    Warns
    -----
    UserWarning
        If checks were skipped, with what to install. Random cases need hypothesis, real features
        the packages of ``knnspect[testing]``.

    Examples
    --------
    >>> from knnspect.backends import RustBackend
    >>> check_backend(RustBackend(matcher="pruned"))  # doctest: +SKIP
    Results(110 passed, 0 skipped)
    """
    name = getattr(backend, "name", type(backend).__name__)
    return run_checks(f"backend {name!r}", backend, backend_checks(n_cases))
