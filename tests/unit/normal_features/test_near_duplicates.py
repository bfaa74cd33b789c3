"""Normal images that show the same thing twice are not held against each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from knnspect import Backbone, CFlow, FeaturePyramid, Gallery, PatchCore, Spade
from knnspect.data import elpv_split
from knnspect.normal_features.near_duplicates import NearDuplicates

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(image_size=96, device="cpu")


@pytest.fixture(scope="module")
def cells() -> dict[str, Any]:
    return {
        path.stem: np.asarray(Image.open(path).convert("RGB").resize((96, 96)))
        for path in elpv_split(n_train=6).train
    }


def next_frame(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same picture, every value off by at most 1: what a camera gives a moment later."""
    return np.clip(image.astype(int) + RNG.integers(-1, 2, image.shape), 0, 255).astype(np.uint8)


def learnt(backbone: Backbone, images: dict[str, Any]) -> NearDuplicates:
    features = backbone.extract(images)
    gallery = Gallery()
    gallery.add(features.pyramid, features.ids)
    return NearDuplicates(gallery, features.pooled[np.argsort(features.ids)])


class TestNearDuplicates:
    def test_different_parts_have_none(self, backbone: Backbone, cells: dict[str, Any]) -> None:
        found = learnt(backbone, cells)
        assert [found.of(index) for index in range(6)] == [[]] * 6

    def test_the_next_frames_are_found_and_nothing_else(
        self, backbone: Backbone, cells: dict[str, Any]
    ) -> None:
        first, second = list(cells)[:2]
        frames = {f"{first}-{i}": next_frame(cells[first]) for i in range(20)}
        found = learnt(backbone, cells | frames)
        ids = sorted(cells | frames)
        assert sorted(found.of(ids.index(first))) == sorted(frames)
        assert found.of(ids.index(second)) == []

    def test_of_many_images_features_of_few_are_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("knnspect.normal_features.near_duplicates._N_KEPT", 200)
        features = np.random.default_rng(1).random((2500, 2, 2, 4), np.float32)
        features[2400] = features[7] + 0.001
        gallery = Gallery()
        gallery.add(FeaturePyramid([features]))
        found = NearDuplicates(gallery, features.mean((1, 2)))
        duplicates = {index: found.of(index) for index in range(0, 2500, 50)}
        assert not any(duplicates[index] for index in duplicates if index != 2400)
        assert (found.of(7), duplicates[2400]) == (["002400"], ["000007"])
        assert len(found._seen) <= 200

    def test_where_all_images_are_alike_none_is_a_duplicate(
        self, backbone: Backbone, cells: dict[str, Any]
    ) -> None:
        image = next(iter(cells.values()))
        found = learnt(backbone, {str(i): next_frame(image) for i in range(6)})
        assert [found.of(index) for index in range(6)] == [[]] * 6

    def test_two_images_are_duplicates_only_if_they_are_the_same(
        self, backbone: Backbone, cells: dict[str, Any]
    ) -> None:
        image = next(iter(cells.values()))
        assert learnt(backbone, {"a": image, "b": next_frame(image)}).of(0) == []
        assert learnt(backbone, {"a": image, "b": image.copy()}).of(0) == ["b"]

    def test_one_image_has_none(self, backbone: Backbone, cells: dict[str, Any]) -> None:
        assert learnt(backbone, {"a": next(iter(cells.values()))}).of(0) == []


def spade(backbone: Backbone) -> Spade:
    return Spade(backbone)


def patchcore(backbone: Backbone) -> PatchCore:
    return PatchCore(backbone, coreset=None)


@pytest.mark.filterwarnings("ignore:image_neighbors")
@pytest.mark.parametrize("make", [spade, patchcore])
class TestNormalMapMax:
    def test_exact_copies_change_nothing(
        self, backbone: Backbone, cells: dict[str, Any], make: Any
    ) -> None:
        copies = {f"{id_} again": image.copy() for id_, image in cells.items()}
        once = make(backbone).fit(cells)
        with pytest.warns(UserWarning, match=r"^12 of the 12 .* such as (\w+) and \1 again: these"):
            twice = make(backbone).fit(cells | copies)
        assert once.normal_map_max_ > 0
        assert twice.normal_map_max_ == once.normal_map_max_

    def test_two_frames_of_each_part_hardly_change_it(
        self, backbone: Backbone, cells: dict[str, Any], make: Any
    ) -> None:
        frames = {f"{id_} again": next_frame(image) for id_, image in cells.items()}
        once = make(backbone).fit(cells)
        with pytest.warns(UserWarning, match="near-duplicates"):
            twice = make(backbone).fit(cells | frames)
        assert 0.8 * once.normal_map_max_ < twice.normal_map_max_ < 1.1 * once.normal_map_max_

    def test_it_is_unknown_where_all_images_are_copies(
        self, backbone: Backbone, cells: dict[str, Any], make: Any
    ) -> None:
        image = next(iter(cells.values()))
        with pytest.warns(UserWarning, match="^3 of the 3 .* near-duplicates"):
            detector = make(backbone).fit([image, image.copy(), image.copy()])
        assert np.isnan(detector.normal_map_max_)


def test_a_network_that_was_trained_on_a_copy_of_what_is_held_out_says_so(
    backbone: Backbone, cells: dict[str, Any]
) -> None:
    copies = {f"{id_} again": image.copy() for id_, image in cells.items()}
    with pytest.warns(UserWarning, match="near-duplicates .* normal_map_max_, and scores"):
        CFlow(backbone, max_epochs=1).fit(cells | copies)
