"""Scores near the border, held against those of normal images there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect import Backbone, PatchCore, Spade
from knnspect.detectors.border import BorderFactors

RNG = np.random.default_rng(0)
SHAPES = [(16, 20, 24), (8, 10, 40), (4, 5, 112)]


def textures(n: int, seed: int) -> NDArray[np.uint8]:
    """Grey noise with structure of every size, nowhere different from elsewhere."""
    rng = np.random.default_rng(seed)
    images = np.zeros((n, 96, 96))
    for size in (3, 6, 12, 24, 48, 96):
        part = rng.normal(size=(n, size, size))
        images += np.repeat(np.repeat(part, 96 // size, axis=1), 96 // size, axis=2)
    grey = (120 + 18 * images).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def by_hand(normal: NDArray[Any], cells: NDArray[Any], margin: int) -> NDArray[Any]:
    """The definition, cell by cell."""
    height, width = cells.shape

    def large(scores: list[float]) -> float:
        return sorted(scores)[int(np.ceil(0.98 * len(scores))) - 1]

    def place(row: int, column: int) -> tuple[int, int]:
        distances = (min(row, height - 1 - row), min(column, width - 1 - column))
        return min(distances), min(max(distances), margin)

    at: dict[tuple[int, int], list[float]] = {}
    inside: list[float] = []
    for row in range(height):
        for column in range(width):
            near, far = place(row, column)
            if near < margin:
                at.setdefault((near, far), []).extend(normal[:, row, column])
            elif near < 2 * margin:
                inside.extend(normal[:, row, column])
    expected: NDArray[Any] = cells.copy()
    for row in range(height):
        for column in range(width):
            found = at.get(place(row, column))
            if found:
                ratio = large(found) / large(inside)
                expected[row, column] /= max(1, ratio)
    return expected


class TestBorderFactors:
    def test_are_what_their_definition_says(self) -> None:
        normal = RNG.gamma(4, size=(5, 16, 20))
        normal[:, :2] *= 1.7
        normal[:, :, -1] *= 2.5
        normal[:, :3, :3] *= 1.4
        cells = RNG.random((16, 20))
        found = BorderFactors.of(normal, SHAPES).divide(cells)
        np.testing.assert_allclose(found, by_hand(normal, cells, 4), rtol=1e-12)
        assert (found <= cells).all()
        assert np.array_equal(found[4:-4, 4:-4], cells[4:-4, 4:-4])

    def test_are_the_same_for_distances_and_their_squares(self) -> None:
        normal = RNG.gamma(4, size=(5, 16, 20)) + 0.1
        normal[:, 0] *= 3
        plain, squared = (BorderFactors.of(x, SHAPES).factors for x in (normal, normal**2))
        np.testing.assert_allclose(squared, plain**2, rtol=1e-12)

    def test_an_empty_border_is_left_as_it_is(self) -> None:
        normal = RNG.gamma(4, size=(5, 16, 20))
        normal[:, [0, 1, -2, -1]] = 0.01
        normal[:, :, [0, 1, -2, -1]] = 0.01
        cells = RNG.random((16, 20))
        found = BorderFactors.of(normal, SHAPES).divide(cells)
        assert np.array_equal(found[:2], cells[:2])
        assert np.array_equal(found[:, -2:], cells[:, -2:])

    @pytest.mark.parametrize("shapes", [[(7, 7, 3), (2, 2, 3)], [(3, 40, 3)]])
    def test_grids_without_an_inside_are_left_as_they_are(self, shapes: Any) -> None:
        cells = RNG.random(shapes[0][:2])
        found = BorderFactors.of(RNG.random((3, *shapes[0][:2])), shapes)
        assert found == BorderFactors()
        assert np.array_equal(found.divide(cells), cells)

    def test_no_normal_images_and_constant_ones_divide_nothing(self) -> None:
        assert BorderFactors.of([], SHAPES) == BorderFactors()
        zeros = BorderFactors.of(np.zeros((2, 16, 20)), SHAPES)
        assert (zeros.factors == 1).all()

    @pytest.mark.parametrize(
        "factors", [[[0.5, 1]], [[1, 2, 3]], [[np.nan, 1]], [[np.inf, 1]], [1, 2], [["a", "b"]]]
    )
    def test_others_are_refused(self, factors: Any) -> None:
        with pytest.raises(ValueError, match=r"border factors|could not convert"):
            BorderFactors(factors)


@pytest.mark.parametrize("kind", [Spade, PatchCore])
def test_the_strongest_cell_of_normal_textures_is_not_drawn_to_the_border(kind: Any) -> None:
    parameters: dict[str, Any] = {"image_neighbors": 11} if kind is Spade else {"coreset": None}
    backbone = Backbone(image_size=96, levels=(1, 2, 3), device="cpu")
    detector = kind(backbone, score="map", **parameters).fit(textures(12, 1))
    others = textures(16, 2)

    def near_border(maps: list[NDArray[Any]]) -> int:
        places = [np.unravel_index(m.argmax(), m.shape) for m in maps]
        return sum(min(r, c, 95 - r, 95 - c) < 10 for r, c in places)

    with_factors = near_border([p.map for p in detector.predict(others)])
    factors, detector.border_ = detector.border_, BorderFactors()
    without = near_border([p.map for p in detector.predict(others)])
    assert factors.factors.max() > 1.2
    assert with_factors < 0.75 * without


@pytest.mark.parametrize("place", [(0, 0), (0, 44), (50, 88), (88, 88)])
def test_defects_at_the_border_are_still_found(place: tuple[int, int]) -> None:
    backbone = Backbone(image_size=96, levels=(1, 2, 3), device="cpu")
    spade = Spade(backbone, score="map", image_neighbors=11).fit(textures(12, 1))
    good = textures(4, 3)
    bad = good.copy()
    row, column = place
    bad[:, row : row + 8, column : column + 8] = 255
    for before, after in zip(spade.predict(good), spade.predict(bad), strict=True):
        assert after.score > 1.2 * before.score
        peak = np.unravel_index(after.map.argmax(), after.map.shape)
        assert abs(peak[0] - (row + 3.5)) <= 10
        assert abs(peak[1] - (column + 3.5)) <= 10


def test_cells_that_do_not_count_say_nothing_of_the_border() -> None:
    normal = RNG.uniform(1, 2, (4, 16, 20))
    normal[:, :4] *= 3
    factors = BorderFactors.of(normal, SHAPES)
    hidden = normal.copy()
    hidden[:, 8:] = np.nan  # the upper half counts
    of_half = BorderFactors.of(hidden, SHAPES).factors
    assert of_half[0, 4] == pytest.approx(factors.factors[0, 4], rel=0.3)
    hidden[:, :8] = np.nan
    assert (BorderFactors.of(hidden, SHAPES).factors == 1).all()
