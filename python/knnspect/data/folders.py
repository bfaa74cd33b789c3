"""Which files of a folder are images."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from knnspect.data.formats import IMAGE_SUFFIXES, OTHER_SUFFIXES
from knnspect.data.own_pictures import described, own_pictures
from knnspect.errors import ImageError, ReadingWarning

__all__ = ["list_images"]


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the image files in a folder and the folders below it.

    Files and folders whose name begins with a dot are left out. Links are followed. What is an
    image and what is not is told by the ending of its name. Overlays and contact sheets that
    knnspect wrote are no images.

    Parameters
    ----------
    folder : str or os.PathLike
        The folder.

    Returns
    -------
    list of pathlib.Path
        Each beginning with `folder`, sorted by the path below it, written with ``/``. May be
        empty.

    Raises
    ------
    ImageError
        There is no such folder, one cannot be read, or all images are overlays that knnspect wrote.

    Warns
    -----
    ReadingWarning
        There are files of other image formats, such as GIF, or pictures that knnspect wrote, which
        are left out. Other files, such as tables and texts, are left out without a word.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png"):
    ...         (Path(folder) / name).touch()
    ...     [file.name for file in list_images(folder)]
    ['a.JPG', 'b.png']
    """
    root = Path(folder)
    if not root.is_dir():
        came = "a file" if root.exists() else "nothing there"
        raise ImageError(f"{root}: expected a folder of images, got {came}", path=root)
    others: Counter[str] = Counter()
    files = sorted(
        _walk(root, frozenset(), others), key=lambda file: file.relative_to(root).as_posix()
    )
    if others:
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in sorted(others.items()))
        warnings.warn(
            f"{root}: left out {others.total()} image files of formats that are not read ({kinds})",
            ReadingWarning,
            stacklevel=2,
        )
    own = own_pictures(files)
    if own and len(own) == len(files):
        raise ImageError(f"{root}: expected images, got {described(own)}", path=root)
    if own:
        warnings.warn(f"{root}: left out {described(own)}", ReadingWarning, stacklevel=2)
        return [file for file in files if file not in own]
    return files


def _walk(folder: Path, above: frozenset[Path], others: Counter[str]) -> Iterator[Path]:
    # Links may lead back to a folder that we are in: that one is not entered again.
    real = folder.resolve()
    if real in above:
        return
    try:
        entries = [
            (entry, entry.is_dir()) for entry in folder.iterdir() if not entry.name.startswith(".")
        ]
    except OSError as error:
        raise ImageError(
            f"{folder}: expected a readable folder, got: {error.strerror}", path=folder
        ) from error
    for entry, is_folder in entries:
        if is_folder:
            yield from _walk(entry, above | {real}, others)
        elif (suffix := entry.suffix.lower()) in IMAGE_SUFFIXES:
            yield entry
        elif suffix in OTHER_SUFFIXES:
            others[suffix] += 1
