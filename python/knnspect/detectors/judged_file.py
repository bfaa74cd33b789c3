"""Which file was judged, so that it can be found again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from knnspect.data import ImageItem, ImageSource
from knnspect.errors import ImageError

__all__ = ["JudgedFile", "noting_files"]


@dataclass(frozen=True)
class JudgedFile:
    """A file as it was before it was judged.

    Parameters
    ----------
    path : Path
        The file, absolute.
    size : int
        Its bytes.
    modified_ns : int
        When it was written, in nanoseconds.
    """

    path: Path
    size: int
    modified_ns: int

    @classmethod
    def of(cls, file: Path) -> JudgedFile | None:
        """Return a file as it is now; None if there is none."""
        try:
            found = os.stat(file)  # noqa: PTH116 - any path
        except OSError:
            return None
        return cls(Path(os.path.abspath(file)), found.st_size, found.st_mtime_ns)  # noqa: PTH100

    def check(self, image: str) -> None:
        """Raise an ImageError if the file is another one by now, or gone."""
        if JudgedFile.of(self.path) != self:
            raise ImageError(
                f"image {image}: {self.path} was changed or moved since it was judged: give the "
                "image that was judged",
                image=image,
                path=self.path,
            )


def noting_files(source: ImageSource, files: dict[str, JudgedFile]) -> ImageSource:
    """Return the same images; what is a file is put into a dict, by its id, before it is read."""

    def items() -> Iterator[ImageItem]:
        for item in source:
            if item.file is not None and (file := JudgedFile.of(item.file)) is not None:
                files[item.id] = file
            yield item

    return ImageSource(items(), source.n_images)
