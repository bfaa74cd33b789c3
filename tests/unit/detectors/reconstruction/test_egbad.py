"""EGBAD: a bidirectional GAN, whose averaged weights judge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import knnspect as ks
from knnspect.detectors.reconstruction.networks.base import Settings
from knnspect.detectors.reconstruction.networks.egbad import EGBADNetwork

SHAPE, SETTINGS = (16, 20, 1), Settings(latent_size=6, width=4, learning_rate=1e-2)


@pytest.fixture
def network() -> Any:
    torch.manual_seed(0)
    return EGBADNetwork(SHAPE, SETTINGS, "features", 0.9).train()


def images(n: int = 5) -> torch.Tensor:
    return torch.rand(n, 1, 16, 20, generator=torch.Generator().manual_seed(3)) * 2 - 1


def trained(network: Any) -> Any:
    optimizers = network.optimizers()
    for _ in range(3):
        for step in network.learn(images(8), torch.Generator().manual_seed(1)):
            optimizers[step.part].zero_grad()
            step.loss.backward()
            optimizers[step.part].step()
    return network


@pytest.mark.parametrize("pixel_share", [0.0, 0.25, 0.9, 1.0])
def test_scores_are_the_papers(network: Any, pixel_share: float) -> None:
    trained(network).eval()
    network.pixel_share = pixel_share
    bigan, x = network.average.module, images()
    with torch.no_grad():
        drawn, encoded = network.draw(x), bigan.encoder(x)
        torch.testing.assert_close(drawn, bigan.decoder(encoded))
        of_image = bigan.discriminator.features(x, encoded).numpy()
        of_drawn = bigan.discriminator.features(drawn, encoded).numpy()
        logits = bigan.discriminator(x, encoded).numpy()
        pixels = np.abs((x - drawn).numpy()).reshape(5, -1).sum(axis=1)
        shares = {
            "features": np.abs(of_image - of_drawn).sum(axis=1),
            "cross_entropy": -np.log(1 / (1 + np.exp(-logits))),
        }
        for network.discriminator_score, of_both in shares.items():
            expected = pixel_share * pixels + (1 - pixel_share) * of_both
            np.testing.assert_allclose(network.scores(x, drawn).numpy(), expected, rtol=1e-5)


def test_the_discriminator_tells_pairs_apart_and_the_others_make_them_alike(network: Any) -> None:
    x, now = images(8), network.learning
    z = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        encoded, drawn = now.encoder(x), now.decoder(z)
    steps = network.learn(x, torch.Generator().manual_seed(1))
    for label in (1, -1):
        step = next(steps)
        assert step.part == (label == 1)
        with torch.no_grad():
            real = now.discriminator(x, encoded).numpy()
            fake = now.discriminator(drawn, z).numpy()
        by_hand = np.log1p(np.exp(-label * real)).mean() + np.log1p(np.exp(label * fake)).mean()
        assert step.loss.item() == pytest.approx(by_hand, rel=1e-4)
        network.zero_grad()
        step.loss.backward()
        reached = {
            name.split(".")[0] for name, value in now.named_parameters() if value.grad is not None
        }
        assert reached == ({"discriminator"} if label == 1 else {"encoder", "decoder"})


def test_the_weight_of_pixels_may_be_chosen_anew_for_a_model() -> None:
    normal = np.random.default_rng(0).integers(90, 130, (6, 16, 16), np.uint8)
    pixels = ks.Pixels(16, color="grey", device="cpu")
    detector = ks.EGBAD(pixels, width=4, latent_size=4, max_epochs=1).fit(normal)
    by_both = detector.scores(normal[:2])
    by_pixels = detector.set_params(pixel_share=1.0).scores(normal[:2])
    by_discriminator = detector.set_params(pixel_share=0.0).scores(normal[:2])
    np.testing.assert_allclose(by_both, 0.9 * by_pixels + 0.1 * by_discriminator, rtol=1e-5)
