"""Backends: what searches a gallery.

Every backend gives the same neighbours and the same distances (the contract of exactness); they
differ in where they run and how fast they are.

``base``   what a backend is
``rust``   the Rust core, on the CPU
"""

from __future__ import annotations

from knnspect.backends.base import Backend, ImageSubset
from knnspect.backends.rust import RustBackend
from knnspect.errors import ParameterError

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


def get_backend(name: str) -> Backend:
    """Return the backend of that name.

    Parameters
    ----------
    name : str
        ``"auto"`` or one of `available_backends`.

    Returns
    -------
    Backend
        Ready to search.

    Raises
    ------
    ParameterError
        If there is no such backend.

    Examples
    --------
    >>> get_backend("auto").name
    'rust'
    """
    if name == "auto":
        name = "rust"
    if name not in _BACKENDS:
        names = ", ".join(repr(known) for known in ("auto", *_BACKENDS))
        raise ParameterError(f"backend: expected one of {names}, got {name!r}")
    return _BACKENDS[name]()
