"""Places for results, looked at before the work."""

from __future__ import annotations

import os
from pathlib import Path

from knnspect.errors import StoreError, errors_about

__all__ = ["check_results_folder", "check_writable"]


def check_writable(path: Path, folder: bool = False, picture: bool = False) -> None:
    """Raise a StoreError, before the work, if a result cannot be written to a place.

    What is there and is not a regular file, such as a device, is not replaced; neither are images.

    Parameters
    ----------
    path : Path
        The file; with `folder` the folder.
    folder : bool, default False
        Whether a folder is to be written.
    picture : bool, default False
        Whether a picture is to be written, which may replace another.
    """
    with errors_about(path=path):
        _check_writable(path, folder, picture)


def _check_writable(path: Path, folder: bool, picture: bool) -> None:
    from knnspect.data import IMAGE_SUFFIXES

    parent, is_image = path.absolute().parent, path.suffix.lower() in IMAGE_SUFFIXES
    try:
        if folder and path.exists() and not path.is_dir():
            raise StoreError(f"{path}: expected a folder to write, it is a file")
        if not folder and path.is_dir():
            raise StoreError(f"{path}: expected a file to write, it is a folder")
        if not folder and path.exists() and not path.is_file():
            raise StoreError(f"{path}: expected a file to write, it is a device or a pipe")
        if not folder and not picture and path.exists() and is_image:
            raise StoreError(f"{path}: expected a file to write, it is an image that is there")
        if not parent.is_dir():
            why = "is not a folder" if parent.exists() else "does not exist"
            raise StoreError(f"{path}: the folder {parent} {why}")
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error
    if not os.access(path if folder and path.exists() else parent, os.W_OK):
        raise StoreError(f"{path}: cannot be written: no permission to write in {parent}")


def check_results_folder(path: Path) -> None:
    """Raise a StoreError, before the work, if a folder of results cannot be made or written."""
    with errors_about(path=path):
        _check_results_folder(path)


def _check_results_folder(path: Path) -> None:
    try:
        # The folders above it are made, too.
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error
    if not there.is_dir():
        raise StoreError(f"{path}: expected a folder for results, {there} is a file")
    if not os.access(there, os.W_OK):
        raise StoreError(f"{path}: cannot be written: no permission to write in {there}")
