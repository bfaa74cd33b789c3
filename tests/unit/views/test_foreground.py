"""What of an image is the part."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect.errors import ImageWarning, ParameterError
from knnspect.views.foreground import Foreground

CIRCLE = np.hypot(*(np.mgrid[:32, :32] - 15.5)) < 9


def features_of(part: NDArray[np.bool_], n_features: int, seed: int = 0) -> NDArray[np.float32]:
    """Cells of two kinds, with noise."""
    rng = np.random.default_rng(seed)
    kinds = np.linalg.qr(rng.normal(size=(n_features, 2)))[0].T
    noise = rng.normal(size=(*part.shape, n_features)) / 6 / np.sqrt(n_features)
    found: NDArray[np.float32] = (kinds[part.astype(int)] + noise).astype("f4")
    return found


@pytest.mark.parametrize("n_features", [2, 20, 200])
@pytest.mark.parametrize("seed", range(3))
def test_the_part_is_found_whichever_way_the_direction_points(n_features: int, seed: int) -> None:
    features = features_of(CIRCLE, n_features, seed)
    found = Foreground.learn([features]).mask(features)
    assert found[CIRCLE].all()
    assert found.sum() < 1.6 * CIRCLE.sum()  # it is widened by a cell
    for others in (-features, 1e20 * features.astype("f8") + 3e20):
        np.testing.assert_array_equal(found, Foreground.learn([others]).mask(others))


def test_a_part_that_is_larger_than_its_background_is_found() -> None:
    part = np.zeros((32, 32), bool)
    part[3:29, 3:29] = True
    features = features_of(part, 20)
    found = Foreground.learn([features]).mask(features)
    assert found[part].all()
    assert not found[[0, -1]].any()
    assert not found[:, [0, -1]].any()


def test_a_part_at_the_border_is_not_cut_off_there() -> None:
    part = np.zeros((32, 32), bool)
    part[:, 8:24] = True
    features = features_of(part, 20)
    assert Foreground.learn([features]).mask(features)[[0, -1], 8:24].all()


def test_a_defect_neither_turns_the_mask_nor_is_hidden_inside_the_part() -> None:
    learnt = Foreground.learn([features_of(CIRCLE, 20)])
    features = features_of(CIRCLE, 20)
    features[1:4, 1:4] += 100 * np.arange(20)  # beside the part
    features[14:17, 14:17] = features[31, 31]  # a hole that shows the background
    found = learnt.mask(features)
    assert found[14:17, 14:17].all()
    assert not found[8:, :3].any()


def test_images_of_which_all_or_nothing_is_hidden_are_named_once() -> None:
    features = features_of(CIRCLE, 20)
    learnt = Foreground.learn([features])
    part = np.broadcast_to(features[16, 16], features.shape)
    images = [
        ("a.png", part),
        ("b.png", features),
        ("c.png", part),
        ("d.png", part * 0 + features[0, 0]),
    ]
    with pytest.warns(ImageWarning) as told:
        found = learnt.masks((id_, [features]) for id_, features in images)
    assert [str(one.message) for one in told] == [
        'mask="pca" hides nothing of a.png and 1 more',
        'mask="pca" hides everything of d.png',
    ]
    assert [mask.mean() for mask in found][::2] == [1, 1]


def test_of_images_without_any_structure_nothing_is_hidden() -> None:
    same = np.ones((8, 8, 3))
    assert Foreground.learn([same, same], 2).mask(same).all()


def test_a_file_of_another_network_is_refused() -> None:
    learnt = Foreground.learn([features_of(CIRCLE, 20)])
    again = Foreground.from_arrays(learnt.arrays()["foreground"], 20)
    np.testing.assert_array_equal(again.direction, learnt.direction)
    assert again.threshold == learnt.threshold
    with pytest.raises(ParameterError, match="expected 22 numbers"):
        Foreground.from_arrays(learnt.arrays()["foreground"], 21)
