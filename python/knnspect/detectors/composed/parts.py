"""What a file of a composed detector holds: files of its views, and that of a locator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from knnspect.model_files import StoredModel
from knnspect.packed import packed, unpacked

__all__ = ["LOCATOR", "VIEWS", "packed_files", "unpacked_files"]

#: Before the names of the arrays that hold them.
VIEWS, LOCATOR = "views.", "locator."


def packed_files(prefix: str, writers: Sequence[Callable[[Path], None]]) -> dict[str, NDArray[Any]]:
    """Return files as arrays, each written by a function that is given its path."""
    contents = []
    with TemporaryDirectory() as folder:
        file = Path(folder) / "part.ks"
        for write in writers:
            write(file)
            contents.append(file.read_bytes())
    return {prefix + name: array for name, array in packed("files", contents).items()}


def unpacked_files(stored: StoredModel, prefix: str, folder: Path) -> list[Path]:
    """Write the files to a folder, and return their paths.

    Raises
    ------
    KeyError, TypeError, ValueError
        If they are not in the model, or of another kind.
    """
    files = []
    for number, contents in enumerate(unpacked("files", stored.tensors(prefix))):
        files.append(folder / f"{prefix}{number}.ks")
        files[-1].write_bytes(contents)
    return files
