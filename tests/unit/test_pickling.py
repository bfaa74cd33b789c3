"""Galleries, detectors and what they return can be pickled and deep-copied.

What comes back finds what the original finds, to the bit.
"""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import knnspect as ks
from knnspect.backends import get_backend
from knnspect.backends.faiss import FaissBackend
from knnspect.backends.rust import RustBackend
from knnspect.backends.sklearn import SklearnBackend
from knnspect.backends.torch import TorchBackend
from knnspect.detectors.base import Detector
from knnspect.errors import DTypeError, StoreError

RNG = np.random.default_rng(0)
LEVELS = [RNG.standard_normal((3, 8, 8, 5), np.float32), RNG.random((3, 4, 4, 7), np.float32)]
QUERY = ks.FeaturePyramid([level[:1] + np.float32(0.1) for level in LEVELS])
IMAGES = RNG.integers(100, 120, (4, 64, 64, 3)).astype("u1")
ODD = IMAGES[:2].copy()
ODD[0, 20:30, 30:40] = 255


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


COPIES = pytest.mark.parametrize("duplicate", [pickled, copy.deepcopy], ids=["pickle", "deepcopy"])


def filled(gallery: ks.Gallery) -> ks.Gallery:
    gallery.add(ks.FeaturePyramid(LEVELS), ids=["a", "b", "c"])
    return gallery


def assert_same_neighbors(one: ks.Neighbors | None, other: ks.Neighbors | None) -> None:
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        np.testing.assert_array_equal(one.sq_distances, other.sq_distances)
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.cells, other.cells)


def assert_same_prediction(one: ks.Prediction, other: ks.Prediction) -> None:
    assert (one.id, one.score, one.images) == (other.id, other.score, other.images)
    np.testing.assert_array_equal(one.map, other.map)
    assert_same_neighbors(one.neighbors, other.neighbors)


class TestGallery:
    @COPIES
    @pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
    @pytest.mark.parametrize("upsample", ["bilinear", "block"])
    def test_in_memory_takes_its_features_along(
        self, duplicate: Callable[[Any], Any], dtype: str, upsample: str
    ) -> None:
        gallery = filled(ks.Gallery(upsample, dtype))
        other = duplicate(gallery)
        assert repr(other) == repr(gallery)
        assert (other.ids, other.mode, other.nbytes) == (gallery.ids, "r+", gallery.nbytes)
        assert_same_neighbors(other.search(QUERY, k=2), gallery.search(QUERY, k=2))
        other.remove(["b"])
        assert len(gallery) == 3
        empty = duplicate(ks.Gallery(upsample, dtype))
        assert (len(empty), empty.upsample, empty.dtype) == (0, upsample, dtype)

    def test_of_a_file_needs_the_file_no_more(self, tmp_path: Path) -> None:
        filled(ks.Gallery()).save(tmp_path / "gallery")
        gallery = ks.Gallery.open(tmp_path / "gallery")
        data = pickle.dumps(gallery)
        (tmp_path / "gallery").unlink()
        assert_same_neighbors(pickle.loads(data).search(QUERY), gallery.search(QUERY))

    def test_of_int8_is_refused_where_it_would_be_rounded_anew(self) -> None:
        gallery = ks.Gallery(dtype="int8")
        rng = np.random.default_rng(0)
        close = rng.random((1, 8, 8, 40), np.float32) * np.float32(0.003) + np.float32(1)
        gallery.add(ks.FeaturePyramid([close]), ids=["close"])
        with pytest.raises(DTypeError, match=r"image close: .* rounded anew .* save the gallery"):
            pickle.dumps(gallery)

    def test_in_a_folder_is_opened_where_it_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with filled(ks.Gallery.create("gallery")) as writing:
            while_writing = pickle.dumps(writing)
        data = pickle.dumps(ks.Gallery.open("gallery"))
        assert len(data) < 5000, "it has no features"
        monkeypatch.chdir("/")
        for gallery in (pickle.loads(data), pickle.loads(while_writing), pickled(writing)):
            assert (gallery.path, gallery.mode) == (tmp_path / "gallery", "r")
            assert_same_neighbors(gallery.search(QUERY), writing.search(QUERY))

    def test_in_a_folder_is_refused_after_changes(self, tmp_path: Path) -> None:
        path = tmp_path / "gallery"
        filled(ks.Gallery.create(path)).close()
        before = ks.Gallery.open(path)
        data = pickle.dumps(before)
        with ks.Gallery.open(path, "r+") as gallery:
            gallery.replace(QUERY, ids=["b"])
            after = pickle.dumps(gallery)
        for changed in (data, pickle.dumps(before)):
            with pytest.raises(StoreError, match="gallery: the gallery was changed after it was"):
                pickle.loads(changed)
        assert pickle.loads(after).search(QUERY).sq_distances.max() == 0
        path.rename(tmp_path / "other")
        with pytest.raises(StoreError, match=r"gallery: cannot be opened.*is pickled by its path"):
            pickle.loads(after)


@COPIES
def test_a_coreset_is_whole(duplicate: Callable[[Any], Any]) -> None:
    coreset = filled(ks.Gallery("block")).coreset(20)
    other = duplicate(coreset)
    assert repr(other) == repr(coreset)
    assert (other.image_ids, other.shapes) == (coreset.image_ids, coreset.shapes)
    assert other.sq_radius == coreset.sq_radius
    assert not other.rows.flags.writeable
    np.testing.assert_array_equal(other.rows[other.order], coreset.rows[coreset.order])
    assert_same_neighbors(other.search(QUERY, k=3), coreset.search(QUERY, k=3))
    other.remove(["a"])
    assert "a" in coreset.image_ids
    coreset.remove(["a", "b", "c"])
    assert len(duplicate(coreset)) == 0


