"""Position windows of SPADE and PatchCore, against searches of the same features one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forging import parts_of, signed
from numpy.typing import NDArray

import knnspect as ks
from knnspect import Backbone, ParameterError, PatchCore, Spade
from knnspect.detectors.nearest import NearestDetector
from knnspect.testing.oracle import Oracle

Array = NDArray[Any]


def pictures(n: int, seed: int) -> Array:
    """Left half dark, right half bright, with noise: what is normal depends on the place."""
    rng = np.random.default_rng(seed)
    images = rng.integers(40, 60, (n, 64, 64, 3))
    images[:, :, 32:] += 150
    return images.astype("u1")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(levels=(1, 2), image_size=64, device="cpu")


@pytest.fixture(scope="module")
def normal() -> Array:
    return pictures(5, 0)


@pytest.fixture(scope="module")
def misplaced() -> Array:
    """A bright square in the dark half: normal somewhere, but not there."""
    query = pictures(1, 1)
    query[0, 20:44, 4:28] = query[0, 20:44, 36:60]
    return query


def sq_distances_within(
    backbone: Backbone, query: Array, normal: Array, window: Any
) -> NDArray[np.float64]:
    """The oracle's distances of a query image to the nearest normal cell."""
    features = [backbone.extract(images).pyramid for images in (query, normal)]
    ids = [f"{i:06}" for i in range(len(normal))]
    levels = [one.levels for one in features]
    oracle = Oracle.of(levels[0], levels[1], ids, "bilinear", window=window)
    nearest: NDArray[np.float64] = oracle.sq_distances.min(axis=-1)
    return nearest.reshape(-1, 16, 16)


@pytest.mark.parametrize("window", [None, 0, 2, (None, 1)])
@pytest.mark.parametrize(
    "kind", [lambda **given: PatchCore(coreset=None, **given), Spade], ids=["patchcore", "spade"]
)
@pytest.mark.filterwarnings("ignore:image_neighbors=50")
def test_cells_are_compared_within_the_window(
    kind: Any, backbone: Backbone, normal: Array, misplaced: Array, window: Any
) -> None:
    detector = kind(backbone=backbone, window=window).fit(normal)
    (prediction,) = detector.predict(misplaced)
    expected = sq_distances_within(backbone, misplaced, normal, window)
    found = prediction.neighbors.sq_distances[..., 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_is_normal_elsewhere_is_found_with_a_window_only(
    backbone: Backbone, normal: Array, misplaced: Array
) -> None:
    inside = {}
    for window in (None, 1):
        detector = PatchCore(backbone, coreset=None, window=window).fit(normal)
        (prediction,) = detector.predict(misplaced)
        assert prediction.neighbors is not None
        # Well inside of the square, away from its own border.
        inside[window] = prediction.neighbors.sq_distances[0, 7:9, 3:5].mean()
    assert inside[1] > 1.5 * inside[None]


@pytest.mark.filterwarnings("ignore:image_neighbors=50")
def test_normal_images_are_compared_within_the_window_too(
    backbone: Backbone, normal: Array
) -> None:
    free, near = (
        PatchCore(backbone, coreset=None, window=window).fit(normal) for window in (None, 0)
    )
    assert near.normal_map_max_ > free.normal_map_max_


def test_a_coreset_and_a_window_are_refused_before_images_are_read(backbone: Backbone) -> None:
    with pytest.raises(ParameterError, match="window: a coreset may have no row near") as raised:
        PatchCore(backbone, window=1).fit("no such folder")
    assert raised.value.parameter == "window"
    with pytest.raises(ParameterError, match="one for each of 2 levels, got 3"):
        Spade(backbone, window=(1, 1, 1)).fit("no such folder")


def test_no_more_neighbours_are_averaged_than_lie_within(backbone: Backbone, normal: Array) -> None:
    spade = Spade(backbone, image_neighbors=2, pixel_neighbors=3, window=0)
    with pytest.raises(ParameterError, match="at most the 2 cells within the window of 2 images"):
        spade.fit(normal)


@pytest.mark.parametrize("kind", [PatchCore, Spade])
def test_a_model_keeps_its_window_and_one_from_before_has_none(
    kind: type[NearestDetector], backbone: Backbone, normal: Array, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"coreset": None} if kind is PatchCore else {"image_neighbors": 3}
    path = tmp_path / "model.ks"
    for window in (None, 2, (None, 1)):
        kind(backbone, window=window, **given).fit(normal).save(path)
        loaded = ks.load(path)
        assert loaded.get_params()["window"] == window
        assert isinstance(loaded, kind)
    header, tensors = parts_of(path)
    config = json.loads(header["__metadata__"]["config"])
    assert config.pop("window") == [None, 1]
    header["__metadata__"]["config"] = json.dumps(config)
    path.write_bytes(signed(header, tensors))
    assert ks.load(path).get_params()["window"] is None
