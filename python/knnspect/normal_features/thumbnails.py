"""Small copies of normal images, which a report shows beside what was found."""

from __future__ import annotations

import io
import os
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from knnspect.data import ImageItem, ImageReader, ImageSource
from knnspect.data.decoded import ImageArray
from knnspect.errors import StoreError
from knnspect.packed import packed, unpacked

__all__ = ["MOST_THUMBNAILS", "THUMBNAIL_BYTES", "ThumbnailMaker", "Thumbnails", "thumbnail_of"]

#: How many are kept by default: 10 to 30 MB.
MOST_THUMBNAILS = 2000
#: What one takes, about: 5 kB grey, 15 kB as a photograph.
THUMBNAIL_BYTES = 8000
#: Pixels of the longer side.
_LONGEST = 256
_QUALITY = 80
#: Of their files: none of images, or a folder of images that has a model in it would have more.
_SUFFIX = ".thumbnail"
#: How a JPEG begins and ends; what was cut short by a kill does not.
_BEGINNING, _END = b"\xff\xd8", b"\xff\xd9"


class Thumbnails(Mapping[str, bytes]):
    """Small copies of images, as JPEG, by the ids of the images.

    Parameters
    ----------
    contents : mapping of str to bytes
        The copies.

    Examples
    --------
    >>> kept = Thumbnails({"a.png": thumbnail_of(np.zeros((9, 9, 3), np.uint8))})
    >>> list(Thumbnails.from_arrays(kept.to_arrays())), len(kept.most(0))
    (['a.png'], 0)
    """

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self._contents = dict(contents)

    def __getitem__(self, id_: str) -> bytes:
        return self._contents[id_]

    def __iter__(self) -> Iterator[str]:
        return iter(self._contents)

    def __len__(self) -> int:
        return len(self._contents)

    def most(self, n: int) -> Thumbnails:
        """Return at most so many of them, always the same ones of the same."""
        first = sorted(self._contents, key=_name_of)[:n]
        return Thumbnails({id_: self._contents[id_] for id_ in sorted(first)})

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what is kept in a file: arrays by name; none if there are no thumbnails."""
        if not self._contents:
            return {}
        ids = [id_.encode("utf-8", "surrogatepass") for id_ in self._contents]
        return packed("ids", ids) | packed("jpeg", list(self._contents.values()))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Thumbnails:
        """Return what `to_arrays` was called on.

        Raises
        ------
        KeyError, TypeError, ValueError
            If something is missing or of another kind.
        """
        if not arrays:
            return cls({})
        ids = [id_.decode("utf-8", "surrogatepass") for id_ in unpacked("ids", arrays)]
        return cls(dict(zip(ids, unpacked("jpeg", arrays), strict=True)))


class ThumbnailMaker:
    """Makes thumbnails of images as they are read, in the threads that read them.

    Which images have one depends on their ids alone, not on their order or number: those whose
    digests are smallest. So a stream of images, an interrupted fit and one that goes on with more
    images keep the same ones.

    Parameters
    ----------
    most : int
        How many are kept, at most; 0: none.
    folder : Path, optional
        Where they are kept, too, for a fit that goes on; those that are there are taken over.

    Raises
    ------
    StoreError
        If the folder cannot be written.
    """

    def __init__(self, most: int, folder: Path | None = None) -> None:
        self._most, self._folder = most, folder
        self._lock = Lock()
        #: The names of those that are kept or being made, sorted.
        self._names: list[str] = []
        self._made: dict[str, bytes] = {}
        if folder is not None:
            self._open(folder)

    def watching(self, source: ImageSource) -> ImageSource:
        """Return the same images, of which thumbnails are made when they are loaded."""
        if self._most == 0:
            return source
        items = (_Watched(item.id, item.load, item.file, see=self._see) for item in source)
        return ImageSource(items, source.n_images)

    def of(self, images: Collection[str]) -> Thumbnails:
        """Return the thumbnails of images that were learnt, and forget those of all others."""
        names = {_name_of(id_): id_ for id_ in images}
        for name in [name for name in self._names if name not in names]:
            self._forget(name)
        return Thumbnails(
            {id_: self._made[name] for name, id_ in names.items() if name in self._made}
        )

    def made(self, image: str) -> bytes | None:
        """Return the thumbnail of an image, if it was made and is kept so far."""
        return self._made.get(_name_of(image))

    def take(self, image: str, made: bytes) -> None:
        """Keep a thumbnail that another maker has made, as if the image had been read here."""
        self._offer(image, lambda: made)

    def _see(self, id_: str, image: ImageArray) -> None:
        self._offer(id_, partial(thumbnail_of, image))

    def _offer(self, id_: str, make: Callable[[], bytes]) -> None:
        name = _name_of(id_)
        with self._lock:
            place = bisect_left(self._names, name)
            is_there = self._names[place : place + 1] == [name]
            if not is_there and place >= self._most:
                return
            if not is_there:
                insort(self._names, name)
            if len(self._names) > self._most:
                self._forget(self._names[-1])
        made = make()
        with self._lock:
            place = bisect_left(self._names, name)
            if self._names[place : place + 1] != [name]:
                return
            self._made[name] = made
            if self._folder is not None:
                _write(self._folder / (name + _SUFFIX), made)

    def _forget(self, name: str) -> None:
        self._names.remove(name)
        self._made.pop(name, None)
        if self._folder is not None:
            (self._folder / (name + _SUFFIX)).unlink(missing_ok=True)

    def _open(self, folder: Path) -> None:
        if folder.is_symlink():
            raise StoreError(f"{folder}: expected a folder to write to, it is a symbolic link")
        try:
            if self._most == 0 and not folder.exists():
                return
            folder.mkdir(exist_ok=True)
            found = {
                file.stem: file for file in folder.glob("*" + _SUFFIX) if not file.is_symlink()
            }
            for rank, name in enumerate(sorted(found)):
                contents = found[name].read_bytes()
                if rank >= self._most:
                    found[name].unlink()
                elif contents.startswith(_BEGINNING) and contents.endswith(_END):
                    self._names.append(name)
                    self._made[name] = contents
        except OSError as error:
            raise StoreError(
                f"{folder}: cannot be written: {error.strerror}", path=folder
            ) from error


@dataclass(frozen=True)
class _Watched(ImageItem):
    """An image that shows itself to a function whenever it is read."""

    see: Callable[[str, ImageArray], None] = field(kw_only=True)

    def read(self, reader: ImageReader) -> ImageArray:
        image = super().read(reader)
        self.see(self.id, image)
        return image


def thumbnail_of(image: ImageArray) -> bytes:
    """Return a small copy of an image, as JPEG, with at most 256 pixels on its longer side.

    Parameters
    ----------
    image : ndarray, shape (height, width, 3)
        The image: uint8, or float32 in [0, 1].

    Examples
    --------
    >>> made = thumbnail_of(np.zeros((1000, 500, 3), np.uint8))
    >>> with Image.open(io.BytesIO(made)) as picture:
    ...     picture.size
    (125, 250)
    """
    factor = -(-max(image.shape[:2]) // _LONGEST)
    # Of large images not every row is needed; four of them make one.
    step = max(1, factor // 4)
    pixels = image[::step]
    if pixels.strides[2] == 0:  # grey: its three channels are one
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels * 255).astype(np.uint8)
    made = Image.fromarray(np.ascontiguousarray(pixels))
    if factor > 2:
        made = made.reduce((factor, -(-factor // step)))
    elif factor == 2:
        made.thumbnail((_LONGEST, _LONGEST), Image.Resampling.BILINEAR, reducing_gap=None)
    contents = io.BytesIO()
    made.save(contents, "JPEG", quality=_QUALITY)
    return contents.getvalue()


def _name_of(id_: str) -> str:
    return sha256(id_.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _write(file: Path, contents: bytes) -> None:
    """Write a file that may be cut short by a kill: it is made again then."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
    try:
        with os.fdopen(os.open(file, flags, 0o666), "wb") as stream:
            stream.write(contents)
    except OSError as error:
        raise StoreError(f"{file}: cannot be written: {error.strerror}", path=file) from error
