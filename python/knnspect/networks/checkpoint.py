"""The file from which training goes on after an interruption."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from knnspect import _core
from knnspect.errors import ParameterError, StoreError

__all__ = ["Checkpoint"]

_KIND = "training"


class Checkpoint:
    """A file with the state of a training, which is replaced as training goes on.

    Like models it is safetensors with a checksum, and replaced in one step; nothing is unpickled.

    Parameters
    ----------
    path : path-like
        The file. It need not exist.
    settings : dict
        All that the training depends on, JSON-compatible: a training with other settings does not
        go on from this file.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint = Checkpoint(f"{folder}/half", {"seed": 0})
    ...     checkpoint.write({"epoch": 3}, {"weight": np.ones(2, np.float32)})
    ...     checkpoint.read()
    ({'epoch': 3}, {'weight': array([1., 1.], dtype=float32)})
    """

    def __init__(self, path: str | os.PathLike[str], settings: dict[str, Any]) -> None:
        self.path = Path(path)
        # As they are when they were read from a file.
        self._settings = json.loads(json.dumps(settings))

    def read(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
        """Return what was written last; None where there is no file.

        Raises
        ------
        StoreError
            If the file is damaged or not a checkpoint.
        ParameterError
            If it belongs to a training with other settings.
        """
        if not self.path.exists():
            return None
        store = _core.Store(self.path, True)
        if store.kind != _KIND:
            raise StoreError(
                f"{self.path}: expected a checkpoint of a training, the file holds a {store.kind}"
            )
        try:
            settings = json.loads(store.metadata["settings"])
            state = json.loads(store.metadata["state"])
            differing = [name for name in self._settings if settings[name] != self._settings[name]]
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{self.path}: is damaged: it cannot be read ({error})") from error
        if differing:
            name = differing[0]
            raise ParameterError(
                f"{self.path}: is the checkpoint of a training with another {name} "
                f"({_short(settings[name])}, not {_short(self._settings[name])}): choose another "
                "file, or delete it to begin anew"
            )
        return state, {name: store.tensor(name) for name in store.names}

    def write(self, state: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> None:
        """Replace the file.

        Parameters
        ----------
        state : dict
            JSON-compatible.
        tensors : dict of ndarray
            Of float32, float64 or int64.

        Raises
        ------
        StoreError
            If it cannot be written; what was there stays.
        """
        metadata = {"settings": json.dumps(self._settings), "state": json.dumps(state)}
        _core.save_tensors(self.path, _KIND, metadata, tensors)

    def remove(self) -> None:
        """Delete the file, if it is there."""
        self.path.unlink(missing_ok=True)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
