"""SPADE against its definition, worked out anew in float64."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from knnspect import Backbone, FeaturePyramid, Features, Gallery, Prediction, Spade, load
from knnspect.data import elpv_split

Array = NDArray[Any]

K = 4


def resized(paths: Any) -> dict[str, Any]:
    """At the size of the backbone's input, so that nothing is resized any more."""
    return {
        path.stem: np.asarray(Image.open(path).convert("RGB").resize((64, 64))) for path in paths
    }


def upsampled(pyramid: FeaturePyramid, mode: str = "bilinear") -> Array:
    """All levels at the resolution of the finest, (n_images, height, width, channels), float64."""
    height, width = pyramid.levels[0].shape[1:3]
    parts = []
    for level in pyramid.levels:
        tensor = torch.from_numpy(level.astype(np.float64)).permute(0, 3, 1, 2)
        aligned = {"align_corners": False} if mode == "bilinear" else {}
        tensor = torch.nn.functional.interpolate(tensor, (height, width), mode=mode, **aligned)
        parts.append(tensor.permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts, axis=-1)


def sq_distances(query: Array, normal: Array) -> Array:
    """Between all cells of one image and all cells of some, (height, width, n_cells)."""
    a, b = query.reshape(-1, query.shape[-1]), normal.reshape(-1, normal.shape[-1])
    found = np.stack([np.square(b - row).sum(1) for row in a])
    shaped: Array = found.reshape(*query.shape[:2], -1)
    return shaped


def map_of(cells: Array, sigma: float, size: tuple[int, int]) -> Array:
    tensor = torch.from_numpy(cells.astype(np.float64))[None, None]
    large = torch.nn.functional.interpolate(tensor, size, mode="bilinear", align_corners=False)
    blur = (sigma * size[0] / 224, sigma * size[1] / 224)
    median = np.median(cells)  # with which the image goes on beyond its border
    blurred: Array = gaussian_filter(large[0, 0].numpy(), blur, mode="constant", cval=median)
    return blurred


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(image_size=64, device="cpu")


@pytest.fixture(scope="module")
def normal() -> dict[str, Any]:
    return resized(elpv_split(n_train=7).train)


@pytest.fixture(scope="module")
def queries() -> dict[str, Any]:
    split = elpv_split(n_train=7, n_functional=2, n_defective=2)
    return resized([*split.functional, *split.defective])


@pytest.fixture(scope="module")
def features(backbone: Backbone, normal: dict[str, Any]) -> Features:
    return backbone.extract(normal)


@pytest.fixture(scope="module")
def query_features(backbone: Backbone, queries: dict[str, Any]) -> Features:
    return backbone.extract(queries)


@pytest.fixture(scope="module")
def fitted(backbone: Backbone, normal: dict[str, Any]) -> Spade:
    return Spade(backbone, image_neighbors=K, score="image").fit(normal)


@pytest.fixture(scope="module")
def predictions(fitted: Spade, queries: dict[str, Any]) -> list[Prediction]:
    return fitted.predict(queries)


def nearest(features: Features, pooled: Array) -> tuple[list[str], Array]:
    """Ids and squared distances of the K nearest images by pooled features."""
    found = np.square(features.pooled.astype(np.float64) - pooled.astype(np.float64)).sum(1)
    order = np.argsort(found)[:K]
    return [features.ids[i] for i in order], found[order]


def neighbor_distances(prediction: Prediction) -> Array:
    assert prediction.neighbors is not None
    found: Array = prediction.neighbors.sq_distances[0]
    return found


