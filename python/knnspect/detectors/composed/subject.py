"""What is judged as one: an image, or several pictures of one part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

from knnspect.data import ImageReader, ImageSource
from knnspect.data.decoded import ImageArray
from knnspect.data.sources import ImageItem
from knnspect.errors import ImageError, errors_about
from knnspect.locators.found import FoundPart
from knnspect.views import View

__all__ = ["Shown", "Subject", "SubjectSource", "in_chunks", "read_all"]


@dataclass(frozen=True)
class Subject:
    """What is judged as one.

    Parameters
    ----------
    id : str
        The id of its prediction.
    pictures : mapping of str to ImageItem
        Its pictures by what they are called: "" for the only one of an image.
    """

    id: str
    pictures: Mapping[str, ImageItem]

    def read(self, reader: ImageReader) -> Subject:
        """Return the same with its pictures in memory; raise an ImageError if one cannot be."""
        found = {}
        for name, item in self.pictures.items():
            with errors_about(image=item.id, path=item.file):
                found[name] = replace(item, load=_Loaded(item.read(reader)))
        return replace(self, pictures=found)


@dataclass(frozen=True)
class Shown:
    """What a view shows.

    Parameters
    ----------
    frame : ndarray of shape (height, width, 3), optional
        What is judged; None where a locator did not find the part.
    view : View, optional
        The way back into the picture; None where it is the picture itself.
    found : FoundPart, optional
        What a locator said.
    """

    frame: ImageArray | None
    view: View | None = None
    found: FoundPart | None = None

    @property
    def to_learn(self) -> ImageArray:
        """The frame; raise an ImageError if there is none."""
        if self.frame is None:
            if self.found is not None:
                self.found.check()
            raise ImageError("expected a frame, there is none")
        return self.frame


@dataclass(frozen=True)
class _Loaded:
    """An image that was read."""

    image: ImageArray

    def __call__(self) -> ImageArray:
        return self.image


class SubjectSource(ImageSource):
    """What one view shows of all subjects, to be learnt from.

    Parameters
    ----------
    subjects : callable
        Returns an iterator over them, each time from the first on.
    n_subjects : int or None
        How many there are; None where only reading them tells.
    item_of : callable
        Returns the picture of a subject that the view is of.
    shown_in : callable
        Returns what the view shows of a picture; None if nothing can be learnt from it.
    """

    def __init__(
        self,
        subjects: Callable[[], Iterator[Subject]],
        n_subjects: int | None,
        item_of: Callable[[Subject], ImageItem | None],
        shown_in: Callable[[ImageItem, ImageArray], Shown],
    ) -> None:
        super().__init__((), n_subjects)  # `__iter__` gives them
        self._subjects, self._item_of, self._shown_in = subjects, item_of, shown_in

    def __iter__(self) -> Iterator[ImageItem]:
        for subject in self._subjects():
            item = self._item_of(subject)
            if item is not None:
                shown = _frame_of(item, self._shown_in)
                yield item.changed(shown, subject.id)


def _frame_of(
    item: ImageItem, shown_in: Callable[[ImageItem, ImageArray], Shown]
) -> Callable[[ImageArray], ImageArray]:
    return lambda image: shown_in(item, image).to_learn


def in_chunks(subjects: Iterator[Subject], size: int) -> Iterator[list[Subject]]:
    """Yield so many at once, in order; the last time maybe fewer."""
    while chunk := list(islice(subjects, size)):
        yield chunk


def read_all(
    chunk: Sequence[Subject], reader: ImageReader, n_workers: int
) -> Iterator[Subject | ImageError]:
    """Yield the same with their pictures in memory; errors of those that cannot be read."""

    def read(subject: Subject) -> Subject | ImageError:
        try:
            return subject.read(reader)
        except ImageError as error:
            return error

    if n_workers == 0:
        yield from map(read, chunk)
        return
    with ThreadPoolExecutor(n_workers, thread_name_prefix="knnspect-data") as pool:
        yield from pool.map(read, chunk)
