"""The file from which training goes on after an interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NoReturn

from numpy.typing import NDArray

from knnspect import _core
from knnspect.errors import ParameterError, StoreError
from knnspect.files import as_damage, check_path, is_there, parse_json
from knnspect.validation import some_ids

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
        All that the training depends on besides its images, JSON-compatible: a training with other
        settings does not go on from this file.
    images : mapping of str to str, optional
        The images that are trained on: for each id what tells the image from others. A training on
        other images does not go on from this file either.
    follow_links : bool, default True
        Whether the file may be a symbolic link.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint = Checkpoint(f"{folder}/half", {"seed": 0}, {"a.png": "4f0c"})
    ...     checkpoint.write({"epoch": 3}, {"weight": np.ones(2, np.float32)})
    ...     checkpoint.read()
    ({'epoch': 3}, {'weight': array([1., 1.], dtype=float32)})
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: Mapping[str, Any],
        images: Mapping[str, str] | None = None,
        *,
        follow_links: bool = True,
    ) -> None:
        self.path = check_path(path)
        self._follow_links = follow_links
        # As they are when they were read from a file.
        self._settings = json.loads(json.dumps(settings))
        self._images = dict(images or {})

    def check(self) -> None:
        """Check the file as `read` does, but for the images and the checksum, before the work.

        Raises
        ------
        StoreError
            If the file is damaged or not a checkpoint.
        ParameterError
            If it belongs to a training with other settings.
        """
        if is_there(self.path):
            self._check_settings(_core.Store(self.path, False, self._follow_links))

    def read(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
        """Return what was written last; None where there is no file.

        Raises
        ------
        StoreError
            If the file is damaged, or not a regular file, or not a checkpoint.
        ParameterError
            If it belongs to a training with other settings or on other images.
        """
        if not is_there(self.path):
            return None
        store = _core.Store(self.path, True, self._follow_links)
        self._check_settings(store)
        self._check_images(store)
        state = _entry(store, "state")
        return state, {name: store.tensor(name) for name in store.names}

    def _check_settings(self, store: _core.Store) -> None:
        if store.kind != _KIND:
            raise StoreError(
                f"{self.path}: expected a checkpoint of a training, the file holds a {store.kind}",
                path=self.path,
            )
        if "images" not in store.metadata:
            self._refuse(
                "by an earlier version of knnspect, which did not keep what its images were"
            )
        settings = _entry(store, "settings")
        # A setting may be left out where it has its default.
        for name in {**self._settings, **settings}:
            was, is_ = settings.get(name), self._settings.get(name)
            if was != is_:
                self._refuse(f"with another {name} ({_short(was)}, not {_short(is_)})")

    def _check_images(self, store: _core.Store) -> None:
        images = _entry(store, "images")
        differing = {
            "changed": [id_ for id_ in images if images[id_] != self._images.get(id_, images[id_])],
            "missing": [id_ for id_ in images if id_ not in self._images],
            "added": [id_ for id_ in self._images if id_ not in images],
        }
        words = [f"{len(ids)} {how}: {some_ids(ids)}" for how, ids in differing.items() if ids]
        if words:
            self._refuse(f"with another set of images ({'; '.join(words)})")

    def _refuse(self, which: str) -> NoReturn:
        raise ParameterError(
            f"{self.path}: is the checkpoint of a training {which}: choose another file, or delete "
            "it to begin anew",
            path=self.path,
        )

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
        parts = {"settings": self._settings, "images": self._images, "state": state}
        metadata = {name: json.dumps(part) for name, part in parts.items()}
        _core.save_tensors(self.path, _KIND, metadata, tensors, self._follow_links)

    def remove(self) -> None:
        """Delete the file, if it is there."""
        self.path.unlink(missing_ok=True)


def _entry(store: _core.Store, name: str) -> dict[str, Any]:
    """Return a dict that `write` has put into the file's metadata."""
    with as_damage(store.path, f"its {name}", "read"):
        entry = parse_json(store.metadata[name], store.path, f"its {name}")
        if not isinstance(entry, dict):
            raise TypeError(f"expected an object, got {type(entry).__name__}")
    return entry


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
