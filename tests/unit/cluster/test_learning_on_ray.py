"""Methods learn from a gallery in shards, with the help of a cluster, what one process learns."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray_cluster_here import cluster_here

from knnspect import (
    Backbone,
    Detector,
    Gallery,
    Padim,
    PatchCore,
    PcaResidual,
    ShardedGallery,
    Spade,
)
from knnspect.backends import RayBackend
from knnspect.backends.ray_requests import Request
from knnspect.cluster.crew import RayCrew
from knnspect.data import elpv_split
from knnspect.detectors.heads.estimates.sums import sums_of
from knnspect.normal_features import NormalFeatures, Run, extract

ray = pytest.importorskip("ray")

pytestmark = [
    pytest.mark.xdist_group("ray"),
    # Ray's own.
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning:ray.*"
    ),
    # Some solar cells are alike.
    pytest.mark.filterwarnings("ignore:.*have near-duplicates among the others"),
]
BACKBONE = Backbone(levels=(1, 2, 3), image_size=64)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with cluster_here():
        yield


@pytest.fixture(scope="module")
def in_one() -> NormalFeatures:
    split = elpv_split(n_train=40, n_functional=1, n_defective=1)
    return extract(BACKBONE, split.train, Gallery(), Run())


@pytest.fixture(scope="module")
def in_shards(in_one: NormalFeatures, tmp_path_factory: pytest.TempPathFactory) -> NormalFeatures:
    path = tmp_path_factory.mktemp("learning") / "normal.gallery"
    with ShardedGallery.create(path, shards=3) as gallery:
        gallery.add(in_one.gallery.pyramid(), in_one.gallery.ids)
    return replace(in_one, gallery=ShardedGallery.open(path))


def learnt(detector: Any, normal: NormalFeatures, address: str | None = None) -> Any:
    made = copy(detector)
    made._thumbnails = normal.thumbnails  # as `fit` does
    made._learn(normal, Run(cluster=address))
    return made


def state_of(detector: Detector) -> dict[str, bytes]:
    state = detector._state()
    arrays = {name: np.asarray(array).tobytes() for name, array in state.arrays.items()}
    searched = getattr(detector, "coreset_", None)
    if searched is not None:
        arrays |= {"rows": searched.rows.tobytes(), "order": searched.order.tobytes()}
    calibration = detector.calibration_
    assert calibration is not None
    scores = np.array([calibration.scores, calibration.map_maxima])
    values = {name: repr(value).encode() for name, value in state.values.items()}
    return arrays | values | {"calibration": scores.tobytes()}


ESTIMATES = {
    "padim": Padim(BACKBONE),
    "padim, leading channels of one Gaussian": Padim(
        BACKBONE, by_position=False, by_level=False, channels=20, selection="leading"
    ),
    "pca_residual": PcaResidual(BACKBONE),
}


@pytest.mark.parametrize("detector", ESTIMATES.values(), ids=ESTIMATES)
def test_sums_of_shards_are_those_of_one_process(
    cluster: None, in_one: NormalFeatures, in_shards: NormalFeatures, detector: Any
) -> None:
    here, there = learnt(detector, in_shards), learnt(detector, in_shards, "auto")
    assert state_of(there) == state_of(here)
    # In one folder images are summed up in other batches. What is kept is float32.
    whole = learnt(detector, in_one)
    for found, expected in zip(here.scorer_.gaussians, whole.scorer_.gaussians, strict=True):
        assert found.n == expected.n
        np.testing.assert_allclose(found.mean, expected.mean, rtol=2e-7)
        scale = np.abs(expected.scatter).max()
        np.testing.assert_allclose(found.scatter, expected.scatter, rtol=0, atol=1e-6 * scale)
    np.testing.assert_allclose(here.calibration_.scores, whole.calibration_.scores, rtol=1e-3)


def test_sums_of_some_images_leave_out_the_others(in_shards: NormalFeatures) -> None:
    gallery = in_shards.gallery
    detector = Padim(BACKBONE)
    layout = detector._settings.layout(gallery.shapes)
    ids = gallery.ids[3:9]
    with sums_of(gallery, ids) as sums:
        (first, *_) = sums.gaussians(layout)
    features = gallery.pyramid(ids).levels[0].reshape(6, -1, gallery.shapes[0][2])
    assert first.n == 6
    np.testing.assert_allclose(first.mean, features.mean(axis=0, dtype="f8"), rtol=1e-6, atol=1e-6)


COMPARISONS = {
    "spade": Spade(BACKBONE, image_neighbors=9),
    "patchcore": PatchCore(BACKBONE, coreset=None),
    "patchcore with a coreset": PatchCore(BACKBONE, coreset=0.05),
    "patchcore with its own score": PatchCore(BACKBONE, coreset=None, score="image"),
}


@pytest.mark.parametrize("detector", COMPARISONS.values(), ids=COMPARISONS)
def test_leaving_one_out_over_shards_gives_the_same_scores(
    cluster: None, in_one: NormalFeatures, in_shards: NormalFeatures, detector: Any
) -> None:
    expected = learnt(detector, in_one)
    detector = copy(detector)
    detector.backend = backend = RayBackend()
    asked: set[str] = set()
    ask = backend._actors.ask

    def noting(place: int, request: Request, *args: Any, **kwargs: Any) -> Any:
        asked.update(request.shards[at].name for at in request.asked)
        return ask(place, request, *args, **kwargs)

    backend._actors.ask = noting  # type: ignore[method-assign]
    found = learnt(detector, in_shards, "auto")
    assert state_of(found) == state_of(expected)
    scores = [0.0, *expected.calibration_.scores]
    assert [found.calibration_.p_value(score) for score in scores] == [
        expected.calibration_.p_value(score) for score in scores
    ]
    # A coreset is searched where it is.
    assert (len(asked) == 3) == (getattr(detector, "coreset", None) is None)
    backend.stop()


def test_a_fit_on_a_cluster_picks_its_coreset_there(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = RayCrew.ask

    def noting(crew: RayCrew, method: str, arguments: Any) -> Any:
        asked.append(method)
        return ask(crew, method, arguments)

    monkeypatch.setattr(RayCrew, "ask", noting)
    files = elpv_split(n_train=12, n_functional=1, n_defective=1).train
    here = PatchCore(BACKBONE, coreset=0.05).fit(files)
    assert not asked
    there = PatchCore(BACKBONE, coreset=0.05).fit(files, folder=tmp_path / "f", cluster="auto")
    assert "front" in asked
    assert state_of(there) == state_of(here)
