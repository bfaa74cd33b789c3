"""Skip-GANomaly: its U-Net, its losses, what each step trains, and its score."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import knnspect as ks
from knnspect.detectors.reconstruction.networks.base import Settings
from knnspect.detectors.reconstruction.networks.skip_ganomaly import SkipGANomalyNetwork, UNet

NORMAL = np.random.default_rng(0).integers(0, 255, (6, 16, 16), np.uint8)


def make_network(
    weights: tuple[float, float, float] = (1.0, 40.0, 1.0), noise: float = 0.25
) -> SkipGANomalyNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SkipGANomalyNetwork((16, 16, 1), Settings(8, 4, 1e-3), weights, 0.9, noise)


def some_images(n_images: int = 4) -> torch.Tensor:
    return torch.rand(n_images, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("shape", [(28, 28, 1), (64, 64, 3), (100, 72, 3)])
def test_detail_goes_past_the_middle(shape: tuple[int, int, int]) -> None:
    network = UNet(shape, 4, 4).eval()
    images = torch.rand(2, shape[2], *shape[:2]) * 2 - 1
    with torch.no_grad():
        for each in network.middle.parameters():
            each.zero_()
        drawn = network(images)
    assert drawn.shape == images.shape
    assert float((drawn[0] - drawn[1]).abs().max()) > 0, "what is drawn has lost all of the image"


def test_the_generator_loss_is_the_weighted_sum_of_the_three_of_the_paper() -> None:
    network = make_network((2.0, 30.0, 5.0)).eval()
    images = some_images()
    with torch.no_grad():
        drawn = network.draw(images)
        found = float(network.generator_loss(images, drawn))
        real = network.discriminator.features(images).numpy()
        fake = network.discriminator.features(drawn).numpy()
        logits = network.discriminator(drawn).double().numpy()
    expected = (
        2 * np.mean(-np.log(1 / (1 + np.exp(-logits))))
        + 30 * np.mean(np.abs(images.numpy() - drawn.numpy()))
        + 5 * np.mean((real - fake) ** 2)
    )
    assert found == pytest.approx(expected, rel=1e-5)


def test_each_step_reaches_what_it_trains() -> None:
    network = make_network()
    steps = network.learn(some_images(), torch.Generator())
    first = next(steps)
    first.loss.backward()  # type: ignore[no-untyped-call]
    assert first.part == 1
    assert all(each.grad is None for each in network.generator.parameters())
    assert all(each.grad is not None for each in network.discriminator.parameters())
    second = next(steps)
    second.loss.backward()  # type: ignore[no-untyped-call]
    assert second.part == 0
    assert all(each.grad is not None for each in network.generator.parameters())


def test_noise_in_judging_is_the_same_for_every_image_and_every_time() -> None:
    network = make_network(noise=0.5).eval()
    images = some_images()
    with torch.no_grad():
        together = network.draw(images)
        alone = torch.cat([network.draw(image[None]) for image in images])
        without = network.generator(images)
    torch.testing.assert_close(together, alone)
    assert float((together - without).abs().mean()) > 1e-4


def test_the_score_is_the_weighted_sum_of_pixels_and_features() -> None:
    pixels = ks.Pixels(16, color="grey", device="cpu")
    detector = ks.SkipGANomaly(
        pixels, max_epochs=1, width=4, latent_size=8, residual_share=0.3
    ).fit(NORMAL)
    network = detector.network_
    with torch.no_grad():
        images = torch.from_numpy(NORMAL[:, None] / np.float32(255) * 2 - 1)
        drawn = network.draw(images)
        real, fake = (network.discriminator.features(each).numpy() for each in (images, drawn))
    residual = np.abs(images.numpy() - drawn.numpy()).mean(axis=(1, 2, 3))
    distance = np.sqrt(((real - fake) ** 2).mean(axis=1))
    np.testing.assert_allclose(detector.scores(NORMAL), 0.3 * residual + 0.7 * distance, rtol=1e-4)