class TestImageStage:
    def test_the_score_is_the_mean_of_the_k_smallest_squared_distances(
        self, features: Features, query_features: Features, predictions: list[Prediction]
    ) -> None:
        for pooled, prediction in zip(query_features.pooled, predictions, strict=True):
            ids, distances = nearest(features, pooled)
            assert prediction.score == pytest.approx(distances.mean(), rel=1e-12)
            assert [id_ for id_, _ in prediction.images] == ids
            found = [sq_distance for _, sq_distance in prediction.images]
            np.testing.assert_allclose(found, distances, rtol=1e-12)

    @pytest.mark.parametrize(("searched", "scored"), [(K, 2), (2, 6)])
    def test_the_score_may_be_of_fewer_or_more_images_than_are_searched(
        self,
        backbone: Backbone,
        normal: dict[str, Any],
        queries: dict[str, Any],
        features: Features,
        query_features: Features,
        searched: int,
        scored: int,
        tmp_path: Path,
    ) -> None:
        spade = Spade(backbone, image_neighbors=searched, score="image").fit(normal)
        without = spade.predict(queries)
        spade.set_params(score_neighbors=scored)
        spade.save(tmp_path / "model.ks")
        for judge in (spade, load(tmp_path / "model.ks")):
            found = judge.predict(queries)
            for pooled, one, other in zip(query_features.pooled, found, without, strict=True):
                distances = np.square(features.pooled.astype(np.float64) - pooled).sum(1)
                assert one.score == pytest.approx(np.sort(distances)[:scored].mean(), rel=1e-12)
                assert one.score != other.score
                assert one.images == other.images
                assert len(one.images) == searched
                np.testing.assert_array_equal(one.map, other.map)

    def test_a_score_of_more_images_than_there_are_is_of_all_with_a_warning(
        self, backbone: Backbone, normal: dict[str, Any], queries: dict[str, Any]
    ) -> None:
        spade = Spade(backbone, image_neighbors=2, score="image", score_neighbors=8)
        with pytest.warns(UserWarning, match="score_neighbors=8 exceeds .* using all 7") as caught:
            spade.fit(normal)
        assert caught[0].filename == __file__
        expected = spade.predict(queries)
        found = spade.set_params(score_neighbors=7).predict(queries)
        assert [one.score for one in found] == [one.score for one in expected]

    def test_the_images_differ_between_queries(self, predictions: list[Prediction]) -> None:
        assert len({frozenset(dict(p.images)) for p in predictions}) > 1

    def test_a_training_image_is_its_own_nearest(
        self, fitted: Spade, normal: dict[str, Any]
    ) -> None:
        for id_, prediction in zip(normal, fitted.predict(normal), strict=True):
            assert prediction.images[0] == (id_, 0.0)

    @pytest.mark.filterwarnings("ignore:.*near-duplicates")
    def test_ties_go_to_the_lowest_id(self, backbone: Backbone, normal: dict[str, Any]) -> None:
        first, second, third = list(normal.values())[:3]
        same = {"d": first, "b": first, "c": first, "a": second, "e": first, "f": third}
        spade = Spade(backbone, image_neighbors=3).fit(same)
        assert spade.predict([first])[0].images == (("b", 0.0), ("c", 0.0), ("d", 0.0))


class TestPixelStage:
    def test_distances_are_those_to_the_cells_of_these_images_and_no_others(
        self, features: Features, query_features: Features, predictions: list[Prediction]
    ) -> None:
        normal, query = upsampled(features.pyramid), upsampled(query_features.pyramid)
        for index, prediction in enumerate(predictions):
            chosen = [features.ids.index(id_) for id_, _ in prediction.images]
            expected = sq_distances(query[index], normal[chosen]).min(-1)
            np.testing.assert_allclose(
                neighbor_distances(prediction)[..., 0], expected, rtol=1e-5, atol=1e-6
            )
            everywhere = sq_distances(query[index], normal).min(-1)
            assert (everywhere < 0.999 * expected).any(), "all images give the same"

    def test_neighbours_are_where_the_distances_come_from(
        self, features: Features, query_features: Features, predictions: list[Prediction]
    ) -> None:
        normal, query = upsampled(features.pyramid), upsampled(query_features.pyramid)
        for index, prediction in enumerate(predictions):
            neighbors = prediction.neighbors
            assert neighbors is not None
            ids = neighbors.images[0, ..., 0]
            assert set(ids.ravel()) <= {id_ for id_, _ in prediction.images}
            places = np.vectorize(features.ids.index)(ids)
            rows, columns = neighbors.cells[0, ..., 0, 0], neighbors.cells[0, ..., 0, 1]
            found = np.square(query[index] - normal[places, rows, columns]).sum(-1)
            np.testing.assert_allclose(
                neighbors.sq_distances[0, ..., 0], found, rtol=1e-5, atol=1e-6
            )

    def test_a_training_image_has_the_distance_0_everywhere(
        self, fitted: Spade, normal: dict[str, Any]
    ) -> None:
        for id_, prediction in zip(normal, fitted.predict(normal), strict=True):
            assert not neighbor_distances(prediction).any()
            assert not prediction.map.any()
            assert prediction.neighbors is not None
            assert (prediction.neighbors.images == id_).all()

    @pytest.mark.parametrize("upsample", ["bilinear", "block"])
    def test_upsampling_is_the_one_asked_for(
        self,
        backbone: Backbone,
        normal: dict[str, Any],
        queries: dict[str, Any],
        features: Features,
        query_features: Features,
        upsample: Any,
    ) -> None:
        spade = Spade(backbone, image_neighbors=7, upsample=upsample).fit(normal)
        mode = {"bilinear": "bilinear", "block": "nearest"}[upsample]
        gallery = upsampled(features.pyramid, mode)
        query = upsampled(query_features.pyramid, mode)
        for index, prediction in enumerate(spade.predict(queries)):
            expected = sq_distances(query[index], gallery).min(-1)
            np.testing.assert_allclose(
                neighbor_distances(prediction)[..., 0], expected, rtol=1e-5, atol=1e-6
            )

    def test_with_kappa_the_map_is_of_the_mean_of_the_smallest(
        self,
        backbone: Backbone,
        normal: dict[str, Any],
        queries: dict[str, Any],
        features: Features,
        query_features: Features,
    ) -> None:
        spade = Spade(backbone, image_neighbors=K, pixel_neighbors=3, sigma=0).fit(normal)
        gallery, query = upsampled(features.pyramid), upsampled(query_features.pyramid)
        for index, prediction in enumerate(spade.predict(queries)):
            chosen = [features.ids.index(id_) for id_, _ in prediction.images]
            smallest = np.sort(sq_distances(query[index], gallery[chosen]), axis=-1)[..., :3]
            np.testing.assert_allclose(
                neighbor_distances(prediction), smallest, rtol=1e-5, atol=1e-6
            )
            expected = map_of(spade.border_.divide(smallest.mean(-1)), 0, (64, 64))
            np.testing.assert_allclose(prediction.map, expected, rtol=1e-4)

    def test_features_are_averaged_before_matching_when_asked(
        self, normal: dict[str, Any], queries: dict[str, Any]
    ) -> None:
        backbone = Backbone(image_size=64, patch_size=3, device="cpu")
        spade = Spade(backbone, image_neighbors=7).fit(normal)
        gallery = upsampled(backbone.extract(normal).pyramid)
        query = upsampled(backbone.extract(queries).pyramid)
        for index, prediction in enumerate(spade.predict(queries)):
            expected = sq_distances(query[index], gallery).min(-1)
            np.testing.assert_allclose(
                neighbor_distances(prediction)[..., 0], expected, rtol=1e-5, atol=1e-6
            )


