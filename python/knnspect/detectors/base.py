"""What every detector has in common."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.detectors.building import GALLERY, MODEL
from knnspect.errors import StoreError
from knnspect.features import Backbone
from knnspect.features.network import check_device
from knnspect.files import as_damage, check_path, is_folder, is_there, parse_json
from knnspect.gallery import is_gallery_folder
from knnspect.search import Neighbors

__all__ = ["Detector", "Prediction", "load"]


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """What a detector says of one image.

    Parameters
    ----------
    id : str
        The image's id: its path in a folder, or a running number.
    score : float
        How unlike the normal images it is; larger is worse.
    map : ndarray of float32, shape (height, width)
        The same for each pixel of the image as it came.
    neighbors : Neighbors, optional
        For each cell, which normal cells were nearest and how far (squared L2).
    images : tuple of (str, float)
        The normal images that the image was compared with, nearest first, and their squared
        distances by pooled features.
    """

    id: str
    score: float
    map: NDArray[np.float32]
    neighbors: Neighbors | None = None
    images: tuple[tuple[str, float], ...] = ()

    def __repr__(self) -> str:
        height, width = self.map.shape
        return f"Prediction({self.id!r}, score={self.score:.6g}, map={height}x{width})"


class Detector(ABC):
    """Learns what normal looks like; judges other images.

    Parameters are stored by ``__init__`` and checked by `fit`; what is learnt has names that end in
    an underscore. Detectors can be pickled, for other processes, and deep-copied; `save` is for
    files.
    """

    backbone: Backbone
    #: "image" or "map".
    score: str
    #: Largest map value of normal images that were held out.
    normal_map_max_: float
    #: Time taken by each stage of the last fit or predict.
    seconds_: dict[str, float]

    #: The word for it on the command line and in files.
    method: ClassVar[str]

    def __copy__(self) -> Detector:
        """Return a detector of the same parameters that shares what was learnt."""
        copied = type(self).__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    @property
    @abstractmethod
    def n_images_(self) -> int:
        """Number of normal images that were learnt from."""

    @abstractmethod
    def fit(
        self,
        images: object,
        *,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool = False,
        progress: bool = False,
        max_memory: int | str | None = None,
        folder: str | os.PathLike[str] | None = None,
    ) -> Detector:
        """Learn from normal images; see the detector's own documentation."""

    @abstractmethod
    def iter_predict(
        self,
        images: object,
        *,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool = False,
        progress: bool = False,
    ) -> Iterator[Prediction]:
        """Judge images one after the other, in order, without keeping them all."""

    @abstractmethod
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted detector to a file."""

    @classmethod
    @abstractmethod
    def _from_store(
        cls,
        store: _core.Store,
        config: dict[str, Any],
        device: str | None,
        folder: Path | None,
    ) -> Detector:
        """Rebuild a detector from an open file and the settings in it; from a folder, with it."""

    def predict(
        self,
        images: object,
        *,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool = False,
        progress: bool = False,
    ) -> list[Prediction]:
        """Judge images.

        Parameters
        ----------
        images : folder, file, list of paths, arrays or PIL images, array, or loader
            As `knnspect.data.open_images` takes them.
        batch_size : int, default 16
            Images that are handled together. On the CPU predictions do not depend on it; on a GPU
            another size may round otherwise, but never the images that share a batch.
        n_workers : int, default 2
            Threads that read and resize images.
        skip_bad : bool, default False
            Leave out images that cannot be used, with an `ImageWarning`, instead of raising.
        progress : bool, default False
            Report progress on standard error.

        Returns
        -------
        list of Prediction
            One per image, in order.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ImageError
            If an image cannot be used, or there is none.
        """
        return list(
            self.iter_predict(
                images,
                batch_size=batch_size,
                n_workers=n_workers,
                skip_bad=skip_bad,
                progress=progress,
            )
        )


#: Where the detector of each kind of file lives.
_DETECTORS = {
    "cflow": ("knnspect.detectors.cflow", "CFlow"),
    "patchcore": ("knnspect.detectors.patchcore", "PatchCore"),
    "simplenet": ("knnspect.detectors.simplenet", "SimpleNet"),
    "spade": ("knnspect.detectors.spade", "Spade"),
}


def load(path: str | os.PathLike[str], device: str | None = None) -> Detector:
    """Load a detector that was saved.

    Parameters
    ----------
    path : path-like
        The file, or the folder. Its checksum is verified, but for the features in a folder, which
        are verified image by image when they are first used; nothing in it is executed. It stays
        memory-mapped: replace it by `Detector.save` or a rename, do not write into it.
    device : str, optional
        Where the network is to run; CUDA where there is one, else the CPU.

    Returns
    -------
    Detector
        Ready to predict, with the same results as before: to the bit on the same machine with as
        many PyTorch threads. `backend` and `threads` have their defaults.

    Raises
    ------
    StoreError
        If the file is missing, truncated, altered, of a newer version, or not a detector.
    ParameterError, DTypeError
        If the device cannot be used.

    Examples
    --------
    >>> load("no-such.ks")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    knnspect.errors.StoreError: no-such.ks: cannot be opened: No such file or directory...
    """
    where = check_path(path)
    folder = where if is_folder(where) else None
    store = _core.Store(where if folder is None else _model_in(folder), True, folder is None)
    if store.kind not in _DETECTORS:
        raise StoreError(f"{where}: expected a detector, the file holds a {store.kind}")
    if device is not None:
        check_device(device)  # lest it is taken for a setting of the file
    module, name = _DETECTORS[store.kind]
    detector: type[Detector] = getattr(import_module(module), name)
    with as_damage(where, "its settings"):
        config = parse_json(store.metadata["config"], where, "its settings")
        return detector._from_store(store, config, device, folder)


def _model_in(folder: Path) -> Path:
    """Return the file of a folder that is a model."""
    file = folder / MODEL
    if not is_there(file):
        kind = "gallery" if is_gallery_folder(folder) else "folder"
        if is_there(folder / GALLERY):
            kind = "model that is not finished: fit it again, with the same folder, to go on"
        raise StoreError(f"{folder}: expected a detector, it is a {kind}")
    return file
