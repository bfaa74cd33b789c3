"""Maps of pixels from the scores of cells."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from knnspect.data import Geometry
from knnspect.detectors.maps import Sigma, _blurred, pixel_map
from knnspect.errors import ParameterError
from knnspect.views import Placement

RNG = np.random.default_rng(0)


def enlarged(cells: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    tensor = torch.from_numpy(cells)[None, None]
    large = torch.nn.functional.interpolate(tensor, size, mode="bilinear", align_corners=False)
    result: NDArray[np.float64] = large[0, 0].numpy()
    return result


@pytest.mark.parametrize("resize", ["stretch", "pad"])
@pytest.mark.parametrize("size", [(64, 96), (300, 300), (5, 200), (1, 1)])
def test_a_constant_stays_constant(resize: str, size: tuple[int, int]) -> None:
    geometry = Geometry((64, 96), resize)  # type: ignore[arg-type]
    found = pixel_map(np.full((8, 12), 2.5), Placement(size, geometry), 4.0)
    assert found.shape == size
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 2.5, rtol=1e-6)


def test_without_blur_it_is_bilinear_with_half_pixel_centres() -> None:
    cells = RNG.random((8, 12))
    found = pixel_map(cells, Placement((64, 96), Geometry((64, 96))), 0)
    np.testing.assert_allclose(found, enlarged(cells, (64, 96)), rtol=1e-5)
    by_hand = pixel_map(np.array([[0.0, 1.0]]), Placement((1, 4), Geometry((1, 4))), 0)
    np.testing.assert_allclose(by_hand, [[0, 0.25, 0.75, 1]], rtol=1e-6)


@pytest.mark.parametrize("image_size", [(224, 224), (112, 224), (64, 64)])
def test_the_blur_is_in_pixels_of_a_224_px_input(image_size: tuple[int, int]) -> None:
    cells = RNG.random((image_size[0] // 8, image_size[1] // 8))
    found = pixel_map(cells, Placement(image_size, Geometry(image_size)), 4.0)
    sigmas = (4 * image_size[0] / 224, 4 * image_size[1] / 224)
    expected = gaussian_filter(
        enlarged(cells, image_size), sigmas, mode="constant", cval=np.median(cells)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("place", [(0, 0), (0, 9), (15, 15), (7, 0)])
def test_a_high_cell_keeps_no_more_of_its_score_at_the_border_than_inside(
    place: tuple[int, int],
) -> None:
    def peak(row: int, column: int) -> float:
        cells = np.full((16, 16), 3.0)
        cells[row, column] = 10
        return float(pixel_map(cells, Placement((224, 224), Geometry((224, 224))), 8.0).max()) - 3

    # Were the image mirrored at its border, this would be twice as much, in a corner four times.
    assert 0.9 * peak(8, 8) < peak(*place) < 1.25 * peak(8, 8)


@pytest.mark.parametrize("sigma", [1e308, 225, float("inf"), float("nan"), -1])
def test_a_blur_that_leaves_nothing_is_refused(sigma: float) -> None:
    with pytest.raises(ParameterError, match=r"sigma: expected .* got"):
        Sigma().check("sigma", sigma)


def test_more_blur_leaves_less_contrast() -> None:
    cells = RNG.random((8, 8))
    spread = [
        float(np.ptp(pixel_map(cells, Placement((64, 64), Geometry((64, 64))), s)))
        for s in (0, 14, 60)
    ]
    assert all(b < 0.9 * a for a, b in pairwise(spread))


@pytest.mark.parametrize("size", [(64, 64), (300, 300), (120, 200), (200, 120), (20, 20)])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_a_peak_stays_in_its_place(resize: str, size: tuple[int, int]) -> None:
    # The middle of the upper left quarter of what the network sees.
    cells = np.zeros((64, 64))
    cells[16, 16] = 1
    height, width = size
    side = min(size) if resize == "crop" else max(size)
    seen = size if resize == "stretch" else (side, side)
    row = (height - seen[0]) / 2 + seen[0] * 16.5 / 64
    column = (width - seen[1]) / 2 + seen[1] * 16.5 / 64
    found = pixel_map(cells, Placement(size, Geometry((64, 64), resize)), 4.0)  # type: ignore[arg-type]
    peak = np.unravel_index(found.argmax(), size)
    assert abs(peak[0] + 0.5 - row) <= max(1, height / 64)
    assert abs(peak[1] + 0.5 - column) <= max(1, width / 64)


def test_what_a_crop_cut_off_is_0() -> None:
    found = pixel_map(np.ones((8, 8)), Placement((100, 200), Geometry((64, 64), "crop")), 4.0)
    assert not found[:, :50].any()
    assert not found[:, 150:].any()
    np.testing.assert_allclose(found[:, 50:150], 1, rtol=1e-6)


def test_single_precision_cells_give_the_same() -> None:
    cells = RNG.random((8, 8)).astype(np.float32)
    one = pixel_map(cells, Placement((50, 70), Geometry((64, 64))), 4.0)
    other = pixel_map(
        np.asfortranarray(cells.astype(np.float64)), Placement((50, 70), Geometry((64, 64))), 4.0
    )
    assert np.array_equal(one, other)


@pytest.mark.parametrize("sigma", [0.1, 4.0, 9.25, 224.0])
@pytest.mark.parametrize("n_pixels", [1, 5, 224])
def test_the_blur_has_the_bits_of_scipy(sigma: float, n_pixels: int) -> None:
    columns = RNG.random((n_pixels, 7))
    expected = gaussian_filter1d(columns, sigma, axis=0, mode="constant")
    np.testing.assert_array_equal(_blurred(columns, sigma), expected)
