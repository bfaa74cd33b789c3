"""HADGAN: spectra of a scene are learnt one by one, pixels judged by spectrum and place."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score
from spectral_scene import mixed_scene, rx
from torch.nn.functional import softplus

import knnspect as ks
from knnspect.detectors.reconstruction.networks.base import Settings
from knnspect.detectors.reconstruction.networks.hadgan import HADGANNetwork, Weights
from knnspect.detectors.reconstruction.networks.spectra import (
    guided,
    lowest_energies,
    mahalanobis,
    small_parts,
    spread_of,
    usual_of,
    whitening_of,
)
from knnspect.errors import DTypeError, ImageError, ParameterError, ShapeError
from knnspect.pyramid import FeaturePyramid
from knnspect.training import loop

Array = NDArray[Any]


def make(**parameters: Any) -> ks.HADGAN:
    small = {"max_epochs": 12, "width": 16, "latent_size": 6} | parameters
    return ks.HADGAN(ks.Scenes(device="cpu"), **small)


@pytest.fixture(scope="module")
def made() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    return mixed_scene(0)


@pytest.fixture(scope="module")
def scene(made: tuple[NDArray[np.float32], Array]) -> NDArray[np.float32]:
    return made[0]


@pytest.fixture(scope="module")
def fitted(scene: NDArray[np.float32]) -> ks.HADGAN:
    """Tests do not change it."""
    return make(max_epochs=15).fit(scene)


def network(weights: Weights | None = None, n_bands: int = 5) -> HADGANNetwork:
    torch.manual_seed(0)
    given = weights or Weights(2.0, 0.5, 0.25, 0.5, 0.2)
    return HADGANNetwork((4, 4, n_bands), Settings(3, 4, 1e-3), given)


def test_implanted_pixels_are_found_in_the_scene_that_was_learnt_from(
    fitted: ks.HADGAN, made: tuple[NDArray[np.float32], NDArray[np.bool_]]
) -> None:
    scene, is_implant = made
    (found,) = fitted.predict(scene)
    assert found.map.shape == (40, 40)
    assert found.score == found.map.max()
    auroc = {
        name: roc_auc_score(is_implant.ravel(), map_.ravel())
        for name, map_ in (("hadgan", found.map), ("rx", rx(scene)))
    }
    assert auroc["rx"] > 0.95, "the implants can be told"
    assert auroc["hadgan"] > 0.95


def test_the_map_is_the_weighted_sum_of_two_maps_by_their_spreads_where_it_was_learnt(
    fitted: ks.HADGAN, scene: NDArray[np.float32]
) -> None:
    net = fitted.network_
    spectra = (scene.reshape(-1, 30) - net.mean.numpy()) / net.deviation.numpy()
    with torch.no_grad():
        drawn = net.decoder(net.encoder(torch.from_numpy(spectra))).numpy()
    residual = (spectra - drawn).astype(np.float64)
    # By the definitions, on the residual of each spectrum.
    apart = (residual - net.joint.usual.numpy()) @ net.joint.whitening.numpy().T
    spectral = (apart**2).sum(axis=1).reshape(40, 40)
    bands = np.abs(residual).sum(axis=0).argsort()[:3]
    assert set(bands) == set(np.flatnonzero(net.joint.is_chosen.numpy()))
    small = small_parts(residual.T.reshape(30, 40, 40), net.joint.is_chosen.numpy() > 0)
    spatial = guided(small, float(net.joint.spreads[0]))

    def spread(values: Array) -> float:
        return float(1.4826 * np.median(np.abs(values - np.median(values))))

    expected = 0.5 * spatial / spread(spatial) + 0.5 * spectral / spread(spectral)
    (found,) = fitted.predict(scene)
    np.testing.assert_allclose(found.map, expected, rtol=2e-3)


def test_the_weight_of_the_spatial_map_may_change_after_the_fit(
    fitted: ks.HADGAN, scene: NDArray[np.float32]
) -> None:
    maps = []
    for share in (0.0, 1.0, 0.25):
        detector = copy.copy(fitted).set_params(spatial_weight=share)
        maps.append(detector.predict(scene)[0].map)
    np.testing.assert_allclose(maps[2], 0.75 * maps[0] + 0.25 * maps[1], rtol=1e-5)


def test_a_pixel_is_judged_by_what_was_learnt_not_by_its_scene(
    scene: NDArray[np.float32],
) -> None:
    detector = make(spatial_weight=0.0, max_epochs=3).fit(scene)
    (whole,) = detector.predict(scene)
    part, other = detector.predict([scene[5:9, 20:31], scene[::-1]])
    np.testing.assert_allclose(part.map, whole.map[5:9, 20:31], rtol=1e-4)
    np.testing.assert_allclose(other.map, whole.map[::-1], rtol=1e-4)


def test_scenes_do_not_depend_on_those_judged_with_them(
    fitted: ks.HADGAN, scene: NDArray[np.float32]
) -> None:
    together = fitted.predict([scene, scene[::-1], scene[:7]])
    for given, found in zip([scene, scene[::-1], scene[:7]], together, strict=True):
        (alone,) = fitted.predict([given])
        assert alone.score == found.score
        np.testing.assert_array_equal(alone.map, found.map)


def test_it_is_saved_and_loaded_with_all_that_it_learnt(
    fitted: ks.HADGAN, scene: NDArray[np.float32], tmp_path: Path
) -> None:
    fitted.save(tmp_path / "model.ks")
    loaded = ks.load(tmp_path / "model.ks", device="cpu")
    assert isinstance(loaded.backbone, ks.Scenes)
    (one,), (other,) = fitted.predict(scene), loaded.predict(scene)
    np.testing.assert_array_equal(one.map, other.map)
    rebuilt = fitted.reconstruct(scene)
    assert rebuilt.shape == (1, 40, 40, 30)
    assert np.mean((rebuilt[0] - scene) ** 2) < 0.2 * scene.var(axis=(0, 1)).mean()


def test_the_same_seed_gives_the_same_bits(scene: NDArray[np.float32]) -> None:
    one, same, other = (make(max_epochs=1, seed=seed).fit(scene) for seed in (0, 0, 1))
    maps = [detector.predict(scene)[0].map for detector in (one, same, other)]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert (maps[0] != maps[2]).any()


def test_an_interrupted_training_goes_on_to_the_same_bits(
    scene: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(max_epochs=3).fit(scene)
    ended = loop.Training._end_epoch
    n_done = 0

    def stop(self: Any) -> None:
        nonlocal n_done
        ended(self)
        n_done += 1
        self._write()
        if n_done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "_end_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            make(max_epochs=3).fit(scene, checkpoint=tmp_path / "c")
    resumed = make(max_epochs=3).fit(scene, checkpoint=tmp_path / "c")
    arrays = resumed.network_.arrays()
    for name, value in whole.network_.arrays().items():
        np.testing.assert_array_equal(arrays[name], value, name)


@torch.no_grad()
def test_the_terms_of_the_loss_are_those_of_the_paper() -> None:
    net = network()
    spectra = torch.randn(10, 5, generator=torch.Generator().manual_seed(1))
    codes = net.encoder(spectra)
    drawn = net.decoder(codes)
    errors = sorted(((spectra - drawn) ** 2).mean(dim=1).tolist())
    expected = np.mean(errors[:8])  # a fifth is taken for anomalies
    expected += 2.0 * float(((codes - net.encoder(drawn)) ** 2).mean())
    expected += 0.5 * float(codes.abs().mean())
    logits = net.of_codes(codes), net.of_spectra(drawn)
    expected += 0.25 * sum(float(softplus(-each).mean()) for each in logits)
    assert float(net._of_autoencoder(spectra)) == pytest.approx(expected, rel=1e-6)

    noise = torch.randn(10, 3, generator=torch.Generator().manual_seed(2))
    parts = [softplus(-net.of_codes(noise)), softplus(net.of_codes(codes))]
    parts += [softplus(-net.of_spectra(spectra)), softplus(net.of_spectra(drawn))]
    found = net._of_discriminators(spectra, torch.Generator().manual_seed(2))
    assert float(found) == pytest.approx(sum(float(part.mean()) for part in parts), rel=1e-6)


def test_each_step_teaches_its_own_part() -> None:
    net = network()
    batch = FeaturePyramid([np.random.default_rng(0).random((2, 4, 4, 5), np.float32)])
    optimizers = net.optimizers()
    owners = [{id(v) for g in each.param_groups for v in g["params"]} for each in optimizers]
    assert owners[0] | owners[1] == {id(value) for value in net.parameters()}
    assert not owners[0] & owners[1]
    parts = []
    for step in net.steps(batch, torch.Generator().manual_seed(0)):
        net.zero_grad(set_to_none=True)
        step.loss.backward()  # type: ignore[no-untyped-call]
        taught = {id(v) for v in net.parameters() if v.grad is not None and v.grad.any()}
        assert owners[step.part] <= taught
        if step.part == 1:
            assert not taught & owners[0], "the autoencoder is not to help its discriminators"
        parts.append((step.part, step.n_cells, round(step.done, 2)))
    assert parts == [(1, 16, 0.5), (0, 16, 0.5), (1, 16, 1.0), (0, 16, 1.0)]


def test_the_covariance_shrinks_as_ledoit_and_wolf_have_it() -> None:
    rng = np.random.default_rng(0)
    spectra = rng.normal(size=(40, 12)) @ rng.normal(size=(12, 12))
    covariance, _ = ledoit_wolf(spectra)
    whitening = whitening_of(spectra)
    np.testing.assert_allclose(whitening.T @ whitening, np.linalg.inv(covariance), rtol=1e-6)
    residual = rng.normal(size=(12, 3, 4))
    inverse = np.linalg.inv(covariance)
    apart = [[residual[:, i, j] - 1 for j in range(4)] for i in range(3)]
    expected = np.array([[x @ inverse @ x for x in row] for row in apart])
    np.testing.assert_allclose(mahalanobis(residual, np.ones(12), whitening), expected, rtol=1e-6)


def test_odd_spectra_do_not_say_what_is_usual() -> None:
    rng = np.random.default_rng(0)
    spectra = rng.normal(size=(400, 4))
    spectra[:12] += 50
    mean, whitening = usual_of(spectra, 0.05)
    assert np.abs(mean).max() < 0.2
    assert 0.8 < np.diag(np.linalg.inv(whitening.T @ whitening)).max() < 1.3
    all_mean, _ = usual_of(spectra, 0.0)
    np.testing.assert_allclose(all_mean, spectra.mean(axis=0))


def test_what_is_reconstructed_to_the_bit_can_be_judged() -> None:
    whitening = whitening_of(np.zeros((9, 3)))
    assert np.isfinite(whitening).all()
    assert spread_of([np.zeros(5)]) == 1.0
    assert spread_of([np.array([0.0, 0.0, 0.0, 8.0])]) == 2.0


def test_the_guided_filter_is_that_of_its_paper() -> None:
    image = np.random.default_rng(0).random((6, 7))
    noise = 0.3
    slopes, offsets = np.empty((6, 7)), np.empty((6, 7))
    padded = np.pad(image, 1, mode="edge")
    for row, column in np.ndindex(6, 7):
        window = padded[row : row + 3, column : column + 3]
        slopes[row, column] = window.var() / (window.var() + noise**2)
        offsets[row, column] = window.mean() * (1 - slopes[row, column])
    expected = np.empty((6, 7))
    padded = [np.pad(each, 1, mode="edge") for each in (slopes, offsets)]  # type: ignore[assignment]
    for row, column in np.ndindex(6, 7):
        slope, offset = (each[row : row + 3, column : column + 3].mean() for each in padded)
        expected[row, column] = slope * image[row, column] + offset
    np.testing.assert_allclose(guided(image, noise), expected, rtol=1e-9)


def test_small_parts_are_bright_or_dark_spots_of_the_bands_chosen() -> None:
    residual = np.ones((5, 20, 20))
    residual[0, 4, 4] = -7.0
    residual[1, 12, 12] = 0.25
    residual[1, :10, :10] += 3.0  # too large to be small
    residual[4, 8, 15] = 100.0
    chosen = lowest_energies(residual.reshape(5, -1).T)
    assert chosen.tolist() == [True, False, True, True, False]
    found = small_parts(residual, np.array([True, True, False, False, False]))
    assert {tuple(map(int, at)) for at in np.argwhere(found)} == {(4, 4), (12, 12)}
    assert found[4, 4] == pytest.approx(6 / 2)
    assert found[12, 12] == pytest.approx(0.75 / 2)


def test_a_band_without_values_changes_nothing(scene: NDArray[np.float32]) -> None:
    dead = scene.copy()
    dead[..., 11] = 1234.5
    (found,) = make(max_epochs=2).fit(dead).predict(dead)
    assert np.isfinite(found.map).all()
    assert found.map.std() > 0


def test_scenes_of_several_bands_or_sizes_do_not_go_together(
    fitted: ks.HADGAN, scene: NDArray[np.float32]
) -> None:
    with pytest.raises(ShapeError, match=r"image 000000: expected 30 bands, as .*learnt, got 29"):
        fitted.predict([scene[..., :29]])
    for other in (scene[..., :29], scene[:30]):
        with pytest.raises(ShapeError, match=r"image 000001: .*scenes of one fit have one size"):
            make().fit([scene, other])


def test_what_nothing_can_be_learnt_from_is_refused(scene: NDArray[np.float32]) -> None:
    with pytest.raises(ImageError, match=r"image 000000: expected at least 64 pixels.* 7 x 9"):
        make().fit(scene[:7, :9])
    with pytest.raises(ImageError, match="the same at every cell"):
        make().fit(np.ones((9, 9, 4)))
    bad = scene.copy()
    bad[3, 4, 5] = np.inf
    with pytest.raises(ImageError, match=r"image 000000|^000000: .*row 3, column 4, band 5"):
        make().fit(bad)
    with pytest.raises(DTypeError, match="backbone: expected a Scenes or Pixels, got Backbone"):
        ks.HADGAN(ks.Backbone()).fit(scene)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=r"learning_rate: the loss .* is not finite"):
        make(learning_rate=1e6, max_epochs=50).fit(scene)


def test_ordinary_images_are_scenes_of_three_bands() -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 20, 24, 3), np.uint8)
    for backbone in (ks.Scenes(device="cpu"), ks.Pixels(16, device="cpu")):
        detector = ks.HADGAN(backbone, max_epochs=2, width=4, latent_size=2).fit(images)
        found = detector.predict(images)
        assert [each.map.shape for each in found] == [(20, 24)] * 5
        assert detector.n_images_ == 5
        assert np.isfinite(detector.normal_map_max_)
