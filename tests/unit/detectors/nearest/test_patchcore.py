"""PatchCore against its definition, worked out anew in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from knnspect import Backbone, FeaturePyramid, Features, ParameterError, PatchCore, load
from knnspect.data import elpv_split

Array = NDArray[Any]


def resized(paths: Any) -> dict[str, Any]:
    """At the size of the backbone's input, so that nothing is resized any more."""
    return {
        path.stem: np.asarray(Image.open(path).convert("RGB").resize((64, 64))) for path in paths
    }


def rows_of(pyramid: FeaturePyramid) -> Array:
    """Upsampled, concatenated features, (n_images, cells, channels), float64."""
    height, width = pyramid.levels[0].shape[1:3]
    parts = []
    for level in pyramid.levels:
        tensor = torch.from_numpy(level.astype(np.float64)).permute(0, 3, 1, 2)
        tensor = torch.nn.functional.interpolate(
            tensor, (height, width), mode="bilinear", align_corners=False
        )
        parts.append(tensor.permute(0, 2, 3, 1).reshape(len(level), height * width, -1).numpy())
    return np.concatenate(parts, axis=-1)


def distances(queries: Array, others: Array) -> Array:
    found: Array = np.sqrt(np.stack([np.square(others - row).sum(1) for row in queries]))
    return found


def map_of(cells: Array, sigma: float) -> Array:
    tensor = torch.from_numpy(cells)[None, None]
    large = torch.nn.functional.interpolate(tensor, (64, 64), mode="bilinear")
    median = np.median(cells)  # with which the image goes on beyond its border
    blur = sigma * 64 / 224
    return np.asarray(gaussian_filter(large[0, 0].numpy(), blur, mode="constant", cval=median))


def score_of(found: Array, nearest: Array, bank: Array, b: int) -> float:
    """Equation 7, for the distances of all cells of an image to all rows of a bank."""
    farthest = int(nearest.argmax())
    star = int(found[farthest].argmin())
    support = np.argsort(distances(bank[star : star + 1], bank)[0], kind="stable")[:b]
    exponents = np.exp(found[farthest][support])
    weight = 1 - np.exp(found[farthest, star]) / exponents.sum() if b > 1 else 1.0
    return float(weight * nearest[farthest])


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(image_size=64, patch_size=3, device="cpu")


@pytest.fixture(scope="module")
def normal() -> dict[str, Any]:
    return resized(elpv_split(n_train=6).train)


@pytest.fixture(scope="module")
def queries() -> dict[str, Any]:
    split = elpv_split(n_train=6, n_functional=2, n_defective=3)
    return resized([*split.functional, *split.defective])


@pytest.fixture(scope="module")
def features(backbone: Backbone, normal: dict[str, Any]) -> Features:
    return backbone.extract(normal)


@pytest.fixture(scope="module")
def query_rows(backbone: Backbone, queries: dict[str, Any]) -> Array:
    return rows_of(backbone.extract(queries).pyramid)


@pytest.mark.parametrize("neighbors", [1, 2, 9, 10_000])
@pytest.mark.parametrize("coreset", [0.05, 40, 1, None])
def test_scores_and_maps_are_those_of_the_paper(
    backbone: Backbone,
    normal: dict[str, Any],
    queries: dict[str, Any],
    features: Features,
    query_rows: Array,
    coreset: float | int | None,
    neighbors: int,
) -> None:
    patchcore = PatchCore(backbone, coreset=coreset, neighbors=neighbors, score="image").fit(normal)
    if coreset is None:
        by_id = np.argsort(features.ids)
        bank = rows_of(features.pyramid)[by_id].reshape(-1, 176)
        assert patchcore.coreset_ is None
        assert patchcore.gallery_ is not None
    else:
        assert patchcore.coreset_ is not None
        assert patchcore.gallery_ is None
        bank = patchcore.coreset_.rows.astype("f8")
        assert len(bank) == (round(0.05 * 6 * 256) if coreset == 0.05 else coreset)
    predictions = patchcore.predict(queries)
    for prediction, rows in zip(predictions, query_rows, strict=True):
        found = distances(rows, bank)
        nearest = found.min(axis=1).reshape(16, 16)
        divided = patchcore.border_.divide(nearest)
        np.testing.assert_allclose(prediction.map, map_of(divided, 4.0), rtol=1e-4, atol=1e-5)
        expected = score_of(found, divided.ravel(), bank, min(neighbors, len(bank)))
        assert prediction.score == pytest.approx(expected, rel=1e-5)
        assert prediction.images == ()
        assert prediction.neighbors is not None
        sq_distances = prediction.neighbors.sq_distances[0, ..., 0]
        np.testing.assert_allclose(sq_distances, nearest**2, rtol=1e-5)


def test_weights_tell_images_apart(backbone: Backbone, normal: Any, queries: Any) -> None:
    patchcore = PatchCore(backbone, coreset=0.2, score="image").fit(normal)
    weighed = patchcore.predict(queries)
    plain = patchcore.set_params(neighbors=1).predict(queries)
    ratios = [w.score / p.score for w, p in zip(weighed, plain, strict=True)]
    assert all(0 < ratio < 1 for ratio in ratios)
    assert len(set(ratios)) == len(ratios)


