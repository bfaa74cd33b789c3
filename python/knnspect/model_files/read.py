"""Reading a model: its parts, from a file or from the folder in which it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.corrections import Correction, Journal
from knnspect.errors import StoreError
from knnspect.features import Backbone, Extractor, Pixels, Scenes
from knnspect.features.stored import check_device
from knnspect.files import as_damage, check_path, is_folder, is_there, parse_json
from knnspect.gallery import Coreset, Gallery, is_gallery_folder
from knnspect.model_files.layout import BACKBONE, CORRECTIONS, LINES, MODEL, OF_IMAGES
from knnspect.normal_features.folder import GALLERY, about_images, digest_of_images
from knnspect.packed import unpacked
from knnspect.validation import check_positive

__all__ = ["StoredModel", "corrections_of"]


#: What makes the features, by the format of its settings; else a backbone does.
_EXTRACTORS: dict[str, type[Extractor]] = {"pixels": Pixels, "scenes": Scenes}


class StoredModel:
    """A model that is being read.

    Parameters
    ----------
    path : path-like
        A file, or a folder that is a model. The checksum of the file is compared.

    Attributes
    ----------
    path : Path
        The same.
    kind : str
        What the file holds.
    config : dict
        The settings in it; after `read_config`.

    Raises
    ------
    StoreError
        If there is none, or it is damaged.
    """

    config: dict[str, Any]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = check_path(path)
        self._folder = self.path if is_folder(self.path) else None
        file = self.path if self._folder is None else _model_in(self._folder)
        self._store = _core.Store(file, True, self._folder is None)
        self.kind = self._store.kind

    def read_config(self) -> None:
        """Read the settings; raise a KeyError if there are none."""
        text = self._store.metadata["config"]
        self.config = parse_json(text, self.path, "its settings")

    def backbone(self, device: str | None) -> Extractor:
        """Return what makes the features: a backbone with its network, pixels or scenes."""
        settings = self.config["backbone"]
        word = settings.get("format") if isinstance(settings, dict) else None
        kind = _EXTRACTORS.get(word, Backbone) if isinstance(word, str) else Backbone
        return kind.from_state(settings, self.tensors(BACKBONE), device)

    def check_device(self, device: str | None) -> None:
        """Raise a ParameterError or DTypeError if the backbone cannot run on a device."""
        check_device(self.config.get("backbone"), device)

    def tensors(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return the tensors whose names begin so, under what their names go on with."""
        return {
            name.removeprefix(prefix): self._store.tensor(name)
            for name in self._store.names
            if name.startswith(prefix)
        }

    def normal_map_max(self) -> float:
        """Return the largest map value of normal images, NaN if it is not known.

        Raises
        ------
        DTypeError, ParameterError
            If it is not a number, or none that a map has.
        """
        value = self.config["normal_map_max"]
        if value is None:
            return float("nan")
        return check_positive("normal_map_max", value, or_zero=True)

    @cached_property
    def journal(self) -> Journal | None:
        """What was corrected since the model was fitted; None if nothing was.

        It is read once; a StoreError says if it is damaged.
        """
        if LINES in self._store.names:
            journal: Journal | None = Journal.parse(
                unpacked("lines", self.tensors("corrections."))[0], self.path
            )
        elif self._folder is not None:
            journal = Journal.read(self._folder / CORRECTIONS)
        else:
            return None
        # That of a model that was there before is deleted before another is written.
        is_ours = journal is not None and journal.model == self.config.get("fitted", "")
        return journal if is_ours else None

    def searched(self) -> Gallery | Coreset:
        """Return the coreset, or the gallery: that of the file, or of the folder in which it is.

        Raises
        ------
        StoreError
            If there is none, it is damaged, or it has other images than when the file was saved.
        """
        if "coreset" in self._store.metadata:
            return Coreset.from_store(self._store)
        return self.gallery()

    def gallery(self) -> Gallery:
        """Return the gallery of an open file: its own, or that of the folder in which it is.

        Raises
        ------
        StoreError
            If there is none, it is damaged, or it has other images than when the file was saved.
        """
        if self._folder is None or "gallery.ids" in self._store.metadata:
            return Gallery.from_core(_core.Gallery.from_store(self._store))
        gallery = Gallery.open(self._folder / GALLERY)
        journal = self.journal
        ids = gallery.ids if journal is None or journal.images is None else list(journal.images)
        is_whole = all(id_ in gallery for id_ in ids)
        saved_with = self._store.metadata.get(OF_IMAGES)  # earlier versions did not keep it
        if not is_whole or saved_with not in (None, digest_of_images(self._folder, ids)):
            raise StoreError(
                f"{self._folder}: its images were changed after its model was saved: fit it again, "
                "with the same folder, and save it",
                path=self._folder,
            )
        return gallery

    def pooled(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """Return the pooled features of the images that are searched, from the same place.

        Raises
        ------
        StoreError
            If there are none, or they are damaged.
        """
        if self._folder is None or "pooled" in self._store.names:
            pooled: NDArray[Any] = self._store.tensor("pooled")
        else:
            pooled = about_images(self._folder, list(ids))[0]
        if pooled.dtype != np.float32 or pooled.ndim != 2 or len(pooled) != len(ids):
            raise StoreError(
                f"{self._store.path}: is damaged: expected pooled features of {len(ids)} "
                f"images, got {pooled.dtype} of shape {pooled.shape}"
            )
        if not np.isfinite(pooled).all():
            raise StoreError(f"{self._store.path}: is damaged: its pooled features are not finite")
        return pooled


def corrections_of(path: str | os.PathLike[str]) -> tuple[Correction, ...]:
    """Return what was corrected since a model was fitted, without its network.

    Raises
    ------
    StoreError
        If there is no model, or it is damaged.
    """
    stored = StoredModel(path)
    with as_damage(stored.path, "its settings"):
        stored.read_config()
        journal = stored.journal
    return () if journal is None else journal.history.corrections


def _model_in(folder: Path) -> Path:
    """Return the file of a folder that is a model."""
    file = folder / MODEL
    if not is_there(file):
        kind = "gallery" if is_gallery_folder(folder) else "folder"
        if is_there(folder / GALLERY):
            kind = "model that is not finished: fit it again, with the same folder, to go on"
        raise StoreError(f"{folder}: expected a detector, it is a {kind}", path=folder)
    return file
