"""Scenes as features: all bands of a scene, as they are, whatever they come as."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

import knnspect as ks
from knnspect.data import read_image
from knnspect.data.scenes import SceneReader
from knnspect.errors import DTypeError, ImageError, ParameterError, ShapeError, StoreError


@pytest.fixture(scope="module")
def scene() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(9, 12, 30)).astype(np.float32)


def level_of(images: Any, **parameters: Any) -> NDArray[Any]:
    level: NDArray[Any] = ks.Scenes(**parameters).extract(images).pyramid.levels[0]
    return level


def test_an_array_comes_out_as_it_is(scene: NDArray[np.float32]) -> None:
    features = ks.Scenes().extract(scene)
    np.testing.assert_array_equal(features.pyramid.levels[0], scene[None])
    np.testing.assert_allclose(features.pooled[0], scene.mean((0, 1)), rtol=1e-4, atol=1e-6)
    assert features.sizes == [(9, 12)]
    np.testing.assert_array_equal(level_of(np.stack([scene, -scene])), [scene, -scene])
    np.testing.assert_array_equal(level_of([scene[..., 0]])[0, ..., 0], scene[..., 0])


def test_files_are_read_with_all_their_bands(scene: NDArray[np.float32], tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", scene)
    np.save(tmp_path / "columns.npy", np.asfortranarray(scene))
    np.save(tmp_path / "big.npy", scene.astype(">f8"))
    grey: dict[str, Any] = {"photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "samples.tif", scene, planarconfig="contig", **grey)
    bands_first = scene.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "planes.tif", bands_first, planarconfig="separate", **grey)
    tifffile.imwrite(tmp_path / "packed.tif", scene, planarconfig="contig", compression=8, **grey)
    with tifffile.TiffWriter(tmp_path / "pages.tif") as writer:
        for band in bands_first:
            writer.write(band, contiguous=False)
    for file in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(level_of(file)[0], scene, file.name)


def test_a_folder_gives_its_arrays_and_images_by_their_paths(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    np.save(tmp_path / "b" / "0.npy", np.ones((4, 5, 3)))
    np.save(tmp_path / ".hidden.npy", np.ones((4, 5, 3)))
    Image.fromarray(np.full((4, 5, 3), 51, np.uint8)).save(tmp_path / "a.png")
    features = ks.Scenes().extract(tmp_path)
    assert features.ids == ["a.png", "b/0.npy"]
    np.testing.assert_allclose(features.pyramid.levels[0][0], 0.2)


def test_whole_numbers_without_a_sign_are_shares_whatever_they_come_as(tmp_path: Path) -> None:
    bytes_ = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
    Image.fromarray(bytes_).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", bytes_)
    expected = bytes_.astype(np.float32) / 255
    for given in (bytes_, [Image.fromarray(bytes_)], tmp_path / "a.png", tmp_path / "a.npy"):
        np.testing.assert_array_equal(level_of(given)[0], expected)
    np.testing.assert_allclose(level_of(np.full((2, 2, 5), 13107, np.uint16)), 0.2)
    np.testing.assert_array_equal(level_of(np.full((2, 2, 5), -300, np.int16)), -300)


def test_scenes_of_several_sizes_come_one_after_the_other() -> None:
    scenes = [np.ones((4, 5, 6)), np.ones((7, 5, 6)), np.ones((4, 5, 6))]
    found = list(ks.Scenes().iterate(scenes))
    assert [part.pyramid.shapes[0] for part in found] == [(4, 5, 6), (7, 5, 6), (4, 5, 6)]


def test_a_map_of_a_scene_is_its_own(scene: NDArray[np.float32]) -> None:
    (placement,) = ks.Scenes().extract(scene).placements
    map_ = scene[..., 0] * np.pi
    np.testing.assert_array_equal(placement.to_image(map_), map_)
    assert placement.cell_at(8, 11, (9, 12)) == (8, 11)
    assert placement.box_of((3, 4), (9, 12)) == (3, 4, 4, 5)


def not_finite() -> NDArray[np.float32]:
    scene = np.zeros((4, 5, 6), np.float32)
    scene[1, 2, 3] = np.nan
    return scene


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (not_finite(), "1 of 120, the first at row 1, column 2, band 3"),
        (np.full((2, 2, 2), 1e300), "finite"),
        (np.zeros(5), r"\(height, width, n_bands\), got \(5,\)"),
        (np.zeros((2, 3, 4, 5)), r"n_bands\), got \(2, 3, 4, 5\)"),
        (np.zeros((0, 3, 4)), r"n_bands\), got \(0, 3, 4\)"),
        (np.zeros((2, 3, 4), complex), "complex128"),
        (np.full((2, 3, 4), "a"), "<U1"),
        (np.full((2, 3, 4), None), "object"),
        (np.zeros((20, 30, 40)), "at most 3,000 values.*max_pixels"),
    ],
)
def test_what_is_no_scene_is_refused_by_name(
    array: NDArray[Any], message: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "odd.npy", array, allow_pickle=True)
    with pytest.raises(ImageError, match=rf"odd\.npy: .*{message}"):
        level_of(tmp_path / "odd.npy", max_pixels=1000)
    with pytest.raises((ImageError, ShapeError, DTypeError), match=rf"000000: .*{message}"):
        level_of([array], max_pixels=1000)


def test_damaged_files_are_refused_by_name(scene: NDArray[np.float32], tmp_path: Path) -> None:
    file = tmp_path / "a.npy"
    np.save(file, scene)
    whole = file.read_bytes()
    huge = whole.replace(b"(9, 12, 30), }", b"(9, 12, 10**9)", 1)
    many = whole.replace(b"(9, 12, 30), }     ", b"(9, 12, 99999999), }", 1)[: len(whole)]
    for contents in (whole[:-1], whole + b"\0", whole[:40], b"\x93NUMPY\x09\x00", huge, many):
        file.write_bytes(contents)
        with pytest.raises(ImageError, match=r"a\.npy: expected"):
            level_of(file)
    np.savez(tmp_path / "a.npz", scene)
    (tmp_path / "a.npz").rename(file)
    with pytest.raises(ImageError, match=r"a\.npy: expected .*PNG"):
        level_of(file)


def test_tiff_files_that_are_no_one_scene_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    with tifffile.TiffWriter(file) as writer:
        for _ in range(2):
            writer.write(np.zeros((4, 5, 3), np.uint8), photometric="rgb", contiguous=False)
    with pytest.raises(ImageError, match=r"a\.tif: .*one scene, got 2 pages of 3 bands"):
        level_of(file)
    with tifffile.TiffWriter(file) as writer:
        for side in (4, 5):
            writer.write(np.zeros((4, side), np.uint8), contiguous=False)
    with pytest.raises(ImageError, match=r"a\.tif: expected bands of one size"):
        level_of(file)
    tifffile.imwrite(file, np.zeros((40, 50, 6)), photometric="minisblack", planarconfig="contig")
    with pytest.raises(ImageError, match=r"a\.tif: expected at most 300 values"):
        level_of(file, max_pixels=100)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ImageError, match=r"a\.tif: .*damaged"):
        level_of(file)


def test_other_extractors_refuse_scenes_still(scene: NDArray[np.float32], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", scene, photometric="minisblack", planarconfig="contig")
    np.save(tmp_path / "a.npy", scene)
    for file in (tmp_path / "a.tif", tmp_path / "a.npy"):
        with pytest.raises(ImageError, match=file.name):
            read_image(file)
        with pytest.raises(ImageError, match=file.name):
            ks.Pixels(16).extract(file)
    with pytest.raises(ShapeError):
        ks.Pixels(16).extract([scene])


def test_a_white_level_is_refused(scene: NDArray[np.float32]) -> None:
    for white in (255, "auto"):
        with pytest.raises(ParameterError, match="white: is not used here"):
            ks.Scenes(white=white).extract(scene)  # type: ignore[arg-type]


def test_three_bands_are_shown_to_people(scene: NDArray[np.float32]) -> None:
    picture = SceneReader().picture(scene)
    assert picture.shape == (9, 12, 3)
    assert (picture.min(), picture.max()) == (0, 1)
    order = scene[..., 22].argsort(axis=None)  # red is three quarters of the way
    assert (np.diff(picture[..., 0].ravel()[order]) >= 0).all()
    colours = np.random.default_rng(0).random((4, 5, 3), np.float32)
    assert SceneReader().picture(colours) is colours


def test_they_are_stored_copied_and_pickled(scene: NDArray[np.float32]) -> None:
    scenes = ks.Scenes(device="cpu")
    stored = ks.Scenes.from_state(*scenes.state(), device="cpu")
    assert stored == scenes == copy.deepcopy(scenes) == pickle.loads(pickle.dumps(stored))
    np.testing.assert_array_equal(level_of(scene), stored.extract(scene).pyramid.levels[0])
    with pytest.raises(StoreError, match="no tensors"):
        ks.Scenes.from_state(scenes.state()[0], {"a": np.zeros(1)})
