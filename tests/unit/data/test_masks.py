"""Masks, as they are found in the world: two values, soft edges, labels, folders."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from knnspect.data import read_mask
from knnspect.data.masks import load_mask
from knnspect.errors import DatasetWarning, ImageError

Pixels = NDArray[np.bool_]


def drawn() -> Pixels:
    """A round hole, a long scratch three pixels wide, and a small spot."""
    rows, columns = np.mgrid[:128, :160]
    hole = (rows - 40) ** 2 + (columns - 50) ** 2 <= 21**2
    scratch = (abs(rows - columns / 3 - 65) <= 1.5) & (columns > 20) & (columns < 150)
    spot = (rows - 100) ** 2 + (columns - 30) ** 2 <= 4**2
    found: Pixels = hole | scratch | spot
    return found


def written(folder: Path, values: NDArray[np.generic], name: str = "a_mask.png") -> Path:
    Image.fromarray(values).save(folder / name)
    return folder / name


def jpeg(values: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


class TestTwoValues:
    @pytest.mark.parametrize(
        ("low", "high"), [(0, 255), (0, 1), (0, 7), (0, 128), (3, 255), (100, 101)]
    )
    def test_the_larger_is_defective(self, tmp_path: Path, low: int, high: int) -> None:
        mask = load_mask(written(tmp_path, np.where(drawn(), high, low).astype("u1")))
        assert mask.kind == "two values"
        assert np.array_equal(mask.pixels, drawn())

    def test_of_sixteen_bits(self, tmp_path: Path) -> None:
        for high in (1, 65535):
            file = written(tmp_path, np.where(drawn(), high, 0).astype("u2"))
            assert np.array_equal(read_mask(file), drawn())

    def test_of_one_bit(self, tmp_path: Path) -> None:
        assert np.array_equal(read_mask(written(tmp_path, drawn())), drawn())

    def test_of_a_palette(self, tmp_path: Path) -> None:
        picture = Image.fromarray(drawn().astype("u1"), "P")
        picture.putpalette([0, 0, 0, 0, 100, 0])
        picture.save(tmp_path / "a.png")
        assert np.array_equal(read_mask(tmp_path / "a.png"), drawn())

    def test_with_transparency(self, tmp_path: Path) -> None:
        on = np.where(drawn(), 255, 0).astype("u1")
        opaque, white = np.full_like(on, 255), np.full_like(on, 255)
        for channels in ((on, on, on, opaque), (white, white, white, on), (on, on, on, on)):
            file = written(tmp_path, np.stack(channels, axis=2))
            assert np.array_equal(read_mask(file), drawn())

    @pytest.mark.parametrize(("value", "is_defective"), [(0, False), (1, True), (255, True)])
    def test_a_single_one_is_defective_unless_it_is_black(
        self, tmp_path: Path, value: int, is_defective: bool
    ) -> None:
        file = written(tmp_path, np.full((4, 5), value, "u1"))
        assert read_mask(file).all() == read_mask(file).any() == is_defective


class TestSoftMasks:
    @pytest.mark.parametrize("quality", [50, 60, 75, 85, 95])
    @pytest.mark.parametrize("high", [255, 100])
    def test_that_were_a_jpeg_have_the_area_that_was_drawn(
        self, tmp_path: Path, quality: int, high: int
    ) -> None:
        values = jpeg(np.where(drawn(), high, 0).astype("u1"), quality)
        mask = load_mask(written(tmp_path, values))
        assert mask.kind == "soft"
        assert (values > 0).sum() > 1.05 * drawn().sum(), "or nothing is tested"
        wrong = mask.pixels != drawn()
        assert wrong.sum() <= 0.02 * drawn().sum()
        edge = ndimage.binary_dilation(drawn()) & ~ndimage.binary_erosion(drawn())
        assert not (wrong & ~edge).any()

    def test_that_are_a_jpeg(self, tmp_path: Path) -> None:
        values = np.where(drawn(), 255, 0).astype("u1")
        Image.fromarray(values).save(tmp_path / "a.jpg", quality=75)
        assert load_mask(tmp_path / "a.jpg").kind == "soft"
        assert np.array_equal(load_mask(tmp_path / "a.jpg").pixels, drawn())

    @pytest.mark.parametrize("quality", [75, 85, 95])
    def test_of_one_above_black_are_not_lost_in_a_jpeg(self, tmp_path: Path, quality: int) -> None:
        mask = load_mask(written(tmp_path, jpeg(drawn().astype("u1"), quality)))
        # One in 255 is near what such a file can hold: the small spot may go, the hole stays.
        inner = ndimage.binary_erosion(drawn(), iterations=6)
        assert mask.pixels[inner].mean() > 0.95
        assert not mask.pixels[~ndimage.binary_dilation(drawn(), iterations=8)].any()

    def test_with_smooth_edges_are_cut_at_half(self, tmp_path: Path) -> None:
        smooth = ndimage.gaussian_filter(np.where(drawn(), 255.0, 0), 1)
        file = written(tmp_path, smooth.astype("u1"))
        largest = smooth.astype("u1").max()
        assert np.array_equal(load_mask(file).pixels, smooth.astype("u1") >= largest / 2)
        deep = written(tmp_path, (smooth * 257).astype("u2"))
        assert (load_mask(deep).pixels != load_mask(file).pixels).mean() < 1e-3

    def test_half_counts(self, tmp_path: Path) -> None:
        file = written(tmp_path, np.array([[0, 1, 99, 100, 200]], "u1"))
        assert load_mask(file).pixels.tolist() == [[False, False, False, True, True]]

    def test_noise_on_black_marks_nothing(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).choice(4, (128, 160), p=[0.9, 0.06, 0.03, 0.01])
        mask = load_mask(written(tmp_path, noise.astype("u1")))
        assert mask.kind == "soft"
        assert not mask.pixels.any()

    def test_black_ones_stay_black_in_a_jpeg(self, tmp_path: Path) -> None:
        for quality in (50, 75, 95):
            black = jpeg(np.zeros((64, 64), "u1"), quality)
            assert not load_mask(written(tmp_path, black)).pixels.any()

    def test_a_warning_names_the_file(self, tmp_path: Path) -> None:
        file = written(tmp_path, np.array([[0, 1, 255]], "u1"))
        with pytest.warns(DatasetWarning, match=r"a_mask\.png: a mask with soft edges.*half"):
            read_mask(file)


class TestLabels:
    def test_of_several_defects_all_count(self, tmp_path: Path) -> None:
        regions, n_regions = ndimage.label(drawn(), np.ones((3, 3)))
        assert n_regions == 3
        for values in (regions, regions * 20, regions**3 * 9):
            mask = load_mask(written(tmp_path, values.astype("u1")))
            assert mask.kind == "labels"
            assert np.array_equal(mask.pixels, drawn())

    def test_in_colours(self, tmp_path: Path) -> None:
        regions, _ = ndimage.label(drawn(), np.ones((3, 3)))
        picture = Image.fromarray(regions.astype("u1"), "P")
        picture.putpalette([0, 0, 0, 128, 0, 0, 0, 64, 0, 0, 128, 192])
        picture.save(tmp_path / "a.png")
        with pytest.warns(DatasetWarning, match=r"a\.png: a mask with several labels"):
            assert np.array_equal(read_mask(tmp_path / "a.png"), drawn())


class TestFolders:
    def test_are_the_union_of_their_masks(self, tmp_path: Path) -> None:
        one, other = drawn(), drawn()[::-1, ::-1]
        written(tmp_path, np.where(one, 255, 0).astype("u1"), "000.png")
        written(tmp_path, np.where(other, 254, 0).astype("u1"), "001.png")
        assert np.array_equal(read_mask(tmp_path), one | other)

    def test_with_a_soft_mask_are_soft(self, tmp_path: Path) -> None:
        written(tmp_path, np.where(drawn(), 255, 0).astype("u1"), "000.png")
        written(tmp_path, jpeg(np.where(drawn(), 255, 0).astype("u1"), 75), "001.png")
        assert load_mask(tmp_path).kind == "soft"

    def test_without_masks_or_of_two_sizes_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(ImageError, match="empty: expected masks"):
            read_mask(tmp_path / "empty")
        written(tmp_path, np.zeros((4, 5), "u1"), "000.png")
        written(tmp_path, np.zeros((4, 6), "u1"), "001.png")
        with pytest.raises(ImageError, match=r"001\.png: expected .*\(4, 5\).*got \(4, 6\)"):
            read_mask(tmp_path)


def test_a_mask_of_two_values_is_read_without_a_word(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_mask(written(tmp_path, drawn())).dtype == np.bool_


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, np.zeros((200, 100), "u1"))
    message = r"a_mask\.png: expected a mask of .*\(100, 200\).*got \(200, 100\)"
    with pytest.raises(ImageError, match=message):
        read_mask(path, size=(100, 200))
    with pytest.raises(ImageError, match=r"gone\.png: expected"):
        read_mask(tmp_path / "gone.png")
