from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from knnspect.errors import DTypeError, ParameterError, ShapeError
from knnspect.report import SheetEntry, contact_sheet

MARGIN = 24  # every sheet keeps at least this free on all sides


def entry(height: int = 30, width: int = 30, caption: str = "cell", grey: int = 128) -> SheetEntry:
    image = np.full((height, width), grey, np.uint8)
    return SheetEntry(image, np.zeros((height, width)), caption, "score 0.1")


def sheet_of(rows: list[SheetEntry], columns: int = 4) -> npt.NDArray[np.uint8]:
    return contact_sheet(rows, "Title", "and subtitle", scale=1.0, columns=columns)


def assert_margins_are_free(sheet: npt.NDArray[np.uint8]) -> None:
    background = sheet[0, 0]
    inner = np.zeros(sheet.shape[:2], dtype=bool)
    inner[MARGIN:-MARGIN, MARGIN:-MARGIN] = True
    assert (sheet[~inner] == background).all()


def test_shape_and_dtype() -> None:
    sheet = sheet_of([entry()] * 5)
    assert sheet.ndim == 3
    assert sheet.shape[2] == 3
    assert sheet.dtype == np.uint8
    assert_margins_are_free(sheet)


def test_the_grid_grows_by_columns_and_then_by_lines() -> None:
    two, four, five, eight, nine = (sheet_of([entry()] * n) for n in (2, 4, 5, 8, 9))
    assert two.shape[0] == four.shape[0] < five.shape[0] == eight.shape[0] < nine.shape[0]
    assert two.shape[1] < four.shape[1] == five.shape[1] == nine.shape[1]
    assert sheet_of([entry()] * 4, columns=2).shape[1] == two.shape[1]


def test_every_image_stands_beside_its_overlay() -> None:
    # Pure red is on the sheet only where the image is: the overlay has paler colours.
    image = np.zeros((40, 40, 3), np.uint8)
    image[..., 0] = 255
    rows = [SheetEntry(image, np.zeros((40, 40)), "a", "b")] * 3
    sheet = sheet_of(rows).astype(int)
    red = (sheet == (255, 0, 0)).all(axis=2)
    columns = np.flatnonzero(red.any(axis=0))
    starts = columns[np.flatnonzero(np.diff(columns, prepend=-9) > 1)]
    ends = columns[np.flatnonzero(np.diff(columns, append=99999) > 1)] + 1
    size = int(ends[0] - starts[0])
    assert len(starts) == 3
    assert (ends - starts == size).all()
    assert red.any(axis=1).sum() == size  # square, as the image is
    top = int(np.flatnonzero(red.any(axis=1))[0])
    for end in ends:
        beside = sheet[top + size // 2, end + 2 : end + size]
        assert (np.abs(beside[10:] - beside[-1]) == 0).all()
        assert beside[-1][0] > 100
        assert 0 < beside[-1][1] < 100


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (20, 60), (1, 1), (1, 500), (1200, 7)])
def test_an_image_is_fitted_and_keeps_its_aspect(size: tuple[int, int]) -> None:
    height, width = size
    image = np.zeros((height, width, 3), np.float32)
    image[..., 1] = 1
    odd = SheetEntry(image, np.zeros(size), "odd", "")
    sheet = sheet_of([odd, entry(50, 50)])
    assert_margins_are_free(sheet)
    green = (sheet == (0, 255, 0)).all(axis=2)
    fitted_height, fitted_width = green.any(axis=1).sum(), green.any(axis=0).sum()
    assert max(fitted_height, fitted_width) == 192
    assert fitted_height == max(1, round(192 * height / max(size)))
    assert fitted_width == max(1, round(192 * width / max(size)))


def test_all_entries_have_slots_of_one_size() -> None:
    sizes = [(30, 30), (30, 90), (90, 30), (7, 200)]
    mixed = sheet_of([entry(*size) for size in sizes])
    assert mixed.shape == sheet_of([entry()] * 4).shape


