"""Whatever images come as, a source gives them one after the other, each with an id."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from knnspect.data.decoded import ImageArray, contiguous
from knnspect.data.digests import file_digest, pixels_digest
from knnspect.data.folders import list_images
from knnspect.data.formats import IMAGE_SUFFIXES
from knnspect.data.own_pictures import described, own_pictures
from knnspect.data.reader import ImageReader
from knnspect.errors import DTypeError, ImageError, ShapeError
from knnspect.forked import run

__all__ = ["ImageItem", "ImageSource", "open_images"]

_ACCEPTED = (
    "a folder, an image file, a list of files, arrays or Pillow images, a dict of these by id, an "
    "array of shape (n_images, height, width, channels) or (n_images, height, width), or an "
    "iterable of batches such as a torch DataLoader"
)


@dataclass(frozen=True)
class ImageItem:
    """One image of a source, not loaded yet.

    Attributes
    ----------
    id : str
        Names the image; no other image of the source has it.
    load : callable
        Returns the image, (height, width, 3), uint8 or float32 in [0, 1]. May be called in any
        thread; raises as `read_image` and `check_image` do.
    file : pathlib.Path, optional
        The file that it is read from; None for an image that is in memory.
    """

    id: str
    load: Callable[[], ImageArray]
    file: Path | None = None

    def digest(self, reader: ImageReader | None = None) -> bytes:
        """Return what tells the image from another one under the same id.

        Parameters
        ----------
        reader : ImageReader, optional
            Reads an image without a file.

        Returns
        -------
        bytes
            The SHA-256 of its file, which is read but not decoded; without a file, of its pixels.

        Raises
        ------
        ImageError
            If the file cannot be read, or the image cannot be loaded.
        """
        if self.file is not None:
            return file_digest(self.file)
        return pixels_digest(self.load() if reader is None else self.read(reader))

    def recorded(self, digests: dict[str, bytes]) -> ImageItem:
        """Return the same image, which puts its digest into a dict whenever it is loaded."""

        def load(reader: ImageReader) -> ImageArray:
            # Of the file as it is before it is decoded: if it is replaced meanwhile, its digest is
            # another one the next time, and it is learnt again.
            digest = None if self.file is None else file_digest(self.file)
            image = self.read(reader)
            digests[self.id] = pixels_digest(image) if digest is None else digest
            return image

        return ImageItem(self.id, _Load(load), self.file)

    def changed(self, by: Callable[[ImageArray], ImageArray], id_: str) -> ImageItem:
        """Return what a function makes of the image when it is loaded, under another id."""
        return ImageItem(id_, _Load(lambda reader: by(self.read(reader))), self.file)

    def read(self, reader: ImageReader) -> ImageArray:
        """Return the image as a reader reads it.

        Parameters
        ----------
        reader : ImageReader
            Has the white level and the limit of size, and collects what is to be said. What a
            `load` of another kind than those of `open_images` returns is taken as it is.

        Returns
        -------
        numpy.ndarray
            Shape (height, width, 3), uint8 or float32 in [0, 1]. Of grey images the three channels
            are the same memory, and may not be written to.
        """
        return self.load(reader) if isinstance(self.load, _Load) else self.load()


@dataclass(frozen=True)
class _Load:
    """Loads a file, an array or a Pillow image, by a reader if one is given."""

    by: Callable[[ImageReader], ImageArray]

    def __call__(self, reader: ImageReader | None = None) -> ImageArray:
        if reader is not None:
            return self.by(reader)
        reader = ImageReader()
        image = self.by(reader)
        reader.warn()
        return contiguous(image)


class ImageSource:
    """Images in a fixed order, as items that load themselves when asked.

    Parameters
    ----------
    items : iterable of ImageItem
        The images.
    n_images : int or None
        How many there are; None where only reading them tells.

    Examples
    --------
    >>> source = open_images(np.zeros((2, 8, 8, 3), np.uint8))
    >>> source.n_images, [item.id for item in source]
    (2, ['000000', '000001'])
    """

    def __init__(self, items: Iterable[ImageItem], n_images: int | None) -> None:
        self._items = items
        self.n_images = n_images

    def __iter__(self) -> Iterator[ImageItem]:
        return iter(self._items)


def open_images(images: object) -> ImageSource:
    """Return a source of images, whatever they come as.

    Parameters
    ----------
    images : str, os.PathLike, numpy.ndarray, list, tuple, iterable or ImageSource
        - A folder: all its image files, hidden ones left out, in the folders below it too,
          sorted by their path in the folder (with ``/``), which is their id.
        - An image file: its id is the path as given.
        - A list or tuple of files (ids as for one file), arrays as `check_image` takes them,
          torch tensors of shape (channels, height, width) and Pillow images, mixed as you like
          and of any sizes. What is not a file is called by its place: ``"000000"``,
          ``"000001"``, and so on.
        - A dict of these by their ids.
        - An array of shape (n_images, height, width, channels) or (n_images, height, width), or
          a torch tensor of shape (n_images, channels, height, width): ids by place.
        - An iterable, such as a torch DataLoader, that gives files, Pillow images or batches. A
          batch is a tensor or array as above; or a tuple or list that begins with one; or a
          dict with one at ``"image"`` and, if it likes, as many ids at ``"image_path"``. It is
          read anew whenever the source is iterated.

        Floats lie in [0, 1] everywhere: the backbone normalises images, nobody else.

    Returns
    -------
    ImageSource
        The images in order. Files are opened only when an item is loaded.

    Raises
    ------
    ImageError
        A path does not exist, a folder or list holds no images, or two images have one id.
        For iterables, also while iterating.
    ShapeError
        An array or a batch has another shape. For iterables, while iterating.
    DTypeError
        `images`, or something in it, is of another type. For iterables, also while iterating.

    Examples
    --------
    >>> grey, colour = np.zeros((4, 5), np.uint8), np.zeros((6, 7, 3), np.float32)
    >>> [item.load().shape for item in open_images([grey, colour])]
    [(4, 5, 3), (6, 7, 3)]
    """
    if isinstance(images, ImageSource):
        return images
    if isinstance(images, str) and not images:  # which Path takes for the current folder
        raise ImageError("images: expected a path, got an empty one")
    if isinstance(images, str | os.PathLike):
        items = _items_of_path(Path(images))
    elif isinstance(images, np.ndarray) or _is_tensor(images):
        items = _items_of_batch(images, None, 0, "the array")
    elif isinstance(images, list | tuple):
        items = [_item(value, place) for place, value in enumerate(images)]
    elif isinstance(images, Mapping):
        items = [_named(id_, value, place) for place, (id_, value) in enumerate(images.items())]
    elif isinstance(images, Iterable) and not isinstance(
        images, set | frozenset | bytes | Image.Image
    ):
        return ImageSource(_Stream(images), None)
    else:
        raise DTypeError(
            f"images: expected {_ACCEPTED}, got {type(images).__name__}{_hint(images)}"
        )
    if not items:
        raise ImageError("images: expected at least one image, got none")
    seen: set[str] = set()
    for item in items:
        _check_new(item.id, seen)
    return ImageSource(items, len(items))


def _items_of_path(path: Path) -> list[ImageItem]:
    if path.is_dir():
        files = list_images(path)
        if not files:
            endings = ", ".join(sorted(IMAGE_SUFFIXES))
            raise ImageError(
                f"{path}: expected a folder of images ({endings}), got none in it", path=path
            )
        return [_file_item(file, _path_id(file.relative_to(path))) for file in files]
    if not path.exists():
        raise ImageError(
            f"{path}: expected a folder or an image file, but there is no such path", path=path
        )
    if own := own_pictures([path]):
        raise ImageError(f"{path}: expected an image, got {described(own)}", path=path)
    return [_item(path, 0)]


def _item(value: object, place: int, given: str | None = None) -> ImageItem:
    """Return the item of one image: a file, an array, a tensor or a Pillow image."""
    id_ = f"{place:06d}" if given is None else given
    if isinstance(value, str | os.PathLike):
        return _file_item(value, _path_id(PurePath(value)) if given is None else given)
    if isinstance(value, Image.Image):
        return ImageItem(id_, _Load(methodcaller("from_pillow", value, id_)))
    if isinstance(value, np.ndarray):
        return _array_item(value, id_)
    if _is_tensor(value):
        array = _numpy(value)
        if array.ndim == 3:
            array = np.moveaxis(array, 0, -1)
        return _array_item(array, id_)
    raise DTypeError(
        f"image {id_}: expected a path, an array, a torch tensor or a Pillow image, "
        f"got {type(value).__name__}"
    )


def _file_item(path: str | os.PathLike[str], id_: str) -> ImageItem:
    return ImageItem(id_, _Load(methodcaller("from_file", path)), Path(path))


def _array_item(array: NDArray[Any], id_: str) -> ImageItem:
    return ImageItem(id_, _Load(methodcaller("from_array", array, id_)))


def _named(id_: object, value: object, place: int) -> ImageItem:
    if not isinstance(id_, str):
        raise DTypeError(f"images: expected ids of type str, got {type(id_).__name__}")
    return _item(value, place, id_)


def _items_of_batch(
    batch: object, ids: Sequence[str] | None, place: int, where: str
) -> list[ImageItem]:
    """Return the items of an array (channels last) or a tensor (channels first) of images."""
    if _is_tensor(batch):
        array = _numpy(batch)
        if array.ndim != 4 or array.shape[1] not in (1, 3, 4):
            raise ShapeError(
                f"{where}: expected a tensor of shape (n_images, channels, height, width) with "
                f"1, 3 or 4 channels, got {array.shape}{_wrap_hint(array)}"
            )
        array = np.moveaxis(array, 1, -1)
    elif isinstance(batch, np.ndarray):
        array = batch
        # (n_images, height, width) of width 1, 3 or 4 is far more likely one image.
        looks_like_one = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
        if looks_like_one or array.ndim not in (3, 4):
            raise ShapeError(
                f"{where}: expected shape (n_images, height, width, channels) or "
                f"(n_images, height, width), got {array.shape}{_wrap_hint(array)}"
            )
        if array.ndim == 4 and array.shape[3] not in (1, 3, 4):
            raise ShapeError(
                f"{where}: expected 1, 3 or 4 channels on the last axis, got {array.shape}"
            )
    else:
        raise DTypeError(
            f"{where}: expected a torch tensor or an array of images, got {type(batch).__name__}"
        )
    if ids is None:
        ids = [f"{place + i:06d}" for i in range(len(array))]
    elif len(ids) != len(array):
        raise ShapeError(f"{where}: expected {len(array)} ids, one per image, got {len(ids)}")
    return [_array_item(image, id_) for id_, image in zip(ids, array, strict=True)]


#: What comes after the last batch of a loader.
_END = object()


class _Stream:
    """The items of an iterable of batches, files or Pillow images."""

    def __init__(self, batches: Iterable[object]) -> None:
        self._batches = batches
        self._spent = False

    def __iter__(self) -> Iterator[ImageItem]:
        batches = run(iter, self._batches)
        if batches is self._batches:
            # A generator gives its images once; without this a second pass would see none.
            if self._spent:
                raise ImageError(
                    "images: expected an iterable that can be read again, got one that was read "
                    "already; pass a list or a DataLoader instead of a generator"
                )
            self._spent = True
        return self._items(batches)

    def _items(self, batches: Iterator[object]) -> Iterator[ImageItem]:
        seen: set[str] = set()
        # A loader may join images with PyTorch.
        while (batch := run(next, batches, _END)) is not _END:
            for item in _items_of_element(batch, len(seen)):
                _check_new(item.id, seen)
                yield item
        if not seen:
            raise ImageError("images: expected at least one image, got an iterable without any")


def _items_of_element(element: object, place: int) -> list[ImageItem]:
    where = f"the batch that begins with image {place}"
    if isinstance(element, str | os.PathLike | Image.Image):
        return [_item(element, place)]
    if isinstance(element, Mapping):
        if "image" not in element:
            raise DTypeError(
                f'{where}: expected a dict with "image", got {sorted(map(str, element))}'
            )
        paths = element.get("image_path")
        ids = None if paths is None else [_id_of(path, where) for path in paths]
        return _items_of_batch(element["image"], ids, place, where)
    if isinstance(element, list | tuple):
        if not element:
            raise DTypeError(f"{where}: expected images, got an empty {type(element).__name__}")
        return _items_of_batch(element[0], None, place, where)
    return _items_of_batch(element, None, place, where)


def _id_of(path: object, where: str) -> str:
    if not isinstance(path, str | os.PathLike):
        raise DTypeError(f'{where}: expected paths in "image_path", got {type(path).__name__}')
    return _path_id(PurePath(path))


def _path_id(path: PurePath) -> str:
    """Return a path with ``/``; bytes of a name that are not UTF-8 become escapes."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode()


def _check_new(id_: str, seen: set[str]) -> None:
    if id_ in seen:
        raise ImageError(f"{id_}: expected every image once, got two with this id")
    seen.add(id_)


def _is_tensor(value: object) -> bool:
    # Recognised by what it can do, so that torch need not be there.
    return all(callable(getattr(value, name, None)) for name in ("detach", "cpu", "numpy"))


def _numpy(tensor: Any) -> NDArray[Any]:
    plain = tensor.detach().cpu()
    if str(plain.dtype) == "torch.bfloat16":  # NumPy has no such type
        plain = run(plain.float)
    return np.asarray(plain.numpy())


def _wrap_hint(array: NDArray[Any]) -> str:
    return "; pass [image] for a single image" if array.ndim in (2, 3) else ""


def _hint(images: object) -> str:
    return "; pass [image] for a single image" if isinstance(images, Image.Image) else ""
