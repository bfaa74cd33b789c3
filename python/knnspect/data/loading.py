"""From a source to batches for the network, decoded ahead in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from knnspect.data.decoded import ImageArray
from knnspect.data.geometry import Geometry
from knnspect.data.own_size import OwnPixels, in_windows
from knnspect.data.reader import ImageReader
from knnspect.data.sources import ImageItem, ImageSource
from knnspect.errors import ImageError, errors_about
from knnspect.validation import check_count

__all__ = ["Batch", "OnBad", "Views", "iterate_batches"]

#: Receives the id and the error of an image that is left out.
OnBad = Callable[[str, ImageError], None]
#: Pixels of the largest pictures that are kept.
_LARGE = 2**24


class Views(Protocol):
    """What of each image goes through the network, where it is not the image as it is alone."""

    def __len__(self) -> int:
        """Return how many views an image has."""
        ...

    def prepare(
        self, id_: str, image: ImageArray, geometry: Geometry
    ) -> list[tuple[str, NDArray[np.float32]]]:
        """Return the views of an image, prepared, each with an id; raise an ImageError if not."""
        ...


@dataclass(frozen=True)
class Batch:
    """Prepared images that follow each other in a source.

    Attributes
    ----------
    ids : list of str
        One per image, or per view.
    images : numpy.ndarray, or list of numpy.ndarray or OwnPixels
        Shape (n_images, 3, height, width), float32 in [0, 1]; where the inputs of the network
        differ in size, as with ``resize="shorter"``, one array of (3, height, width) an image, and
        where they are asked for in windows, one `OwnPixels` an image at its own size.
    sizes : list of tuple of int
        (height, width) of each image before it was resized, for ``Geometry.restore``.
    pictures : list of numpy.ndarray or None
        The images as they came, (height, width, 3), if they were to be kept and are not large.
    """

    ids: list[str]
    images: NDArray[np.float32] | list[NDArray[np.float32] | OwnPixels]
    sizes: list[tuple[int, int]]
    pictures: list[ImageArray | None]
    n_begun: int
    """How many images begin in it: views of one may be in several batches."""


def iterate_batches(
    source: ImageSource,
    geometry: Geometry,
    batch_size: int,
    n_workers: int,
    on_bad: OnBad | None = None,
    reader: ImageReader | None = None,
    keep_pictures: bool = False,
    views: Views | None = None,
    windows: bool = False,
) -> Iterator[Batch]:
    """Return an iterator over the images of a source, prepared, in batches and in order.

    The batches are the same for every `n_workers`. Loading runs ahead of the caller by about two
    batches and no more. Leaving the iterator early stops its threads.

    Parameters
    ----------
    source : ImageSource
        The images.
    geometry : Geometry
        How they meet the network's input size.
    batch_size : int
        Images per batch; the last batch may have fewer.
    n_workers : int
        Threads that read and resize; 0 does it in the caller's thread.
    on_bad : callable, optional
        Receives the id and the error of every image that cannot be used, in order; it is left out.
        Without it, the first of them raises. Only an `ImageError` of a single image is skipped: a
        wrong shape or type is the caller's mistake.
    reader : ImageReader, optional
        How images are read. It collects what is to be said of them, which is left to the caller
        to say; without one, it is said when the iterator ends.
    keep_pictures : bool
        Also give the images as they came, but for those of more than 2^24 pixels: of these a batch
        would fill the memory.
    views : Views, optional
        What of each image is prepared; a batch then has `batch_size` views.
    windows : bool
        Images at their own size are given as `OwnPixels`, which take less memory than float32.

    Returns
    -------
    iterator of Batch
        No batch is empty; there may be none when all images were skipped.

    Raises
    ------
    ParameterError
        `batch_size` is less than 1 or `n_workers` less than 0.
    ImageError
        While iterating: an image cannot be used and there is no `on_bad`, or the source fails.
    ShapeError, DTypeError
        While iterating: an array has the wrong shape or type.

    Examples
    --------
    >>> from knnspect.data import open_images
    >>> source = open_images(np.zeros((5, 10, 12, 3), np.uint8))
    >>> for batch in iterate_batches(source, Geometry((8, 8)), batch_size=3, n_workers=2):
    ...     print(batch.ids, batch.images.shape, batch.sizes[0])
    ['000000', '000001', '000002'] (3, 3, 8, 8) (10, 12)
    ['000003', '000004'] (2, 3, 8, 8) (10, 12)
    """
    check_count("batch_size", batch_size)
    check_count("n_workers", n_workers, minimum=0)
    prepare = partial(_prepare, geometry=geometry, views=views, keep=keep_pictures, windows=windows)
    # Enough to keep every thread busy while the caller works on a batch.
    n_views = 1 if views is None else len(views)
    look_ahead = 2 * max(-(-batch_size // n_views), n_workers)
    batches = partial(_batches, source, prepare, batch_size, n_workers, look_ahead, on_bad)
    return _and_warnings(batches) if reader is None else batches(reader)


def _and_warnings(batches: Callable[[ImageReader], Iterator[Batch]]) -> Iterator[Batch]:
    reader = ImageReader()
    yield from batches(reader)
    reader.warn()


@dataclass(frozen=True)
class _Prepared:
    id: str
    image: NDArray[np.float32] | OwnPixels
    size: tuple[int, int]
    picture: ImageArray | None
    begins: bool = True


@dataclass(frozen=True)
class _Bad:
    id: str
    error: ImageError


def _batches(
    source: ImageSource,
    prepare: Callable[..., list[_Prepared] | _Bad],
    batch_size: int,
    n_workers: int,
    look_ahead: int,
    on_bad: OnBad | None,
    reader: ImageReader,
) -> Iterator[Batch]:
    prepare = partial(prepare, reader=reader)
    if n_workers == 0:
        results = (prepare(item) for item in source)
    else:
        results = _prepared_in_threads(source, prepare, n_workers, look_ahead)
    batch: list[_Prepared] = []
    try:
        for result in results:
            if isinstance(result, _Bad):
                if on_bad is None:
                    raise result.error
                on_bad(result.id, result.error)
                continue
            for prepared in result:
                batch.append(prepared)
                if len(batch) == batch_size:
                    yield _stacked(batch)
                    batch = []
        if batch:
            yield _stacked(batch)
    finally:
        # Said aloud rather than left to the garbage collector: this is what ends the threads.
        results.close()


def _prepared_in_threads(
    source: ImageSource,
    prepare: Callable[[ImageItem], list[_Prepared] | _Bad],
    n_workers: int,
    look_ahead: int,
) -> Generator[list[_Prepared] | _Bad, None, None]:
    pool = ThreadPoolExecutor(n_workers, thread_name_prefix="knnspect-data")
    pending: deque[Future[list[_Prepared] | _Bad]] = deque()
    failure: Exception | None = None
    try:
        items = iter(source)
        while True:
            try:
                item = next(items)
            except StopIteration:
                break
            except Exception as error:
                # The images before it come first, as they do without threads.
                failure = error
                break
            pending.append(pool.submit(prepare, item))
            if len(pending) >= look_ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
        if failure is not None:
            raise failure
    finally:
        # Waits for the images being decoded at this moment only, also after Ctrl-C.
        pool.shutdown(wait=True, cancel_futures=True)


def _prepare(
    item: ImageItem,
    geometry: Geometry,
    views: Views | None,
    reader: ImageReader,
    keep: bool,
    windows: bool,
) -> list[_Prepared] | _Bad:
    try:
        with errors_about(image=item.id, path=item.file):
            image = item.read(reader)
            size = (image.shape[0], image.shape[1])
            try:
                geometry.input_size(size)
            except ImageError as error:
                raise ImageError(f"image {item.id}: {error}") from None
            prepared: Sequence[tuple[str, NDArray[np.float32] | OwnPixels]]
            if views is not None:
                prepared = views.prepare(item.id, image, geometry)
            else:
                made = in_windows(image, geometry) if windows else geometry.prepare(image)
                prepared = [(item.id, made)]
    except ImageError as error:
        return _Bad(item.id, error)
    picture = reader.picture(image) if keep and size[0] * size[1] <= _LARGE else None
    return [
        _Prepared(id_, array, size, picture, begins=place == 0)
        for place, (id_, array) in enumerate(prepared)
    ]


def _stacked(batch: list[_Prepared]) -> Batch:
    images = [prepared.image for prepared in batch]
    arrays = [image for image in images if isinstance(image, np.ndarray)]
    one_size = len(arrays) == len(images) and len({image.shape for image in arrays}) == 1
    return Batch(
        ids=[prepared.id for prepared in batch],
        images=np.stack(arrays) if one_size else images,
        sizes=[prepared.size for prepared in batch],
        pictures=[prepared.picture for prepared in batch],
        n_begun=sum(prepared.begins for prepared in batch),
    )