class TestMaps:
    @pytest.mark.parametrize("sigma", [0.0, 4.0, 14.0])
    def test_are_the_distances_upsampled_and_blurred_in_proportion_to_the_input(
        self, backbone: Backbone, normal: dict[str, Any], queries: dict[str, Any], sigma: float
    ) -> None:
        spade = Spade(backbone, image_neighbors=K, sigma=sigma).fit(normal)
        for prediction in spade.predict(queries):
            expected = map_of(
                spade.border_.divide(neighbor_distances(prediction)[..., 0]), sigma, (64, 64)
            )
            np.testing.assert_allclose(prediction.map, expected, rtol=1e-4, atol=1e-3)

    def test_of_a_rectangular_input_are_blurred_by_each_side(self, normal: dict[str, Any]) -> None:
        spade = Spade(Backbone(image_size=(64, 96), device="cpu"), image_neighbors=2, sigma=9)
        images = [np.repeat(image, 3, axis=1)[:, ::2] for image in normal.values()]
        prediction = spade.fit(images[1:]).predict(images[:1])[0]
        expected = map_of(spade.border_.divide(neighbor_distances(prediction)[..., 0]), 9, (64, 96))
        np.testing.assert_allclose(prediction.map, expected, rtol=1e-4, atol=1e-3)

    def test_give_the_score_when_asked(
        self,
        backbone: Backbone,
        normal: dict[str, Any],
        queries: dict[str, Any],
        predictions: list[Prediction],
    ) -> None:
        spade = Spade(backbone, image_neighbors=K, score="map").fit(normal)
        by_top = copy(spade).set_params(score="top", top=0.05).predict(queries)
        for prediction, top, other in zip(spade.predict(queries), by_top, predictions, strict=True):
            assert prediction.score == prediction.map.max()
            assert prediction.score != other.score
            assert np.array_equal(prediction.map, other.map)
            largest = np.sort(top.map, axis=None)[-round(0.05 * top.map.size) :]
            np.testing.assert_allclose(top.score, largest.mean(), rtol=1e-6)


