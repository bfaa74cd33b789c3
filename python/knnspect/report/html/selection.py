"""A page on images that were selected: what was dropped and why, and what nearly was."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from knnspect.data import ImageReader, ImageSource
from knnspect.detectors.selecting import SelectedImage, Selection
from knnspect.files import replace_file
from knnspect.report.html.pictures import picture
from knnspect.report.html.template import environment, text

__all__ = ["write_selection"]

#: Images that a list of the page shows, and the pixels of their longer side.
_MOST, _LONGEST = 200, 256


@dataclass(frozen=True)
class _Entry:
    """An image, as the page shows it."""

    image: SelectedImage
    reason: str
    picture: str
    size: tuple[int, int]


def write_selection(
    file: str | os.PathLike[str],
    selection: Selection,
    images: ImageSource,
    name: str,
    left_out: Sequence[str] = (),
) -> None:
    """Write a page of HTML that shows what was dropped, and why; it needs no other file.

    Parameters
    ----------
    file : path-like
        Where to. The folder has to exist; a file of that name is replaced.
    selection : Selection
        What was found.
    images : ImageSource
        The images that it is of, to be read again.
    name : str
        What they are called: their folder, say.
    left_out : sequence of str
        Why images were left out, as they could not be used.

    Raises
    ------
    ImageError
        If an image cannot be read any more.
    StoreError
        If the file cannot be written.
    """
    items = {item.id: item for item in images}
    reader = ImageReader()

    def entries(of: list[SelectedImage]) -> list[_Entry]:
        found = []
        for image in of[:_MOST]:
            pixels = items[image.id].read(reader)
            shown = picture(pixels, _LONGEST)
            size = (pixels.shape[0], pixels.shape[1])
            found.append(_Entry(image, selection.reason(image), shown, size))
        return found

    page = (
        environment()
        .get_template("selection.html.j2")
        .render(
            name=name,
            selection=selection,
            dropped=entries(selection.dropped),
            borderline=entries(selection.borderline),
            left_out=list(left_out),
            style=text("page.css"),
        )
    )
    replace_file(file, page.encode("utf-8", "backslashreplace"))
