"""Methods without training: more images, few images, calibration, on solar cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import knnspect as ks
from knnspect.data import elpv_split, read_image
from knnspect.errors import ImageError, ParameterError, ShapeError

SPLIT = elpv_split(n_train=14, n_functional=4, n_defective=4)
NORMAL = {path.name: path for path in SPLIT.train}
QUERIES = [*SPLIT.functional, *SPLIT.defective]
Kind = type[ks.Padim] | type[ks.PcaResidual]
BOTH = pytest.mark.parametrize("kind", [ks.Padim, ks.PcaResidual])


def backbone() -> ks.Backbone:
    return ks.Backbone(image_size=64, patch_size=3, device="cpu")


def some(start: int, stop: int) -> dict[str, Path]:
    return dict(list(NORMAL.items())[start:stop])


@BOTH
@pytest.mark.parametrize("by_level", [True, False])
def test_images_can_be_added(kind: Kind, by_level: bool) -> None:
    whole = kind(backbone(), by_level=by_level).fit(NORMAL)
    grown = kind(backbone(), by_level=by_level).fit(some(0, 9))
    before = grown.calibration_
    with pytest.warns(ks.CalibrationWarning, match="are of fewer images, and higher"):
        assert grown.add(some(9, 14)) == sorted(some(9, 14))
    assert grown.n_images_ == 14
    for one, other in zip(grown.predict(QUERIES), whole.predict(QUERIES), strict=True):
        np.testing.assert_allclose(one.map, other.map, rtol=2e-3)
    assert before is not None
    assert grown.calibration_ is not None
    assert len(grown.calibration_) == 14
    np.testing.assert_array_equal(grown.calibration_.scores[:9], before.scores)
    # What a fit of all says of the images that came last, but for the weights of shrinkage.
    assert whole.calibration_ is not None
    place = [whole.calibration_.ids.index(id_) for id_ in grown.calibration_.ids[9:]]
    expected = whole.calibration_.scores[place]
    np.testing.assert_allclose(grown.calibration_.scores[9:], expected, rtol=1e-2)


@BOTH
def test_what_was_added_is_saved(kind: Kind, tmp_path: Path) -> None:
    detector = kind(backbone()).fit(some(0, 9))
    with pytest.warns(ks.CalibrationWarning):
        detector.add(some(9, 12))
    detector.save(tmp_path / "model.ks")
    loaded: Any = ks.load(tmp_path / "model.ks")
    assert loaded.n_images_ == 12
    assert [p.score for p in loaded.predict(QUERIES)] == [
        p.score for p in detector.predict(QUERIES)
    ]
    with pytest.warns(ks.CalibrationWarning):
        loaded.add(some(12, 14))
    assert loaded.n_images_ == 14


@BOTH
def test_images_that_were_learnt_from_are_not_added_again(kind: Kind) -> None:
    detector = kind(backbone()).fit(some(0, 9))
    expected = [p.score for p in detector.predict(QUERIES)]
    renamed = {"other": NORMAL[next(iter(NORMAL))], **some(9, 10)}
    with pytest.raises(ImageError, match="1 of the 2 images were learnt from already: other"):
        detector.add(renamed)
    assert detector.n_images_ == 9
    assert [p.score for p in detector.predict(QUERIES)] == expected


def test_images_that_were_held_out_go_on_to_decide() -> None:
    detector = ks.Padim(backbone()).fit(some(0, 7), calibration_images=some(7, 12))
    before = detector.calibration_
    detector.add(some(12, 14))
    assert detector.calibration_ is before


@pytest.mark.parametrize("kind", [ks.Padim, ks.PcaResidual, ks.OneClassSvm])
def test_one_image_is_refused(kind: Any) -> None:
    with pytest.raises(ImageError, match="needs at least 2 normal images to learn from, got 1"):
        kind(backbone()).fit(some(0, 1))


def test_two_images_are_enough() -> None:
    detector = ks.Padim(backbone()).fit(some(0, 2))
    assert all(np.isfinite(p.score) for p in detector.predict(QUERIES))


def test_fewer_images_than_a_covariance_needs_are_refused_or_shrunk() -> None:
    with pytest.raises(ParameterError, match="covariances of 24 channels from 14 samples"):
        ks.Padim(backbone(), ridge=0.0).fit(NORMAL)
    ks.Padim(backbone(), ridge=0.0, channels=13).fit(NORMAL)
    ks.Padim(backbone(), ridge=0.01).fit(NORMAL)


@pytest.mark.parametrize("by_level", [True, False])
def test_more_channels_than_there_are_are_refused(by_level: bool) -> None:
    with pytest.raises(ParameterError, match=r"channels: expected at most \d+, .* got 1000"):
        ks.Padim(backbone(), channels=1000, by_level=by_level).fit(NORMAL)


def test_leading_channels_vary_most() -> None:
    padim = ks.Padim(backbone(), by_level=False, channels=20, selection="leading").fit(NORMAL)
    pyramid = padim.backbone.extract(NORMAL).pyramid
    variances = pyramid.concatenated().reshape(-1, 176).var(axis=0)
    (chosen,) = padim.scorer_.layout.channels
    assert sorted(np.argsort(-variances)[:20]) == chosen.tolist()


def test_random_channels_are_drawn_by_the_seed() -> None:
    drawn = [
        ks.Padim(backbone(), by_level=False, channels=20, seed=seed).fit(some(0, 3)).scorer_
        for seed in (0, 0, 1)
    ]
    channels = [each.layout.channels[0].tolist() for each in drawn]
    assert channels[0] == channels[1] != channels[2]


def test_distances_are_those_of_a_covariance_by_hand() -> None:
    """In float64, for all cells of one level, as the paper has it (equations 1 and 2)."""
    padim = ks.Padim(
        ks.Backbone(levels=(2,), image_size=64, device="cpu"), shrinkage=0.0, ridge=0.01
    ).fit(NORMAL)
    normal = padim.backbone.extract(NORMAL).pyramid.levels[0].astype(np.float64)
    query = padim.backbone.extract(QUERIES[:1]).pyramid
    found = padim.scorer_.cell_scores(query)
    ridge = 0.01 * normal.var(axis=0, ddof=1).mean()
    for row, column in [(0, 0), (3, 5), (7, 7)]:
        samples = normal[:, row, column]
        covariance = np.cov(samples.T) + ridge * np.eye(samples.shape[1])
        apart = query.levels[0][0, row, column] - samples.mean(axis=0)
        expected = np.sqrt(apart @ np.linalg.solve(covariance, apart))
        assert found[row, column] == pytest.approx(expected, rel=1e-3)


def test_levels_are_added_at_the_finest_grid() -> None:
    padim = ks.Padim(backbone()).fit(NORMAL)
    query = padim.backbone.extract(QUERIES[:1]).pyramid
    total = padim.scorer_.cell_scores(query) ** 2
    parts = [
        np.square(padim.scorer_.products(index, part[0]), dtype=np.float64).sum(1)
        for index, part in enumerate(padim.scorer_.layout.parts(query))
    ]
    expected = np.zeros((16, 16))
    for part, n_channels in zip(parts, (24, 40, 112), strict=True):
        side = int(np.sqrt(len(part)))
        cells = torch.from_numpy(part.reshape(1, 1, side, side))
        fine = torch.nn.functional.interpolate(cells, size=(16, 16), mode="bilinear")
        expected += fine[0, 0].numpy() * np.sqrt(24 / n_channels)
    np.testing.assert_allclose(total, expected, rtol=1e-6)


@pytest.mark.parametrize("pooled", [True, False])
def test_a_one_class_svm_judges_without_scikit_learn(
    pooled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    svm = ks.OneClassSvm(backbone(), landmarks=20, pooled_score=pooled, score="image").fit(NORMAL)
    expected = [p.score for p in svm.predict(QUERIES)]
    svm.save(tmp_path / "model.ks")
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    loaded = ks.load(tmp_path / "model.ks")
    assert [p.score for p in loaded.predict(QUERIES)] == expected


def test_parts_of_normal_images_are_judged_by_the_rest() -> None:
    svm = ks.OneClassSvm(backbone(), landmarks=20).fit(NORMAL)
    assert svm.calibration_ is not None
    assert svm.calibration_.kind == "leave one out"
    assert sorted(svm.calibration_.ids) == sorted(NORMAL)
    images = sorted(NORMAL)
    rest = {id_: NORMAL[id_] for place, id_ in enumerate(images) if place % 5 != 1}
    of_rest = ks.OneClassSvm(backbone(), landmarks=20).fit(rest)
    judged = {p.id: p.score for p in of_rest.predict({images[1]: read_image(NORMAL[images[1]])})}
    place = svm.calibration_.ids.index(images[1])
    assert svm.calibration_.scores[place] == pytest.approx(judged[images[1]], rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        (ks.Padim, {"by_level": False}),
        (ks.Padim, {"ridge": 5.0}),
        (ks.PcaResidual, {"explained": 0.5}),
        (ks.OneClassSvm, {"kernel": "linear"}),
    ],
)
def test_what_was_learnt_is_saved_with_the_parameters_that_it_was_learnt_with(
    kind: Any, changed: dict[str, Any], tmp_path: Path
) -> None:
    detector = kind(backbone()).fit(NORMAL)
    expected = [p.score for p in detector.predict(QUERIES)]
    detector.set_params(**changed, sigma=4.0)
    assert [p.score for p in detector.predict(QUERIES)] == expected
    detector.save(tmp_path / "model.ks")
    loaded = ks.load(tmp_path / "model.ks")
    assert [p.score for p in loaded.predict(QUERIES)] == expected
    assert loaded.get_params()[next(iter(changed))] != next(iter(changed.values()))


def test_images_of_another_shape_are_judged_where_places_do_not_count() -> None:
    whole = ks.Backbone(image_size=64, patch_size=3, resize="shorter", device="cpu")
    wide = np.random.default_rng(0).integers(0, 255, (1, 64, 128, 3), np.uint8)
    found = ks.PcaResidual(whole).fit(NORMAL).predict(wide)[0]
    assert found.map.shape == (64, 128)
    with pytest.raises(ShapeError, match="each position was learnt for 16x16x24"):
        ks.Padim(whole).fit(NORMAL).predict(wide)


def test_normal_images_that_are_all_the_same_are_refused() -> None:
    same = {name: read_image(next(iter(NORMAL.values()))) for name in "abc"}
    with pytest.raises(ImageError, match="the features of all 3 are the same"):
        ks.Padim(backbone()).fit(same)


def test_a_plane_for_pooled_features_is_refused_where_it_would_not_count() -> None:
    with pytest.raises(ParameterError, match='expected "image" with pooled_score, got "top"'):
        ks.OneClassSvm(backbone(), pooled_score=True).fit(NORMAL)