class TestNormalMapMax:
    def test_compares_each_image_with_the_others_only(
        self, backbone: Backbone, normal: dict[str, Any], fitted: Spade
    ) -> None:
        held_out = []
        for id_, image in normal.items():
            others = {other: normal[other] for other in normal if other != id_}
            spade = Spade(backbone, image_neighbors=K).fit(others)
            spade.border_ = fitted.border_
            held_out.append(float(spade.predict([image])[0].map.max()))
        assert fitted.normal_map_max_ == pytest.approx(max(held_out), rel=1e-6)

    def test_takes_at_most_16_images_evenly_spaced(
        self, backbone: Backbone, normal: dict[str, Any]
    ) -> None:
        # 16 of 18 images: all but two are looked at, the first and the last among them.
        images = {f"{i:02d}": np.roll(normal["cell0913"], 3 * i, axis=1) for i in range(18)}
        images["00"] = np.full((64, 64, 3), 255, np.uint8)
        spade = Spade(backbone, image_neighbors=3).fit(images)
        white = Spade(backbone, image_neighbors=3)
        white.fit({id_: image for id_, image in images.items() if id_ != "00"})
        white.border_ = spade.border_
        strongest = float(white.predict([images["00"]])[0].map.max())
        assert spade.normal_map_max_ == pytest.approx(strongest, rel=1e-6)

    def test_is_unknown_for_one_image(self, backbone: Backbone, normal: dict[str, Any]) -> None:
        spade = Spade(backbone, image_neighbors=1).fit([next(iter(normal.values()))])
        assert np.isnan(spade.normal_map_max_)


class TestAttributes:
    def test_pooled_features_are_in_the_order_of_the_ids(
        self, backbone: Backbone, normal: dict[str, Any], features: Features
    ) -> None:
        spade = Spade(backbone, image_neighbors=K).fit(dict(reversed(normal.items())))
        assert spade.gallery_.ids == features.ids == sorted(normal)
        assert np.array_equal(spade.pooled_, features.pooled)
        for found, level in zip(
            spade.gallery_.pyramid().levels, features.pyramid.levels, strict=True
        ):
            assert np.array_equal(found, level)

    def test_what_is_learnt_takes_less_than_a_quarter_of_concatenated_features(
        self, fitted: Spade, features: Features
    ) -> None:
        concatenated = upsampled(features.pyramid).astype(np.float32)
        assert fitted.nbytes_ == fitted.gallery_.nbytes + fitted.pooled_.nbytes
        assert fitted.gallery_.nbytes == sum(level.nbytes for level in features.pyramid.levels)
        assert fitted.nbytes_ < concatenated.nbytes / 4

    @pytest.mark.parametrize("dtype", ["float16", "int8"])
    def test_the_gallery_keeps_features_as_asked_for(
        self,
        backbone: Backbone,
        normal: dict[str, Any],
        queries: dict[str, Any],
        features: Features,
        query_features: Features,
        predictions: list[Prediction],
        tmp_path: Path,
        dtype: Any,
    ) -> None:
        spade = Spade(backbone, image_neighbors=K, gallery_dtype=dtype).fit(normal)
        gallery = Gallery(dtype=dtype)
        gallery.add(features.pyramid, features.ids)
        assert spade.gallery_.dtype == dtype
        assert spade.gallery_.nbytes == gallery.nbytes < 0.6 * features.pyramid.nbytes
        spade.save(tmp_path / "model.ks")
        loaded = load(tmp_path / "model.ks", device="cpu")
        assert isinstance(loaded, Spade)
        assert loaded.gallery_dtype == loaded.gallery_.dtype == dtype
        found = spade.predict(queries)
        for one, other in zip(found, loaded.predict(queries), strict=True):
            assert one.score == other.score
            assert np.array_equal(one.map, other.map)
        # Distances are those to the features as they are kept; the images stay the same.
        query, kept = upsampled(query_features.pyramid), upsampled(gallery.pyramid())
        for index, (prediction, exact) in enumerate(zip(found, predictions, strict=True)):
            assert prediction.images == exact.images
            chosen = [features.ids.index(id_) for id_, _ in prediction.images]
            expected = sq_distances(query[index], kept[chosen]).min(-1)
            np.testing.assert_allclose(
                neighbor_distances(prediction)[..., 0], expected, rtol=1e-5, atol=1e-6
            )
            assert not np.array_equal(prediction.map, exact.map)
            np.testing.assert_allclose(prediction.map, exact.map, rtol=0.05)

    def test_seconds_are_told_for_every_stage(
        self, backbone: Backbone, normal: dict[str, Any]
    ) -> None:
        spade = Spade(backbone, image_neighbors=K).fit(normal)
        assert set(spade.seconds_) == {"decode", "features", "gallery"}
        spade.predict(normal)
        assert set(spade.seconds_) == {"decode", "features", "retrieval", "matching", "maps"}
        assert all(seconds > 0 for seconds in spade.seconds_.values())

    def test_parameters_are_stored_as_given(self, backbone: Backbone) -> None:
        assert Spade(backbone, image_neighbors=-1).image_neighbors == -1
        text = repr(Spade(backbone, pixel_neighbors=3, sigma=2.0))
        assert text == f"Spade({backbone!r}, pixel_neighbors=3, sigma=2.0)"
