"""Correlations by Fourier transforms are those of plain loops; peaks lie between cells."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect.locators.correlation import Standard, Templates, quadratic_peak
from knnspect.locators.matching import mutual_matches


def unit(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    found: NDArray[np.float32] = values / np.linalg.norm(values, axis=-1, keepdims=True)
    return found


def masked(shape: tuple[int, int, int], seed: int) -> NDArray[np.float32]:
    mask = np.random.default_rng(seed + 9).random(shape[:2]) < 0.7
    mask[0, 0] = mask[-1, -1] = True
    return unit(shape, seed) * mask[..., None]


def test_the_correlation_is_that_of_a_loop() -> None:
    templates = [masked((3, 4, 5), 0), masked((5, 2, 5), 1)]
    image, valid = unit((9, 11, 5), 2), np.ones((9, 11), bool)
    valid[:, :2] = False
    found = Templates(templates, (9, 11))
    correlation = found.correlate(image, valid)
    top, left = found.lowest
    assert correlation.shape == (2, 9 - top, 11 - left)
    n_known = 0
    for which, template in enumerate(templates):
        cells = np.argwhere(template.any(axis=2))
        for row in range(correlation.shape[1]):
            for column in range(correlation.shape[2]):
                at = cells + np.array([row + top, column + left])
                inside = np.asarray((at >= 0).all(axis=1) & (at < (9, 11)).all(axis=1))
                inside[inside] = valid[tuple(at[inside].T)]
                expected = -1.0
                if inside.mean() >= 0.75:
                    pairs = template[tuple(cells[inside].T)] * image[tuple(at[inside].T)]
                    expected = pairs.sum(axis=1).mean()
                    n_known += 1
                assert correlation[which, row, column] == pytest.approx(expected, abs=1e-5)
    assert n_known > 50


def test_a_template_is_found_where_it_was_cut_out() -> None:
    image = unit((12, 14, 6), 4)
    templates = Templates([unit((4, 4, 6), 7), image[5:9, 6:11]], (12, 14))
    correlation = templates.correlate(image, np.ones((12, 14), bool))
    apart = np.eye(2, dtype=bool)
    first, second, *_ = templates.peaks(correlation, 3, 2.0, apart)
    assert (first.template, round(first.row), round(first.column)) == (1, 5, 6)
    assert first.value == pytest.approx(1, abs=1e-5)
    assert second.value < 0.9
    only = templates.peaks(correlation, 9, 100.0, np.ones((2, 2), bool))
    assert len(only) == 1


def test_the_top_of_a_parabola_is_found() -> None:
    rows, columns = np.mgrid[:7, :9]
    values = 5 - (rows - 3.2) ** 2 - 2 * (columns - 4.4) ** 2
    assert quadratic_peak(values.astype(np.float32), 3, 4) == pytest.approx((0.2, 0.4), abs=1e-5)
    assert quadratic_peak(values.astype(np.float32), 0, 0) == (0.0, 0.0)


def test_features_are_told_apart_by_what_differs_within_the_part() -> None:
    cells = np.array([[1.0, 5, 2], [3, 5, 2]], np.float32)
    standard = Standard.of(cells)
    np.testing.assert_allclose(standard.unit(cells), [[-1, 0, 0], [1, 0, 0]])


def test_mutual_neighbours_are_those_of_all_pairs() -> None:
    template, mask = unit((8, 9, 4), 0), np.random.default_rng(5).random((8, 9)) < 0.8
    image = np.roll(template, (1, -1), (0, 1)) + 0.3 * unit((8, 9, 4), 1)
    image = (image / np.linalg.norm(image, axis=-1, keepdims=True)).astype(np.float32)
    cells, places = mutual_matches(template, image, mask, reach=2)
    grid = np.argwhere(np.ones((8, 9), bool))
    near = np.abs(grid[:, None] - grid).max(axis=2) <= 2
    cosines = np.where(near, template.reshape(-1, 4) @ image.reshape(-1, 4).T, -np.inf)
    best, back = cosines.argmax(axis=1), cosines.argmax(axis=0)
    expected = {
        tuple(grid[i]): grid[j]
        for i, j in enumerate(best)
        if mask.ravel()[i] and back[j] == i and np.abs(grid[j] - grid[i]).max() < 2
    }
    assert set(map(tuple, cells.astype(int))) == set(expected)
    assert len(expected) > 20
    for cell, place in zip(cells.astype(int), places, strict=True):
        assert np.abs(place - expected[tuple(cell)]).max() <= 0.5
