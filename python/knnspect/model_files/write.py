"""Writing a model: a file, or the folder in which its features are."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from knnspect import _core
from knnspect.files import check_path
from knnspect.gallery import Coreset, Gallery
from knnspect.model_files.layout import BACKBONE, LINES, MODEL, OF_IMAGES
from knnspect.normal_features.folder import digest_of_images, is_features_folder

__all__ = ["is_in", "write_model"]


def is_in(folder: Path, searched: Gallery | Coreset | None) -> bool:
    """Return whether a folder of features is where a model with this gallery or coreset lives.

    A gallery is there only if its features are; a coreset lies in the file beside them.
    """
    if searched is None or not is_features_folder(folder):
        return False
    if isinstance(searched, Coreset):
        return True
    home = searched.path
    return home is not None and home.parent.samefile(folder)


def write_model(
    path: str | os.PathLike[str],
    method: str,
    config: dict[str, Any],
    backbone: tuple[dict[str, Any], dict[str, NDArray[Any]]],
    arrays: dict[str, NDArray[Any]],
    searched: Gallery | Coreset | None = None,
    about_images: dict[str, NDArray[Any]] | None = None,
    of_fit: Sequence[str] | None = None,
) -> None:
    """Write a detector to a file, or, without what is there, to the folder of its features.

    Parameters
    ----------
    path : path-like
        The file, or a folder that `knnspect.normal_features.extract` has filled.
    method : str
        The kind of detector.
    config : dict
        Its settings, JSON-compatible.
    backbone : (dict, dict of str to ndarray)
        What `Backbone.state` returned.
    arrays : dict of str to ndarray
        What it consists of besides.
    searched : Gallery or Coreset, optional
        What it searches.
    about_images : dict of str to ndarray, optional
        What is in the folder beside the gallery, if it is there.
    of_fit : sequence of str, optional
        The images of the gallery that are not there by a correction; all by default.

    Raises
    ------
    StoreError
        If the file cannot be written.
    """
    settings, weights = backbone
    metadata = {"config": json.dumps({**config, "backbone": settings}, sort_keys=True)}
    tensors = {BACKBONE + name: tensor for name, tensor in weights.items()} | arrays
    gallery = searched.bank if isinstance(searched, Coreset) else searched
    if isinstance(searched, Coreset):
        of_rows, arrays_of_rows = searched.state()
        metadata, tensors = metadata | of_rows, tensors | arrays_of_rows
    folder = check_path(path)
    is_ours = is_features_folder(folder)
    is_home = is_in(folder, searched)
    if is_home:
        tensors = {name: array for name, array in tensors.items() if not name.startswith(LINES)}
    # The user's own path may be a link to the file; names in a folder are no links of ours.
    file, follow_links = (folder / MODEL, False) if is_ours else (folder, True)
    if gallery is None or (is_home and gallery is searched):
        if gallery is not None:
            ids = gallery.ids if of_fit is None else list(of_fit)
            metadata[OF_IMAGES] = digest_of_images(folder, ids)
        _core.save_tensors(file, method, metadata, tensors, follow_links)
    else:
        gallery.core.save(file, method, metadata, tensors | (about_images or {}), follow_links)
