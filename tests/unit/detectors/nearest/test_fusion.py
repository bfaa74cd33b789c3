"""Late fusion in SPADE and PatchCore, against each level compared on its own in float64."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forging import parts_of, signed
from numpy.typing import NDArray

import knnspect as ks
from knnspect import Backbone, ParameterError, PatchCore, Spade
from knnspect.detectors.border import BorderFactors
from knnspect.detectors.maps import pixel_map
from knnspect.testing.oracle import Oracle, upsample

Array = NDArray[Any]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(levels=(1, 2, 3), image_size=64, device="cpu")


@pytest.fixture(scope="module")
def normal() -> Array:
    rng = np.random.default_rng(0)
    images = rng.integers(40, 90, (5, 64, 64, 3))
    images[:, :, 32:] += 120
    return images.astype("u1")


@pytest.fixture(scope="module")
def query() -> Array:
    rng = np.random.default_rng(1)
    image = rng.integers(40, 90, (1, 64, 64, 3)).astype("u1")
    image[0, 20:36, 30:50] = 250
    return image


def patchcore(backbone: Backbone, **given: Any) -> PatchCore:
    return PatchCore(backbone, coreset=None, fusion="levels", **given)


def spade(backbone: Backbone, **given: Any) -> Spade:
    return Spade(backbone, fusion="levels", **{"image_neighbors": 3, **given})


either = pytest.mark.parametrize("make", [patchcore, spade])


def fused(
    backbone: Backbone, query: Array, normal: Array, radii: Any = (None, None, None), kappa: int = 1
) -> NDArray[np.float64]:
    """The mean over levels of the squared distances to the nearest cells, at the finest level."""
    features = [backbone.extract(images).pyramid for images in (query, normal)]
    ids = [f"{i:06}" for i in range(len(normal))]
    parts = []
    for own, others, radius in zip(features[0].levels, features[1].levels, radii, strict=True):
        found = np.sort(Oracle.of([own], [others], ids, "bilinear", window=radius).sq_distances)
        cells = found[..., :kappa].mean(axis=-1).reshape(*own.shape[:3], 1)
        parts.append(upsample(cells, 16, 16, "bilinear"))
    mean: NDArray[np.float64] = np.mean(parts, axis=0)[..., 0]
    return mean


def sq_distances_of(prediction: ks.Prediction) -> Array:
    assert prediction.neighbors is not None
    mean: Array = prediction.neighbors.sq_distances[0].mean(axis=-1)
    return mean


@pytest.mark.parametrize(
    ("window", "radii"),
    [(None, (None,) * 3), (2, (2, 1, 1)), ((None, 1, 0), (None, 1, 0))],
)
def test_cells_are_judged_by_the_mean_of_all_levels(
    backbone: Backbone, normal: Array, query: Array, window: Any, radii: Any
) -> None:
    (prediction,) = patchcore(backbone, window=window, sigma=0).fit(normal).predict(query)
    expected = fused(backbone, query, normal, radii)[0]
    np.testing.assert_allclose(sq_distances_of(prediction), expected, rtol=1e-5, atol=1e-6)


def test_spade_compares_with_its_nearest_images_and_averages_kappa(
    backbone: Backbone, normal: Array, query: Array
) -> None:
    (prediction,) = spade(backbone, pixel_neighbors=3).fit(normal).predict(query)
    chosen = sorted(int(id_) for id_, _ in prediction.images)
    assert len(chosen) == 3
    expected = fused(backbone, query, normal[chosen], kappa=3)[0]
    np.testing.assert_allclose(sq_distances_of(prediction), expected, rtol=1e-5, atol=1e-6)


@either
def test_levels_together_and_on_their_own_are_not_the_same(
    make: Any, backbone: Backbone, normal: Array, query: Array
) -> None:
    late = make(backbone).fit(normal)
    together = make(backbone).set_params(fusion="concatenated").fit(normal)
    one, other = (sq_distances_of(d.predict(query)[0]) for d in (late, together))
    assert (np.abs(3 * one - other) > 0.1 * other).any()


def test_normal_images_are_compared_in_the_same_way(backbone: Backbone, normal: Array) -> None:
    """Each with the others: border factors and the largest value of their maps."""
    detector = patchcore(backbone, sigma=0).fit(normal)
    cells = []
    for index in range(len(normal)):
        others = np.delete(normal, index, axis=0)
        cells.append(np.sqrt(fused(backbone, normal[index : index + 1], others)[0]))
    features = backbone.extract(normal)
    expected = BorderFactors.of(cells, features.pyramid.shapes)
    assert expected.factors.max() > 1
    np.testing.assert_allclose(detector.border_.factors, expected.factors, rtol=1e-5)
    maps = [pixel_map(expected.divide(one), features.placements[0], 0.0) for one in cells]
    assert detector.normal_map_max_ == pytest.approx(np.max(maps), rel=1e-5)


@either
def test_a_model_keeps_how_levels_are_fused_and_one_from_before_concatenates(
    make: Any, backbone: Backbone, normal: Array, query: Array, tmp_path: Path
) -> None:
    detector = make(backbone).fit(normal)
    (expected,) = detector.predict(query)
    path = tmp_path / "model.ks"
    detector.save(path)
    for again in (ks.load(path), pickle.loads(pickle.dumps(detector)), copy.deepcopy(detector)):
        assert again.get_params()["fusion"] == "levels"
        (found,) = again.predict(query)
        np.testing.assert_array_equal(found.map, expected.map)
        np.testing.assert_array_equal(sq_distances_of(found), sq_distances_of(expected))
    header, tensors = parts_of(path)
    config = json.loads(header["__metadata__"]["config"])
    assert config.pop("fusion") == "levels"
    header["__metadata__"]["config"] = json.dumps(config)
    path.write_bytes(signed(header, tensors))
    assert ks.load(path).get_params()["fusion"] == "concatenated"


def test_features_in_a_folder_are_searched_there(
    backbone: Backbone, normal: Array, query: Array, tmp_path: Path
) -> None:
    expected = spade(backbone).fit(normal).predict(query)[0].map
    detector = spade(backbone).fit(normal, folder=tmp_path / "normal")
    detector.save(tmp_path / "normal")
    for one in (detector, ks.load(tmp_path / "normal"), pickle.loads(pickle.dumps(detector))):
        np.testing.assert_array_equal(one.predict(query)[0].map, expected)


@either
def test_evidence_lies_in_the_image_of_the_level_that_adds_most(
    make: Any, backbone: Backbone, normal: Array, query: Array
) -> None:
    (prediction,) = make(backbone, variants=ks.Variants(2)).fit(normal).predict(query)
    evidence = prediction.evidence(28, 40)
    assert evidence is not None
    assert evidence.image in {f"{i:06}" for i in range(5)}
    assert evidence.sq_distance == pytest.approx(float(sq_distances_of(prediction)[7, 10]))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            {"coreset": 0.1},
            "fusion: .* a coreset, a mask or outliers, which keep rows of all levels",
        ),
        ({"coreset": None, "score": "image"}, 'fusion: .* score="image", which weighs by'),
    ],
)
def test_what_patchcore_cannot_fuse_is_refused_before_images_are_read_and_later(
    backbone: Backbone, normal: Array, query: Array, given: Any, problem: str
) -> None:
    with pytest.raises(ParameterError, match=problem) as raised:
        PatchCore(backbone, fusion="levels", **given).fit("no such folder")
    assert raised.value.parameter == "fusion"
    detector = PatchCore(backbone, **given).fit(normal)
    with pytest.raises(ParameterError, match=problem):
        detector.set_params(fusion="levels").predict(query)


def test_no_more_neighbours_are_averaged_than_the_coarsest_level_has(
    backbone: Backbone, normal: Array
) -> None:
    with pytest.raises(ParameterError, match="pixel_neighbors: expected at most the 32 cells of 2"):
        spade(backbone, image_neighbors=2, pixel_neighbors=33).fit(normal)
