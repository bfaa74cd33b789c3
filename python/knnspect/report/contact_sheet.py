"""Many images on one sheet, each beside itself with its map laid over it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from knnspect.errors import KnnspectError, ParameterError
from knnspect.report.overlay import overlay, to_rgb

__all__ = ["SheetEntry", "contact_sheet"]

_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Lengths in pixels.
_MARGIN = 44
_PICTURE = 192  # the longer side of a picture
_PICTURE_MIN = 120  # a slot is at least this wide, to leave its caption some room
_PAIR_GAP = 4
_COLUMN_GAP = 36
_ROW_GAP = 30
_CAPTION_GAP = 9
_WIDTH_MIN = 820  # between the margins: room for the title and the legend
_BAR_WIDTH, _BAR_HEIGHT = 300, 14

_BACKGROUND = (22, 23, 27)
_SLOT = (31, 33, 38)
_RULE = (52, 55, 62)
_TEXT = (236, 237, 240)
_TEXT_QUIET = (155, 160, 170)

_TITLE_SIZE, _SUBTITLE_SIZE, _CAPTION_SIZE, _DETAIL_SIZE = 30, 17, 16, 14

# Pillow's own font knows little beyond ASCII. Accents are taken off, and these are written so:
_PLAIN = str.maketrans(
    {
        "\N{EN DASH}": "-",
        "\N{EM DASH}": "-",
        "\N{MULTIPLICATION SIGN}": "x",
        "\N{LATIN SMALL LETTER SHARP S}": "ss",
    }
)
_ELLIPSIS = "…"


@dataclass(frozen=True, eq=False)
class SheetEntry:
    """One image on the sheet.

    Attributes
    ----------
    image
        Shape ``(height, width, 3)`` or, for grey, ``(height, width)``: uint8, or floating with
        values in [0, 1].
    map
        Shape ``(height, width)``, real and finite.
    caption
        The line under the image: its name, say. One that is too long loses its middle.
    detail
        The smaller line under that: its score, say. One that is too long loses its end. May be
        empty.
    """

    image: npt.NDArray[Any]
    map: npt.NDArray[Any]
    caption: str
    detail: str = ""


def contact_sheet(
    rows: Sequence[SheetEntry], title: str, subtitle: str, scale: float, columns: int = 4
) -> npt.NDArray[np.uint8]:
    """Return a sheet that shows every image beside itself with its map laid over it.

    The entries fill the sheet row by row, in order. All pictures have one scale of colour, which
    a bar at the bottom explains. An image is fitted into its slot, enlarged or reduced, and
    keeps its aspect.

    Parameters
    ----------
    rows
        The entries; at least one.
    title, subtitle
        The two lines at the top. Lines that are too long lose their end.
    scale
        The value of the maps that gets the strongest colour; see :func:`overlay`.
    columns
        How many entries stand side by side, at most.

    Returns
    -------
    numpy.ndarray
        Shape ``(height, width, 3)``, uint8, red, green, blue.

    Raises
    ------
    ParameterError
        If there is no entry, `columns` is less than 1, `scale` is not a positive finite number, a
        floating image has a value outside [0, 1], or a map has a value that is not finite.
    ShapeError
        If an image has another shape than these, or a map has not the size of its image.
    DTypeError
        If an image is neither uint8 nor floating, or a map does not hold real numbers.

    Examples
    --------
    >>> image = np.full((60, 80), 128, dtype=np.uint8)
    >>> entry = SheetEntry(image, np.zeros((60, 80)), "cell0001", "score 0.12, normal")
    >>> sheet = contact_sheet([entry] * 3, "Solar cells", "three of them", scale=1.0)
    >>> sheet.ndim, sheet.dtype
    (3, dtype('uint8'))
    """
    if not rows:
        raise ParameterError("rows: expected at least one entry, got none")
    if columns < 1:
        raise ParameterError(f"columns: expected at least 1, got {columns}")
    if not (np.isfinite(scale) and scale > 0):
        raise ParameterError(f"scale: expected a positive finite number, got {scale}")
    pictures = [_pictures(i, entry, scale) for i, entry in enumerate(rows)]
    columns = min(columns, len(rows))
    slot_width = max(_PICTURE_MIN, *(image.width for image, _ in pictures))
    slot_height = max(image.height for image, _ in pictures)

    title_font, subtitle_font = _font(_TITLE_SIZE), _font(_SUBTITLE_SIZE)
    caption_font, detail_font = _font(_CAPTION_SIZE), _font(_DETAIL_SIZE)
    pair_width = 2 * slot_width + _PAIR_GAP
    width = max(columns * pair_width + (columns - 1) * _COLUMN_GAP, _WIDTH_MIN)
    caption_top = slot_height + _CAPTION_GAP
    detail_top = caption_top + _line(_CAPTION_SIZE)
    entry_height = detail_top + _line(_DETAIL_SIZE)
    n_lines = -(-len(rows) // columns)
    subtitle_top = _MARGIN - 8 + _line(_TITLE_SIZE)
    grid_top = subtitle_top + _line(_SUBTITLE_SIZE) + 22
    legend_top = grid_top + n_lines * (entry_height + _ROW_GAP)
    height = legend_top + _legend_height() + _MARGIN - 8

    sheet = Image.new("RGB", (width + 2 * _MARGIN, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 8), _shorten(title, title_font, width), _TEXT, title_font)
    quiet = _shorten(subtitle, subtitle_font, width)
    draw.text((_MARGIN, subtitle_top), quiet, _TEXT_QUIET, subtitle_font)
    for i, (entry, pair) in enumerate(zip(rows, pictures, strict=True)):
        line, column = divmod(i, columns)
        left = _MARGIN + column * (pair_width + _COLUMN_GAP)
        top = grid_top + line * (entry_height + _ROW_GAP)
        for slot, picture in enumerate(pair):
            slot_left = left + slot * (slot_width + _PAIR_GAP)
            box = (slot_left, top, slot_left + slot_width - 1, top + slot_height - 1)
            draw.rectangle(box, fill=_SLOT)
            centred = (
                slot_left + (slot_width - picture.width) // 2,
                top + (slot_height - picture.height) // 2,
            )
            sheet.paste(picture, centred)
        # The end of a file's name tells it from its neighbours as much as the beginning does.
        caption = _shorten(entry.caption, caption_font, pair_width, keep_end=True)
        draw.text((left, top + caption_top), caption, _TEXT, caption_font)
        detail = _shorten(entry.detail, detail_font, pair_width)
        draw.text((left, top + detail_top), detail, _TEXT_QUIET, detail_font)
    _draw_legend(sheet, draw, (_MARGIN, legend_top), width, scale)
    return np.array(sheet)


def _pictures(i: int, entry: SheetEntry, scale: float) -> tuple[Image.Image, Image.Image]:
    """Return the image and its overlay, both fitted into a slot."""
    try:
        rgb = to_rgb(entry.image)
        laid_over = overlay(rgb, entry.map, scale)
    except KnnspectError as error:
        raise type(error)(f"rows[{i}].{error}") from error
    height, width = rgb.shape[:2]
    zoom = _PICTURE / max(height, width)
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    return (
        Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS),
        Image.fromarray(laid_over).resize(size, Image.Resampling.LANCZOS),
    )


def _legend_height() -> int:
    return 22 + _BAR_HEIGHT + 8 + _line(_DETAIL_SIZE)


def _draw_legend(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    width: int,
    scale: float,
) -> None:
    font = _font(_DETAIL_SIZE)
    left, top = corner
    draw.line((left, top, left + width - 1, top), fill=_RULE)
    top += 22

    # The bar is an overlay itself, on grey: its colours are the ones that are seen above.
    ramp = np.broadcast_to(np.linspace(0, scale, _BAR_WIDTH), (_BAR_HEIGHT, _BAR_WIDTH))
    grey = np.full(ramp.shape, 96, dtype=np.uint8)
    sheet.paste(Image.fromarray(overlay(grey, ramp, scale)), (left, top))
    ticks = ((0, 0.0, "la"), (_BAR_WIDTH // 2, scale / 2, "ma"), (_BAR_WIDTH - 1, scale, "ra"))
    for x, value, anchor in ticks:
        draw.line((left + x, top + _BAR_HEIGHT, left + x, top + _BAR_HEIGHT + 4), _TEXT_QUIET)
        place = (left + x, top + _BAR_HEIGHT + 8)
        draw.text(place, f"{value:.3g}", _TEXT_QUIET, font, anchor=anchor)

    text_left = left + _BAR_WIDTH + 32
    lines = (
        "Value of the map: from no colour, normal, to yellow, far from normal",
        f"Left: the image. Right: its map over it. Values above {scale:.3g} look like {scale:.3g}.",
    )
    for i, line in enumerate(lines):
        text = _shorten(line, font, left + width - text_left)
        place = (text_left, top - 3 + i * (_line(_DETAIL_SIZE) + 1))
        draw.text(place, text, (_TEXT, _TEXT_QUIET)[i], font)


def _font(size: int) -> _Font:
    return ImageFont.load_default(size=size)


def _line(size: int) -> int:
    """Return the height of a line of text of this size."""
    return round(size * 1.35)


def _shorten(text: str, font: _Font, width: int, *, keep_end: bool = False) -> str:
    """Return the text on one line, with an ellipsis in place of what does not fit."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_PLAIN))
    text = "".join(c for c in decomposed if not unicodedata.combining(c))
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text) - 1  # characters that are kept: `low` fit, more than `high` do not
    while low < high:
        kept = (low + high + 1) // 2
        if font.getlength(_cut(text, kept, keep_end)) <= width:
            low = kept
        else:
            high = kept - 1
    return _cut(text, low, keep_end)


def _cut(text: str, kept: int, keep_end: bool) -> str:
    tail = kept // 2 if keep_end else 0
    return text[: kept - tail].rstrip() + _ELLIPSIS + text[len(text) - tail :].lstrip()
