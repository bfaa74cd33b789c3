"""The exceptions of knnspect: one family, each also the built-in that callers would expect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "BackendUnavailable",
    "CalibrationError",
    "CalibrationWarning",
    "DTypeError",
    "DatasetWarning",
    "DisagreementError",
    "ForkError",
    "ImageError",
    "ImageWarning",
    "KnnspectError",
    "MissingPackageError",
    "NotFittedError",
    "ParameterError",
    "ReadingWarning",
    "ShapeError",
    "StoreError",
]


class KnnspectError(Exception):
    """Base class of every error that knnspect raises on purpose.

    The message says what was expected, what came, and where. The attributes say where to programs;
    they are None where they do not apply, or are not known apart from the message.

    Parameters
    ----------
    *args : str
        The message.
    path, image, level, parameter
        The attributes that are known.

    Attributes
    ----------
    path : pathlib.Path or None
        The file or the folder.
    image : str or None
        The id of the image; of a query image, its number.
    level : int or None
        The level of the pyramid, the finest being 0.
    parameter : str or None
        The parameter.

    Examples
    --------
    >>> import knnspect as ks
    >>> try:
    ...     ks.Gallery().pyramid(["bottle"])
    ... except ks.ParameterError as error:
    ...     (error.parameter, error.image)
    ('images', 'bottle')
    """

    path: Path | None = None
    image: str | None = None
    level: int | None = None
    parameter: str | None = None

    def __init__(
        self,
        *args: object,
        path: Path | None = None,
        image: str | None = None,
        level: int | None = None,
        parameter: str | None = None,
    ) -> None:
        super().__init__(*args)
        self._complete({"path": path, "image": image, "level": level, "parameter": parameter})

    def _complete(self, fields: dict[str, Any]) -> None:
        """Set those attributes that are not set yet."""
        for name, value in fields.items():
            if value is not None and getattr(self, name) is None:
                setattr(self, name, value)


@contextmanager
def errors_about(
    path: Path | None = None, image: str | None = None, parameter: str | None = None
) -> Iterator[None]:
    """Set the attributes of errors that are raised within, where they are not set yet.

    >>> try:
    ...     with errors_about(parameter="sigma"):
    ...         raise ParameterError("sigma: expected a finite number above 0, got -1")
    ... except ParameterError as error:
    ...     error.parameter
    'sigma'
    """
    try:
        yield
    except KnnspectError as error:
        error._complete({"path": path, "image": image, "parameter": parameter})
        raise


class ParameterError(KnnspectError, ValueError):
    """A parameter lies outside the values it may take; the message names it."""


class ShapeError(KnnspectError, ValueError):
    """An array has another shape than the one expected; the message gives both."""


class DTypeError(KnnspectError, TypeError):
    """An array has another element type than those expected; the message gives both."""


class ImageError(KnnspectError, ValueError):
    """An image or its features cannot be used; the message names the file or the image id."""


class StoreError(KnnspectError, ValueError):
    """A file is not one of ours, is damaged, or cannot be written; the message names it."""


class CalibrationError(KnnspectError, ValueError):
    """A decision was asked for that the scores of normal images do not allow; the message says why.

    There are too few of them for a false-alarm rate, or none.
    """


class BackendUnavailable(KnnspectError, ImportError):  # noqa: N818 - reads as what it says
    """A backend was asked for that cannot run here; the message says what it lacks."""

    path: Any = None  # an ImportError has one, too


class MissingPackageError(KnnspectError, ImportError):
    """A package that comes with an extra of knnspect is missing; the message says how to get it."""

    path: Any = None  # an ImportError has one, too


class ImageWarning(UserWarning):
    """An image was left out because it cannot be used; the message names it."""


class DatasetWarning(UserWarning):
    """A data set, or a part of it, may be meant otherwise than it is read; the message says how."""


class CalibrationWarning(UserWarning):
    """Scores of normal images say less than they seem to; the message says why."""


class ReadingWarning(UserWarning):
    """Something of an image or a folder was not read as one may expect; said once for a run."""


class DisagreementError(KnnspectError, RuntimeError):
    """What is to agree, such as an exact backend, found something else; the message says where."""


class ForkError(KnnspectError, RuntimeError):
    """Something was asked of a forked process that works in its parent alone."""


class NotFittedError(KnnspectError, RuntimeError, AttributeError):
    """A detector was used before ``fit``.

    It is an AttributeError, too: of what is learnt, an unfitted detector has no attributes.
    """
