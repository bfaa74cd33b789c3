"""Images in the order in which they were taken: the frames of a video, a numbered folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.data.reader import ImageReader
from knnspect.data.sources import ImageItem, ImageSource, open_images
from knnspect.errors import ImageError
from knnspect.extras import require

__all__ = ["VIDEO_SUFFIXES", "open_sequence"]

#: Endings of videos that are read, in lower case.
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")


def open_sequence(frames: object) -> ImageSource:
    """Return the frames of a sequence in their order.

    Parameters
    ----------
    frames : path, or anything that `open_images` takes
        - A video file: its frames, whose ids are such as ``clip.mp4#0001``, from 1 on. It is
          decoded by the ffmpeg that comes with the extra ``video``, anew whenever the source is
          iterated, one frame at a time.
        - A folder: its image files, in the order of the numbers in their names, so that
          ``frame2.png`` comes before ``frame10.png``; ids as `open_images` gives them.
        - All else as it is.

    Returns
    -------
    ImageSource
        The frames.

    Raises
    ------
    ImageError
        If there is no such file, or it is no video; of a damaged one while iterating.
    MissingPackageError
        If a video is to be read, and what reads it is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for number in (10, 9, 1):
    ...         Image.new("L", (4, 4)).save(f"{folder}/frame{number}.png")
    ...     [item.id for item in open_sequence(folder)]
    ['frame1.png', 'frame9.png', 'frame10.png']
    """
    if isinstance(frames, str | os.PathLike):
        path = Path(frames)
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir():
            return _Video(path)
        if path.is_dir():
            items = sorted(open_images(path), key=lambda item: _natural(item.id))
            return ImageSource(items, len(items))
    return open_images(frames)


class _Video(ImageSource):
    """The frames of a video file."""

    def __init__(self, path: Path) -> None:
        require("imageio", "imageio_ffmpeg", for_=f"reading {path.name}")
        if not path.is_file():
            raise ImageError(f"{path}: expected a video, but there is no such file", path=path)
        super().__init__((), None)
        self._path = path

    def __iter__(self) -> Iterator[ImageItem]:
        from imageio import v3 as imageio

        n_frames = 0
        try:
            for frame in imageio.imiter(self._path, plugin="FFMPEG"):
                n_frames += 1
                id_ = f"{self._path.name}#{n_frames:04d}"
                yield ImageItem(id_, partial(_checked, np.asarray(frame), id_))
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise ImageError(
                f"{self._path}: expected a video, got a file that ffmpeg cannot read after "
                f"{n_frames} frames ({reason[0].strip()})",
                path=self._path,
            ) from error
        if not n_frames:
            raise ImageError(f"{self._path}: expected a video, it has no frames", path=self._path)


def _checked(frame: NDArray[Any], id_: str) -> Any:
    return ImageReader().from_array(frame, id_)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return what orders names by the numbers in them.

    >>> sorted(["a10", "a9", "a", "b1"], key=_natural)
    ['a', 'a9', 'a10', 'b1']
    """
    return [
        (0, int(part), part) if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", name)
        if part
    ]
