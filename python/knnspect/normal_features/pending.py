"""Which images of a source are to be learnt, when some of them were learnt before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

from knnspect.data import ImageItem, ImageReader, ImageSource
from knnspect.errors import ImageError
from knnspect.normal_features.file_stamps import FileStamps
from knnspect.progress import Progress

__all__ = ["Pending"]


class Pending:
    """The images of a source that are not known, or that changed since they were learnt.

    An image is known if one of the same id and the same digest was learnt.

    Parameters
    ----------
    source : ImageSource
        All images.
    known : mapping of str to bytes
        The digests of the images that were learnt, by their ids.
    n_workers : int
        Threads that compare digests.
    progress : bool
        Report on standard error how many were compared.
    reader : ImageReader, optional
        Reads the images that are not files, to compare them.
    stamps : FileStamps, optional
        Says of which files the digests need not be taken anew.

    Attributes
    ----------
    digests : dict of str to bytes
        The digests of the images that were loaded so far.
    unchanged : set of str
        The known images that were found in the source.
    changed : list of str
        The images whose id is known and whose digest is another.

    Examples
    --------
    >>> import numpy as np
    >>> from knnspect.data import open_images
    >>> before = {name: np.full((4, 4, 3), 7, np.uint8) for name in ("a", "b")}
    >>> known = {item.id: item.digest() for item in open_images(before)}
    >>> after = {**before, "b": before["b"] + 1, "c": before["b"]}
    >>> pending = Pending(open_images(after), known)
    >>> [item.id for item in pending.source()], pending.changed, pending.unchanged
    (['b', 'c'], ['b'], {'a'})
    """

    def __init__(
        self,
        source: ImageSource,
        known: Mapping[str, bytes],
        n_workers: int = 0,
        progress: bool = False,
        reader: ImageReader | None = None,
        stamps: FileStamps | None = None,
    ) -> None:
        self._source, self._known, self._reader, self._stamps = source, known, reader, stamps
        self._n_workers, self._progress = n_workers, progress
        self.digests: dict[str, bytes] = {}
        self.unchanged: set[str] = set()
        self.changed: list[str] = []

    def source(self) -> ImageSource:
        """Return the images to be learnt, which put their digests into `digests` when loaded.

        Where the number of images is known, all of them are compared now. Of a stream, each is
        compared when its turn has come.
        """
        if self._source.n_images is None:
            return ImageSource(self, None)
        left = [item.recorded(self.digests) for item in self._items_left]
        return ImageSource(left, len(left))

    def items(self) -> list[ImageItem]:
        """Return the images to be learnt as they came; none of a stream.

        All of them are compared at the first call.
        """
        return [] if self._source.n_images is None else self._items_left

    @cached_property
    def _items_left(self) -> list[ImageItem]:
        items = list(self._source)
        known = [item for item in items if item.id in self._known]
        pool = ThreadPoolExecutor(max(self._n_workers, 1), thread_name_prefix="knnspect-digest")
        try:
            answers = pool.map(self._is_unchanged, known)
            with Progress("comparing", len(known), self._progress and bool(known)) as report:
                for item, is_unchanged in zip(known, answers, strict=True):
                    self._note(item, is_unchanged)
                    report.advance(1)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)  # also after Ctrl-C
        left = [item for item in items if item.id not in self.unchanged]
        for item in left:
            self._see(item)
        return left

    def __iter__(self) -> Iterator[ImageItem]:
        """Go through the images to be learnt, comparing each in its turn."""
        for item in self._source:
            if item.id in self._known:
                self._note(item, self._is_unchanged(item))
            if item.id not in self.unchanged:
                self._see(item)
                yield item.recorded(self.digests)

    def _note(self, item: ImageItem, is_unchanged: bool) -> None:
        if is_unchanged:
            self.unchanged.add(item.id)
        else:
            self.changed.append(item.id)

    def _see(self, item: ImageItem) -> None:
        if self._stamps is not None and item.id not in self._known:
            self._stamps.see(item)

    def _is_unchanged(self, item: ImageItem) -> bool:
        known = self._known[item.id]
        if self._stamps is not None and self._stamps.is_unchanged(item, known):
            return True
        try:
            return item.digest(self._reader) == known
        except ImageError:
            return False  # what is to be done about it is decided when it is loaded