def test_the_largest_of_the_map_may_be_the_score(
    backbone: Backbone, normal: Any, queries: Any
) -> None:
    patchcore = PatchCore(backbone, score="map").fit(normal)
    for prediction in patchcore.predict(queries):
        assert prediction.score == prediction.map.max()
    for prediction in patchcore.set_params(score="top", top=1e-9).predict(queries):
        assert prediction.score == prediction.map.max()
    for prediction in patchcore.set_params(top=1.0).predict(queries):
        np.testing.assert_allclose(prediction.score, prediction.map.mean(), rtol=1e-6)


def test_neighbours_are_cells_of_normal_images(
    backbone: Backbone, normal: Any, queries: Any, features: Features, query_rows: Array
) -> None:
    patchcore = PatchCore(backbone, coreset=0.1).fit(normal)
    rows = dict(zip(features.ids, rows_of(features.pyramid), strict=True))
    for prediction, query in zip(patchcore.predict(queries), query_rows, strict=True):
        neighbors = prediction.neighbors
        assert neighbors is not None
        images, cells = neighbors.images.ravel(), neighbors.cells.reshape(-1, 2)
        normal_rows = [
            rows[image][row * 16 + column]
            for image, (row, column) in zip(images, cells, strict=True)
        ]
        sq_distances = np.square(query - np.stack(normal_rows)).sum(axis=1)
        np.testing.assert_allclose(neighbors.sq_distances.ravel(), sq_distances, rtol=1e-4)


@pytest.mark.parametrize("coreset", [0.1, None])
def test_the_yardstick_of_maps_is_what_others_say_of_normal_images(
    backbone: Backbone, normal: Any, features: Features, coreset: float | None
) -> None:
    patchcore = PatchCore(backbone, coreset=coreset).fit(normal)
    rows = dict(zip(features.ids, rows_of(features.pyramid), strict=True))
    largest = []
    for id_ in normal:
        if patchcore.coreset_ is None:
            others = np.concatenate([rows[other] for other in normal if other != id_])
        else:
            ids = np.array(patchcore.coreset_.image_ids)[patchcore.coreset_.image_index]
            others = patchcore.coreset_.rows[ids != id_].astype("f8")
        nearest = distances(rows[id_], others).min(axis=1).reshape(16, 16)
        largest.append(map_of(patchcore.border_.divide(nearest), 4.0).max())
    assert patchcore.normal_map_max_ == pytest.approx(max(largest), rel=1e-4)


def test_the_seed_decides_what_is_picked(backbone: Backbone, normal: Any, tmp_path: Path) -> None:
    def picked(seed: int) -> Any:
        coreset = PatchCore(backbone, coreset=20, seed=seed).fit(normal).coreset_
        assert coreset is not None
        return coreset.rows[coreset.order[0]]

    assert np.array_equal(picked(1), picked(1))
    assert not np.array_equal(picked(1), picked(2))


@pytest.mark.parametrize("coreset", [0.05, None])
def test_all_parameters_are_kept_in_a_file(
    backbone: Backbone, normal: Any, tmp_path: Path, coreset: float | None
) -> None:
    parameters: dict[str, Any] = {
        "coreset": coreset,
        "projection": 30,
        "neighbors": 4,
        "score": "map",
        "upsample": "block",
        "gallery_dtype": "float16",
        "sigma": 2.5,
        "seed": 3,
    }
    patchcore = PatchCore(backbone, **parameters).fit(normal)
    patchcore.save(tmp_path / "model.ks")
    loaded = load(tmp_path / "model.ks")
    assert isinstance(loaded, PatchCore)
    assert {name: getattr(loaded, name) for name in parameters} == parameters
    assert (loaded.n_images_, loaded.nbytes_) == (6, patchcore.nbytes_)
    assert loaded.normal_map_max_ == patchcore.normal_map_max_


def test_a_coreset_keeps_only_its_rows(backbone: Backbone, normal: Any, tmp_path: Path) -> None:
    some, all_ = (PatchCore(backbone, coreset=size).fit(normal) for size in (0.01, None))
    assert some.nbytes_ * 10 < all_.nbytes_
    some.save(tmp_path / "some.ks")
    all_.save(tmp_path / "all.ks")
    saved = [(tmp_path / name).stat().st_size for name in ("all.ks", "some.ks")]
    assert saved[0] - saved[1] > 0.8 * (all_.nbytes_ - some.nbytes_)


def test_more_rows_than_there_are_cells_are_refused(backbone: Backbone, normal: Any) -> None:
    message = "coreset: expected at most the 1536 cells of all images, got 1537"
    with pytest.raises(ParameterError, match=message):
        PatchCore(backbone, coreset=1537).fit(normal)
    assert PatchCore(backbone, coreset=1536).fit(normal).nbytes_ > 0
