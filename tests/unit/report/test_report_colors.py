from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from knnspect.errors import DTypeError, ParameterError, ShapeError
from knnspect.report import colorize


def test_shape_and_dtype() -> None:
    colors = colorize(np.random.default_rng(0).random((5, 7)))
    assert colors.shape == (5, 7, 3)
    assert colors.dtype == np.uint8


def test_larger_values_are_brighter() -> None:
    colors = colorize(np.linspace(0, 1, 256)[np.newaxis])[0].astype(float)
    linear = np.where(colors <= 10, colors / 3294.6, ((colors / 255 + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()
    # Lightness, which is how bright it looks, rises at a rate that is about even.
    lightness = 116 * np.cbrt(luminance) - 16
    per_eighth = np.diff(lightness[::32])
    assert per_eighth.max() < 2 * per_eighth.min()


def test_from_dark_blue_through_red_to_yellow() -> None:
    low, middle, high = colorize([[0.15, 0.55, 1.0]])[0].astype(int)
    assert low[2] > low[0] > low[1]
    assert middle[0] > 2 * middle[1]
    assert middle[0] > 2 * middle[2]
    assert high[0] > 240
    assert high[1] > 230
    assert high[2] < 180


def test_neighbouring_values_have_neighbouring_colors() -> None:
    colors = colorize(np.linspace(0, 1, 256)[np.newaxis])[0].astype(int)
    assert np.abs(np.diff(colors, axis=0)).max() <= 8


def test_values_outside_are_clipped() -> None:
    np.testing.assert_array_equal(colorize([[-5.0, 7.0]]), colorize([[0.0, 1.0]]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, bool])
def test_any_real_dtype(dtype: type[Any]) -> None:
    np.testing.assert_array_equal(
        colorize(np.array([[0, 1]]).astype(dtype)), colorize([[0.0, 1.0]])
    )


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([0.5], ShapeError, r"values: expected shape \(height, width\), got \(1,\)"),
        ([["a"]], DTypeError, "values: expected real numbers, got <U1"),
        ([[np.nan]], ParameterError, "values: expected finite numbers"),
        ([[np.inf]], ParameterError, "values: expected finite numbers"),
    ],
)
def test_bad_values_are_refused(values: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        colorize(values)