def test_wide_images_make_lower_slots() -> None:
    assert sheet_of([entry(30, 90)]).shape[0] < sheet_of([entry(30, 30)]).shape[0]


@pytest.mark.parametrize(
    "text", ["x" * 5000, "a word " * 500, "tall\nand\tpadded " * 9, "\xe9\xdf\u4e2d\xd7\u2013", ""]
)
def test_texts_of_any_length_stay_inside(text: str) -> None:
    rows = [
        SheetEntry(np.zeros((20, 20), np.uint8), np.zeros((20, 20)), text, text) for _ in range(3)
    ]
    for n in (1, 3):
        sheet = contact_sheet(rows[:n], text, text, scale=1.0)
        assert sheet.shape == sheet_of([entry(20, 20)] * n).shape
        assert_margins_are_free(sheet)


def test_a_long_caption_keeps_its_end_and_a_long_title_its_beginning() -> None:
    long = "folder/" * 30
    rows = [[entry(caption=long + end)] for end in ("000.png", "001.png")]
    assert (sheet_of(rows[0]) != sheet_of(rows[1])).any()
    titles = [contact_sheet(rows[0], long * 9 + end, "", scale=1.0) for end in ("0", "1")]
    np.testing.assert_array_equal(titles[0], titles[1])


def test_captions_do_not_run_into_the_next_column() -> None:
    # Between two columns there is a strip of bare background, however long the captions.
    rows = [entry(caption="m" * 300)] * 2
    with_text = sheet_of(rows)
    without = sheet_of([entry(caption="")] * 2)
    changed = (with_text != without).any(axis=2).any(axis=0)
    columns = np.flatnonzero(changed)
    assert np.diff(columns).max() > 20


def test_the_legend_says_the_scale() -> None:
    row = SheetEntry(np.zeros((20, 20), np.uint8), np.zeros((20, 20)), "a", "b")
    one, two = (contact_sheet([row], "t", "s", scale=scale) for scale in (1.0, 2.0))
    changed = np.flatnonzero((one != two).any(axis=2).any(axis=1))
    assert len(changed) > 0
    assert changed[0] > one.shape[0] * 2 / 3


@pytest.mark.parametrize("scale", [1e-30, 3.14159, 1e30])
def test_extreme_scales(scale: float) -> None:
    sheet = contact_sheet([entry()], "t", "s", scale=scale)
    assert_margins_are_free(sheet)


def test_the_same_entries_make_the_same_sheet() -> None:
    np.testing.assert_array_equal(sheet_of([entry()] * 2), sheet_of([entry()] * 2))


IMAGE, MAP = np.zeros((2, 3), np.uint8), np.zeros((2, 3))


@pytest.mark.parametrize(
    ("image", "map_", "error", "message"),
    [
        (IMAGE[0], MAP, ShapeError, r"rows\[1\].image: expected shape .* got \(3,\)"),
        (IMAGE, MAP.T, ShapeError, r"rows\[1\].map: expected \(2, 3\), .* got \(3, 2\)"),
        (IMAGE.astype(int), MAP, DTypeError, r"rows\[1\].image: .* got int64"),
        (IMAGE, MAP + np.nan, ParameterError, r"rows\[1\].map: expected finite numbers"),
    ],
)
def test_a_bad_entry_is_named(image: Any, map_: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sheet_of([entry(), SheetEntry(image, map_, "a", "b")])


def test_bad_parameters_are_refused() -> None:
    with pytest.raises(ParameterError, match="rows: expected at least one entry, got none"):
        sheet_of([])
    with pytest.raises(ParameterError, match="columns: expected at least 1, got 0"):
        sheet_of([entry()], columns=0)
    for scale in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ParameterError, match="scale: expected a positive finite number"):
            contact_sheet([entry()], "t", "s", scale=scale)


def test_letters_that_the_font_lacks_are_written_plainly() -> None:
    plain = sheet_of([entry(caption="Risse - 3x")])
    accented = sheet_of([entry(caption="R\xeesse \N{EN DASH} 3\N{MULTIPLICATION SIGN}")])
    np.testing.assert_array_equal(accented, plain)
