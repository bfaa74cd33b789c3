"""Images that are scored by each other, as none is known to be normal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import knnspect as ks
from knnspect import Backbone, ImageError, MutualScoring, ParameterError
from knnspect.cleaning import mutual
from knnspect.detectors.maps import pixel_map

Images = NDArray[np.uint8]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(levels=(2, 3), image_size=64, patch_size=3)


@pytest.fixture(scope="module")
def images() -> Images:
    """Nine images, of which the fifth has a defect."""
    found: Images = np.random.default_rng(0).integers(100, 120, (9, 48, 64, 3)).astype("u1")
    found[4, 20:34, 20:34] = 255
    return found


@pytest.mark.parametrize(("share", "n_lowest"), [(0.05, 1), (0.3, 2), (1.0, 8)])
def test_the_score_of_a_cell_is_the_mean_of_its_lowest_distances(
    backbone: Backbone, images: Images, share: float, n_lowest: int
) -> None:
    features = backbone.extract(images)
    rows = features.pyramid.concatenated().astype(np.float64)
    n, height, width, channels = rows.shape
    flat = rows.reshape(n, -1, channels)
    nearest = np.full((n, n, height * width), np.inf)
    for one in range(n):
        for other in range(n):
            if one != other:
                apart = np.square(flat[one][:, None] - flat[other][None]).sum(axis=-1)
                nearest[one, other] = np.sqrt(apart.min(axis=1))
    cells = np.sort(nearest, axis=1)[:, :n_lowest].mean(axis=1).reshape(n, height, width)
    found = MutualScoring(backbone, share=share, sigma=2.0).compare(images)
    np.testing.assert_allclose(found.cells, cells, rtol=1e-6)
    for index, prediction in enumerate(found):
        map_ = pixel_map(cells[index], features.placements[index], 2.0)
        np.testing.assert_allclose(prediction.map, map_, rtol=1e-5)
        assert prediction.map.shape == (48, 64)
        assert prediction.score == prediction.map.max() == found.scores[index]


def test_a_defect_that_others_have_not_is_found(backbone: Backbone, images: Images) -> None:
    found = MutualScoring(backbone).score(images)
    scores = [prediction.score for prediction in found]
    assert int(np.argmax(scores)) == 4
    assert scores[4] > 2 * np.sort(scores)[-2]
    row, column = np.unravel_index(int(found[4].map.argmax()), found[4].map.shape)
    assert 16 <= row <= 38
    assert 16 <= column <= 38
    assert found[4].calibration is None
    assert found[4].neighbors is None


def test_of_a_defect_that_many_have_the_share_decides(backbone: Backbone, images: Images) -> None:
    many = images.copy()
    many[:3] = images[4]
    many[:3, :4] += np.arange(3, dtype=np.uint8)[:, None, None, None]
    few, more = (MutualScoring(backbone, share=share).compare(many).scores for share in (0.1, 0.8))
    assert few[4] < few[5:].max()
    assert more[4] > 1.5 * more[5:].max()


def test_they_come_in_the_order_of_the_images(backbone: Backbone, images: Images) -> None:
    names = [f"{(7 * i) % 9}.png" for i in range(9)]
    found = MutualScoring(backbone).compare(dict(zip(names, images, strict=True)))
    assert found.ids == [prediction.id for prediction in found] == names
    numbered = MutualScoring(backbone).compare(images)
    np.testing.assert_array_equal(found.scores, numbered.scores)
    assert [one.id for one in found[-2:]] == names[-2:] == [found[-2].id, found[-1].id]
    with pytest.raises(IndexError):
        found[9]


def test_neither_blocks_nor_folders_nor_threads_change_them(
    backbone: Backbone, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = MutualScoring(backbone, share=0.3).compare(images)
    scoring = MutualScoring(backbone, share=0.3, threads=1)
    in_folder = scoring.compare(images, folder=tmp_path / "features", max_memory="8GB")
    np.testing.assert_array_equal(in_folder.cells, expected.cells)
    monkeypatch.setattr(mutual, "_MOST_DISTANCES", 1)
    np.testing.assert_array_equal(scoring.compare(images).cells, expected.cells)
    by_rows = MutualScoring(backbone, share=0.3, backend="sklearn").compare(images)
    np.testing.assert_array_equal(by_rows.cells, expected.cells)


def test_scores_are_relative_to_the_batch(backbone: Backbone, images: Images) -> None:
    of_all = MutualScoring(backbone).compare(images)
    of_few = MutualScoring(backbone).compare(images[:3])
    assert (of_few.scores > of_all.scores[:3]).all()


def test_images_that_cannot_be_read_are_left_out(
    backbone: Backbone, images: Images, tmp_path: Path
) -> None:
    for index, image in enumerate(images[:3]):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"1\.png"):
        MutualScoring(backbone).score(tmp_path)
    with pytest.warns(ks.ImageWarning, match=r"1\.png"):
        found = MutualScoring(backbone).compare(tmp_path, skip_bad=True)
    assert found.ids == ["0.png", "2.png"]


def test_fewer_than_two_images_are_refused(backbone: Backbone, images: Images) -> None:
    with pytest.raises(ImageError, match="at least two to score by each other, got 000000 alone"):
        MutualScoring(backbone).score(images[:1])


def test_masks_are_not_scored(backbone: Backbone, images: Images, tmp_path: Path) -> None:
    for name in ("test/cut", "ground_truth/cut"):
        (tmp_path / name).mkdir(parents=True)
        Image.fromarray(images[0]).save(tmp_path / name / "0.png")
    with pytest.raises(ImageError, match="ground_truth"):
        MutualScoring(backbone).score(tmp_path)


def test_bad_parameters_are_named(backbone: Backbone, images: Images) -> None:
    for share in (0, 1.5, float("nan")):
        with pytest.raises(ParameterError, match="share: expected"):
            MutualScoring(backbone, share=share).score(images)
    for name, declared in MutualScoring.parameters.items():
        for value, error in declared.constraint.bad_values():
            scoring = MutualScoring(backbone).set_params(**{name: value})
            with pytest.raises(error, match=name):
                scoring.check_params()
        assert len(declared.summary) > 10
