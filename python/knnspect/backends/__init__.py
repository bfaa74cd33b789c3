"""Backends: what searches a gallery.

Every backend gives the same neighbours and the same distances (the contract of exactness); they
differ in where they run and how fast they are.

``base``   what a backend is
``rust``   the Rust core, on the CPU
"""

from __future__ import annotations

from knnspect.backends.base import Backend, ImageSubset
from knnspect.backends.rust import RustBackend
from knnspect.errors import DTypeError, ParameterError

__all__ = ["Backend", "ImageSubset", "RustBackend", "available_backends", "get_backend"]

_BACKENDS: dict[str, type[Backend]] = {"rust": RustBackend}


def available_backends() -> list[str]:
    """Return the names that ``backend=`` accepts, besides ``"auto"``.

    Returns
    -------
    list of str
        The names, best first.

    Examples
    --------
    >>> available_backends()
    ['rust']
    """
    return list(_BACKENDS)


def get_backend(backend: str | Backend) -> Backend:
    """Return the backend of that name, or the backend itself.

    Parameters
    ----------
    backend : str or Backend
        ``"auto"``, one of `available_backends`, or anything that searches as one.

    Returns
    -------
    Backend
        Ready to search.

    Raises
    ------
    ParameterError
        If there is no backend of that name.
    DTypeError
        If it is neither a name nor a backend.

    Examples
    --------
    >>> get_backend("auto").name
    'rust'
    """
    if not isinstance(backend, str):
        if not callable(getattr(backend, "search", None)):
            raise DTypeError(f"backend: expected a name or a Backend, got {type(backend).__name__}")
        return backend
    name = "rust" if backend == "auto" else backend
    if name not in _BACKENDS:
        names = ", ".join(repr(known) for known in ("auto", *_BACKENDS))
        raise ParameterError(f"backend: expected one of {names}, got {name!r}")
    return _BACKENDS[name]()
