"""The VAE: its loss, its importance-weighted scores, and the variance of its pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import knnspect as ks
from knnspect.detectors.reconstruction.networks.base import Settings
from knnspect.detectors.reconstruction.networks.vae import Term, VAENetwork
from knnspect.pyramid import FeaturePyramid

WEIGHT, VARIANCE = 0.8, 0.09
#: The logarithm of the density of 256 pixels without any residual.
FACTOR = -128 * math.log(2 * math.pi * VARIANCE * 256)


class Recognition(nn.Module):
    """q(z|x) of one number each, not the true posterior: too wide, and its mean is off."""

    def forward(self, images: Tensor) -> Tensor:
        mean = 0.7 * images[:, 0, 0, :1] + 0.2
        return torch.cat([mean, torch.full_like(mean, math.log(0.5))], dim=1)


class Generation(nn.Module):
    """The mean of all pixels given z: in proportion to it."""

    def forward(self, codes: Tensor) -> Tensor:
        return (WEIGHT * codes)[:, :, None, None].expand(-1, 1, 16, 16)


def toy(samples: int, term: Term = "bound") -> VAENetwork:
    network = VAENetwork((16, 16, 1), Settings(1, 2, 1e-3), term, samples, VARIANCE)
    # 256 equal pixels of this variance tell as much of z as one with a 256th of it.
    network.encoder, network.decoder = Recognition(), Generation()  # type: ignore[assignment]
    network.variance.fill_(VARIANCE * 256)
    return network.eval()


def evidence(value: float) -> float:
    """Log p(x) of an image of equal pixels: x = w z 1 + noise is Gaussian, of mean 0."""
    noise, n = VARIANCE * 256, 256
    covariance = noise * np.eye(n) + WEIGHT**2 * np.ones((n, n))
    x = np.full(n, value)
    _, log_determinant = np.linalg.slogdet(covariance)
    quadratic = x @ np.linalg.solve(covariance, x)
    return float(-0.5 * (n * np.log(2 * np.pi) + log_determinant + quadratic))


def test_the_bound_tightens_with_more_samples_and_ends_at_the_evidence() -> None:
    values = np.linspace(-1.5, 1.5, 16)
    images = torch.tensor(values, dtype=torch.float32)[:, None, None, None].expand(-1, 1, 16, 16)
    true = np.array([evidence(value) for value in values])
    gaps = []
    for samples in (1, 4, 8, 1024):
        bound = FACTOR - toy(samples).scores(images, images).numpy()
        gaps.append(float((true - bound).mean()))
    assert gaps[0] > gaps[1] > gaps[2] > abs(gaps[3])
    assert abs(gaps[3]) < 0.02


def test_scores_are_those_of_the_paper() -> None:
    image = torch.linspace(0, 1, 256).reshape(1, 1, 16, 16)
    x = image.numpy().ravel().astype(float)
    noise = toy(5)._noise(5, image).numpy().ravel().astype(float)
    mean, variance = 0.7 * x[0] + 0.2, 0.5
    z = mean + np.sqrt(variance) * noise

    def density(at: Any, center: Any, spread: float) -> Any:
        return -0.5 * (np.log(2 * np.pi * spread) + (at - center) ** 2 / spread)

    ratio = density(z, 0, 1) - density(z, mean, variance)
    likelihood = np.array([density(x, WEIGHT * each, VARIANCE * 256).sum() for each in z]) - FACTOR
    expected = {
        "kl": -np.log(np.mean(np.exp(ratio))),
        "reconstruction": -np.log(np.mean(np.exp(likelihood))),
        "bound": -np.log(np.mean(np.exp(ratio + likelihood))),
    }
    expected["sum"] = expected["kl"] + expected["reconstruction"]
    for term, score in expected.items():
        found = toy(5, term).scores(image, image)  # type: ignore[arg-type]
        assert found.item() == pytest.approx(score, abs=1e-3), term


def test_the_loss_is_the_negative_lower_bound() -> None:
    network = toy(1)
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    (step,) = network.learn(images, torch.Generator().manual_seed(1))
    noise = torch.randn(3, 1, generator=torch.Generator().manual_seed(1)).numpy().ravel()
    x = images.numpy().reshape(3, -1).astype(float)
    mean, variance = 0.7 * x[:, 0] + 0.2, 0.5
    z = mean + np.sqrt(variance) * noise
    divergence = 0.5 * (mean**2 + variance - 1 - np.log(variance))
    spread = VARIANCE * 256
    squares = ((x - WEIGHT * z[:, None]) ** 2).sum(axis=1)
    likelihood = -0.5 * (256 * np.log(2 * np.pi * spread) + squares / spread)
    assert step.loss.item() == pytest.approx((divergence - likelihood).mean(), rel=1e-5)


def shaded(n: int) -> NDArray[np.uint8]:
    """Images that differ in slope, with some noise."""
    rng = np.random.default_rng(0)
    slopes = np.linspace(20, 200, 16) * rng.uniform(0.5, 1, (n, 1, 1))
    return np.asarray(slopes + rng.uniform(0, 20, (n, 16, 16)), np.uint8)


def test_the_variance_is_the_mean_squared_residual_of_the_images_trained_on() -> None:
    images = shaded(12)
    detector = ks.VAE(ks.Pixels(16, color="grey", device="cpu"), width=4, max_epochs=3)
    network = detector.fit(images).network_
    pixels = images[..., None].astype(np.float32) / 255
    before = float(network.variance)
    network.calibrate(iter([FeaturePyramid([pixels[:5]]), FeaturePyramid([pixels[5:]])]))
    # All images; trained on were eleven of them.
    assert float(network.variance) == pytest.approx(before, rel=0.2)
    mean, log_variance = network.posterior(network.images_of(FeaturePyramid([pixels])))
    targets = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    squares = []
    for noise in network._noise(4, mean):
        drawn = network.decoder(mean + noise * (log_variance / 2).exp())
        squares.append((drawn - targets).square().mean().item())
    assert float(network.variance) == pytest.approx(np.mean(squares), rel=1e-4)


def test_a_variance_that_was_given_stays() -> None:
    detector = ks.VAE(
        ks.Pixels(16, color="grey", device="cpu"), width=4, max_epochs=2, variance=0.25
    )
    assert float(detector.fit(shaded(6)).network_.variance) == 0.25


class Black(nn.Module):
    """Draws what it is to draw, whatever the code."""

    def forward(self, codes: Tensor) -> Tensor:
        return codes.new_zeros(len(codes), 1, 16, 16)


def test_images_without_any_residual_leave_a_variance_of_one_grey_level() -> None:
    network = VAENetwork((16, 16, 1), Settings(2, 4, 1e-3), "sum", 2, None).eval()
    network.decoder = Black()  # type: ignore[assignment]
    network.calibrate(iter([FeaturePyramid([np.zeros((3, 16, 16, 1), np.float32)])]))
    assert float(network.variance) == pytest.approx(1 / 255**2)


def test_the_score_may_be_chosen_after_the_fit_and_is_saved(tmp_path: object) -> None:
    images = shaded(8)
    detector = ks.VAE(ks.Pixels(16, color="grey", device="cpu"), width=4, max_epochs=2)
    detector.fit(images[2:])
    scores = {}
    for term in ("sum", "kl", "reconstruction"):
        detector.set_params(term=term)
        scores[term] = detector.scores(images[:2])
    np.testing.assert_allclose(scores["sum"], scores["kl"] + scores["reconstruction"])
    detector.save(f"{tmp_path}/model")
    loaded = ks.load(f"{tmp_path}/model", device="cpu")
    assert (loaded.scores(images[:2]) == scores["reconstruction"]).all()
