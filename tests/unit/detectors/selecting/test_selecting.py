"""DUAD's rounds, on handwritten digits: zeros with other digits among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from knnspect import ImageError, ParameterError
from knnspect.detectors.selecting import Selecting, Selection
from knnspect.detectors.selecting.duad import _scaled

pytestmark = pytest.mark.usefixtures("one_thread")

N_NORMAL, N_ODD = 150, 16


@pytest.fixture(scope="module")
def digits() -> tuple[NDArray[np.float32], list[str]]:
    """Images of zeros, and of others, whose ids begin with "odd"."""
    data, labels = load_digits(return_X_y=True)
    odd = np.random.default_rng(0).choice(np.flatnonzero(labels > 1), N_ODD, replace=False)
    rows = np.concatenate([data[labels == 0][:N_NORMAL], data[odd]]) / 16
    ids = [f"{n:03}" for n in range(N_NORMAL)] + [f"odd {n:02}" for n in range(N_ODD)]
    return rows.astype(np.float32), ids


@pytest.fixture(scope="module")
def found(digits: tuple[NDArray[np.float32], list[str]]) -> Selection:
    return Selecting(clusters=8)._select(*digits)


def test_others_are_dropped_and_most_of_the_normal_ones_are_kept(found: Selection) -> None:
    kept = found.kept
    n_odd = sum(id_.startswith("odd") for id_ in kept)
    assert n_odd / len(kept) < 0.02 < N_ODD / (N_ODD + N_NORMAL)
    assert (len(kept) - n_odd) / N_NORMAL > 0.5


def test_an_image_that_was_dropped_can_come_back(found: Selection) -> None:
    first, *others = found.rounds
    assert (first.n_returned, first.n_dropped) == (first.n_kept, 0)
    assert sum(each.n_returned for each in others) > 0
    assert any(image.is_kept and image.rounds_kept < len(found.rounds) for image in found.images)


def test_rounds_add_up(found: Selection) -> None:
    for before, each in zip(found.rounds, found.rounds[1:], strict=False):
        assert each.n_kept == before.n_kept + each.n_returned - each.n_dropped
    assert 2 <= len(found.rounds) <= 11
    assert found.is_settled == (found.rounds[-1].n_changed == 0)
    total = sum(image.rounds_kept for image in found.images)
    assert total == sum(each.n_kept for each in found.rounds)


def test_neither_the_order_of_images_nor_what_came_before_matters(
    digits: tuple[NDArray[np.float32], list[str]], found: Selection
) -> None:
    rows, ids = digits
    np.random.default_rng(9).normal(size=3)
    order = np.random.default_rng(5).permutation(len(ids))
    again = Selecting(clusters=8)._select(rows[order], [ids[place] for place in order])
    assert again == found


def test_the_error_of_an_image_is_that_of_its_own_row(
    digits: tuple[NDArray[np.float32], list[str]], found: Selection
) -> None:
    """Of a shuffled loader that is indexed as if ordered they would be those of any image."""
    rows, ids = digits
    of_mean = np.square(_scaled(rows.astype(np.float64))).mean(axis=1)
    errors = np.array([image.error for image in found.images])
    assert [image.id for image in found.images] == ids
    assert np.corrcoef(errors, of_mean)[0, 1] > 0.5
    assert errors[N_NORMAL:].mean() > 1.5 * errors[:N_NORMAL].mean()


def test_another_seed_makes_other_rounds(
    digits: tuple[NDArray[np.float32], list[str]], found: Selection
) -> None:
    other = Selecting(clusters=8, seed=1, most_rounds=1)._select(*digits)
    assert len(other.rounds) == 2
    assert [i.error for i in other.images] != [i.error for i in found.images]


def test_components_are_those_of_scikit_learn(
    digits: tuple[NDArray[np.float32], list[str]],
) -> None:
    scaled = _scaled(digits[0].astype(np.float64))
    assert scaled.mean(axis=0) == pytest.approx(0, abs=1e-12)
    assert scaled.std() == pytest.approx(1)
    ours = Selecting(components=7)._principal(scaled)
    theirs = PCA(7, svd_solver="full").fit_transform(scaled)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-8)
    assert Selecting(components=10**6)._principal(scaled).shape == (len(scaled), 64)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"clusters": 7}, ParameterError, "clusters: expected at most the number of images, 6"),
        ({"clusters": 6}, ImageError, "everything is dropped, as no cluster of 6 images has 2"),
    ],
)
def test_too_many_clusters_are_refused(
    digits: tuple[NDArray[np.float32], list[str]],
    values: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        Selecting(**values)._select(digits[0][:6], digits[1][:6])


def test_images_that_are_all_alike_are_refused() -> None:
    with pytest.raises(ImageError, match="all have the same features"):
        Selecting()._select(np.full((20, 5), 0.3, np.float32), [f"{n}" for n in range(20)])


@pytest.mark.parametrize("name", ["first_drop", "drop"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_nothing_or_all_is_refused(name: str, share: float) -> None:
    with pytest.raises(ParameterError, match=name):
        Selecting().set_params(**{name: share}).check_params()


def test_one_cluster_is_refused() -> None:
    with pytest.raises(ParameterError, match="clusters: expected at least 2, got 1"):
        Selecting(clusters=1).check_params()
