"""Backends by name: those that come with knnspect, and those that others register."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING

from knnspect.errors import BackendUnavailable, DTypeError, ParameterError
from knnspect.search import Backend

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["auto_backend", "available_backends", "get_backend", "unavailable_backends"]

#: Where each of ours lives; first the one that "auto" means.
_OURS = {
    "rust": ("knnspect.backends.rust", "RustBackend"),
    "torch": ("knnspect.backends.torch", "TorchBackend"),
    "faiss": ("knnspect.backends.faiss", "FaissBackend"),
    "sklearn": ("knnspect.backends.sklearn", "SklearnBackend"),
}

#: Searches sharded galleries on a cluster, and is no way to search others.
_OF_CLUSTERS = {"ray": ("knnspect.backends.ray", "RayBackend")}

#: The group of entry points of third parties.
_GROUP = "knnspect.backends"


def available_backends() -> list[str]:
    """Return the names that ``backend=`` accepts here, besides ``"auto"``.

    Returns
    -------
    list of str
        The names, ours first. Why another one is missing is in `unavailable_backends`.

    Examples
    --------
    >>> available_backends()[0]
    'rust'
    """
    return [name for name in _names() if _problem(name) is None]


def unavailable_backends() -> dict[str, str]:
    """Return the names of the backends that cannot run here, and how to make each run.

    Returns
    -------
    dict of str to str
        Empty where all of them can.
    """
    problems = {name: _problem(name) for name in _names()}
    return {name: problem for name, problem in problems.items() if problem is not None}


def get_backend(backend: str | Backend) -> Backend:
    """Return the backend of that name, or the backend itself.

    Parameters
    ----------
    backend : str or Backend
        A name: ``"auto"`` (the Rust core), or one of `available_backends`, with a device after a
        colon where there are several: ``"torch"`` (CUDA where there is a device, else the CPU),
        ``"torch:cpu"``, ``"torch:cuda:1"``, ``"faiss"``, ``"faiss:cpu"``, ``"faiss:cuda:0"``; for
        sharded galleries also ``"ray"`` and ``"ray://address"`` (see `RayBackend`). Or anything
        that searches as a `Backend`.

    Returns
    -------
    Backend
        Ready to search. The same name gives the same object, which keeps what it has made of the
        galleries that it has searched for as long as these exist.

    Raises
    ------
    ParameterError
        If there is no backend of that name, or no such device.
    BackendUnavailable
        If it cannot run here; the message says what to do.
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
    return _make(auto_backend()[0] if backend == "auto" else backend)


def auto_backend() -> tuple[str, str]:
    """Return what ``"auto"`` means here, and why.

    Returns
    -------
    (str, str)
        The name of a backend, and the reason in words.

    Examples
    --------
    >>> name, reason = auto_backend()
    >>> name
    'rust'
    """
    reason = "it compares the fewest pairs, and leaves the GPU to the network"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        reason += "; whether torch is faster on this one, knnspect bench tells"
    return "rust", reason


@cache
def _make(word: str) -> Backend:
    name, colon, device = word.partition(":")
    factory = _factory(name)
    arguments = (device,) if colon else ()
    try:
        signature(factory).bind(*arguments)
    except TypeError:
        raise ParameterError(f"backend: {name!r} takes no device, got {word!r}") from None
    return factory(*arguments)


def _factory(name: str) -> Callable[..., Backend]:
    if name in (ours := _OURS | _OF_CLUSTERS):
        module, class_name = ours[name]
        factory: Callable[..., Backend] = getattr(import_module(module), class_name)
        return factory
    registered = _registered().get(name)
    if registered is None:
        known = ["auto", *_OURS, *_OF_CLUSTERS, *_names()]
        names = ", ".join(map(repr, dict.fromkeys(known)))
        raise ParameterError(f"backend: expected one of {names}, got {name!r}")
    try:
        loaded: Callable[..., Backend] = registered.load()
    except Exception as error:  # whatever a third party's module raises
        raise BackendUnavailable(
            f"backend {name!r}: its entry point {registered.value!r} cannot be loaded: {error!r}"
        ) from error
    return loaded


def _registered() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=_GROUP)}


def _names() -> list[str]:
    return [*_OURS, *(name for name in sorted(_registered()) if name not in _OURS)]


def _problem(name: str) -> str | None:
    try:
        _make(name)
    except BackendUnavailable as error:
        return str(error)
    return None