@COPIES
@pytest.mark.parametrize(
    "backend",
    [
        RustBackend(matcher="exhaustive"),
        TorchBackend("cpu", dtype="float32", max_memory="1GB"),
        SklearnBackend(),
        FaissBackend("cpu", index="IVF4,Flat", nprobe=4),
    ],
    ids=lambda backend: backend.name,
)
def test_a_backend_keeps_its_settings(duplicate: Callable[[Any], Any], backend: Any) -> None:
    gallery = filled(ks.Gallery())
    expected = gallery.search(QUERY, k=2, backend=backend)
    other = duplicate(backend)
    plain = {n: v for n, v in vars(backend).items() if isinstance(v, str | int) and n[0] != "_"}
    assert plain.items() <= vars(other).items()
    assert_same_neighbors(gallery.search(QUERY, k=2, backend=other), expected)
    assert get_backend(other) is other


def make_spade() -> ks.Spade:
    return ks.Spade(ks.Backbone(image_size=64), image_neighbors=2, threads=1)


def make_patchcore(coreset: float | None = 0.1) -> ks.PatchCore:
    backend = SklearnBackend()
    return ks.PatchCore(ks.Backbone(image_size=64), coreset=coreset, backend=backend)


def make_all() -> ks.PatchCore:
    return make_patchcore(None)


def make_cflow() -> ks.CFlow:
    backbone = ks.Backbone(image_size=64, patch_size=3, device="cpu")
    return ks.CFlow(backbone, max_epochs=1, coupling_blocks=2)


def make_simplenet() -> ks.SimpleNet:
    backbone = ks.Backbone(image_size=64, patch_size=3, device="cpu")
    return ks.SimpleNet(backbone, max_epochs=1, hidden=16)


@pytest.fixture(
    scope="module", params=[make_spade, make_patchcore, make_all, make_cflow, make_simplenet]
)
def used(request: pytest.FixtureRequest) -> tuple[Detector, list[ks.Prediction]]:
    make: Callable[[], Detector] = request.param
    for duplicate in (pickled, copy.deepcopy, copy.copy):
        unfitted = duplicate(make())
        assert repr(unfitted) == repr(make())
        with pytest.raises(ks.NotFittedError):
            unfitted.predict(ODD)
    detector = make().fit(IMAGES)
    return detector, detector.predict(ODD)


class TestDetector:
    @pytest.mark.parametrize("duplicate", [pickled, copy.deepcopy, copy.copy])
    def test_predicts_the_same(
        self, used: tuple[Detector, list[ks.Prediction]], duplicate: Callable[[Any], Any]
    ) -> None:
        detector, expected = used
        other = duplicate(detector)
        assert repr(other) == repr(detector)
        assert (other.n_images_, other.nbytes_) == (detector.n_images_, detector.nbytes_)
        assert other.normal_map_max_ == detector.normal_map_max_
        again = duplicate(other)
        for found in (other.predict(ODD), again.predict(ODD)):
            for one, two in zip(found, expected, strict=True):
                assert_same_prediction(one, two)

    def test_a_deep_copy_is_independent(self, used: tuple[Detector, list[ks.Prediction]]) -> None:
        detector, expected = used
        copy.deepcopy(detector).fit(IMAGES[:2] // 2)
        for one, two in zip(detector.predict(ODD), expected, strict=True):
            assert_same_prediction(one, two)

    def test_in_a_folder_goes_by_its_path(self, tmp_path: Path) -> None:
        fitted = make_spade().fit(IMAGES, folder=tmp_path / "model")
        data = pickle.dumps(fitted)
        for other in (pickle.loads(data), copy.deepcopy(fitted)):
            assert_same_prediction(other.predict(ODD)[0], fitted.predict(ODD)[0])
        with pytest.warns(UserWarning, match="changed"):
            make_spade().fit(IMAGES[::-1].copy(), folder=tmp_path / "model")
        with pytest.raises(StoreError, match="was changed after it was opened and pickled"):
            pickle.loads(data)

    def test_in_a_temporary_folder_outlives_it_as_a_copy(self) -> None:
        fitted = make_spade().fit(IMAGES, max_memory="4GB")
        expected = fitted.predict(ODD)
        other = copy.deepcopy(fitted)
        assert_same_prediction(pickled(fitted).predict(ODD)[0], expected[0])
        data = pickle.dumps(fitted)
        folder: Path = fitted.gallery_.path  # type: ignore[assignment]
        del fitted
        assert not folder.exists()
        assert_same_prediction(other.predict(ODD)[0], expected[0])
        with pytest.raises(StoreError, match="is pickled by its path"):
            pickle.loads(data)


def test_a_pool_of_spawned_processes_judges() -> None:
    detectors: list[Detector] = [make_patchcore().fit(IMAGES), make_cflow().fit(IMAGES)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = [pool.apply_async(detector.predict, [ODD]) for detector in detectors]
        for detector, answer in zip(detectors, found, strict=True):
            for one, two in zip(answer.get(200), detector.predict(ODD), strict=True):
                assert_same_prediction(one, two)


@COPIES
def test_values_are_whole(duplicate: Callable[[Any], Any]) -> None:
    features = ks.Backbone(image_size=64).extract(IMAGES[:2])
    same = duplicate(features)
    assert (same.ids, same.sizes) == (features.ids, features.sizes)
    np.testing.assert_array_equal(same.pooled, features.pooled)
    for one, two in zip(same.pyramid.levels, features.pyramid.levels, strict=True):
        np.testing.assert_array_equal(one, two)
    found = filled(ks.Gallery()).search(QUERY)
    assert_same_neighbors(duplicate(found), found)
    assert duplicate(found).stats == found.stats
