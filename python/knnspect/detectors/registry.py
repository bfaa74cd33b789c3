"""Methods by their words: those that come with knnspect, and those that others register.

Each module of `nearest`, `heads` and `reconstruction`, but for those that methods share, is a
method, called as its file. Another package registers one as an entry point of the group
``knnspect.detectors``: its name is the word, its object a subclass of `Detector` with that word as
its `method`.
"""

from __future__ import annotations

import os
import pkgutil
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from knnspect.detectors import heads, nearest, reconstruction
from knnspect.detectors.base import Detector
from knnspect.errors import ParameterError, StoreError, errors_about
from knnspect.files import as_damage, check_path
from knnspect.model_files import StoredModel

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["get_method", "load_as", "methods"]

#: What others register their detectors under.
_GROUP = "knnspect.detectors"
#: Packages of methods, each a module.
_ROOMS: tuple[ModuleType, ...] = (nearest, heads, reconstruction)
#: The modules in them that methods share.
_SHARED = (
    *("base", "compared", "illustrated", "coreset", "leave_one_out", "masked", "masking"),
    *("dropping", "gaussian", "growing", "outliers"),
)


def methods() -> list[str]:
    """Return the words of all methods, ours first.

    Examples
    --------
    >>> [word for word in methods() if word in ("cflow", "spade")]
    ['spade', 'cflow']
    """
    return [*_ours(), *(name for name in sorted(_registered()) if name not in _ours())]


def get_method(word: str) -> type[Detector]:
    """Return the class of a method.

    Parameters
    ----------
    word : str
        One of `methods`.

    Returns
    -------
    type
        A subclass of `Detector`.

    Raises
    ------
    ParameterError
        If there is none, or what another package registered is not a detector of that word.

    Examples
    --------
    >>> get_method("spade").__name__
    'Spade'
    """
    if word in _ours():
        module = import_module(_ours()[word])
        ours: type[Detector] = next(k for k in vars(module).values() if _is_method(k, word))
        return ours
    registered = _registered().get(word)
    if registered is None:
        words = ", ".join(methods())
        raise ParameterError(f"method: expected one of {words}, got {word!r}")
    try:
        kind: object = registered.load()
    except Exception as error:  # whatever a third party's module raises
        raise ParameterError(
            f"method {word!r}: its entry point {registered.value!r} cannot be loaded: {error!r}"
        ) from error
    if not isinstance(kind, type) or not _is_method(kind, word):
        raise ParameterError(
            f"method {word!r}: its entry point {registered.value!r} is no subclass of Detector "
            f"with the method {word!r}"
        )
    return kind


def load_as(kind: type[Detector], path: str | os.PathLike[str], device: str | None) -> Detector:
    """Load a detector of a class that need not be registered; else as `composed.loading.load`."""
    with errors_about(path=check_path(path)):
        stored = StoredModel(path)
        if stored.kind != kind.method:
            raise StoreError(
                f"{stored.path}: expected a {kind.method}, the file holds a {stored.kind}"
            )
        with as_damage(stored.path, "its settings"):
            stored.read_config()
        stored.check_device(device)  # so that it is not taken for a setting of the file
        with as_damage(stored.path, "its settings"):
            return kind._from_store(stored, device)


@cache
def _ours() -> dict[str, str]:
    """Return the module of each method of ours."""
    return {
        module.name: f"{room.__name__}.{module.name}"
        for room in _ROOMS
        for module in pkgutil.iter_modules(room.__path__)
        if not module.ispkg and module.name not in _SHARED
    }


def _registered() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=_GROUP)}


def _is_method(kind: object, word: str) -> bool:
    return (
        isinstance(kind, type)
        and issubclass(kind, Detector)
        and getattr(kind, "method", None) == word
    )
