"""GANomaly: its losses, what each of its steps trains, and its score."""

from __future__ import annotations

import numpy as np
import torch

import knnspect as ks
from knnspect.detectors.reconstruction.networks.base import Settings
from knnspect.detectors.reconstruction.networks.ganomaly import GANomalyNetwork

SHAPE = (16, 16, 1)


def make_network(weights: tuple[float, float, float] = (1.0, 50.0, 1.0)) -> GANomalyNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GANomalyNetwork(SHAPE, Settings(8, 4, 1e-3), weights)


def some_images(n_images: int = 4) -> torch.Tensor:
    return torch.rand(n_images, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_generator_loss_is_the_weighted_sum_of_the_three_of_the_paper() -> None:
    network = make_network((2.0, 30.0, 5.0)).eval()
    images = some_images()
    with torch.no_grad():
        codes = network.encoder(images)
        drawn = network.decoder(codes)
        found = float(network.generator_loss(images, codes, drawn))
        real = network.discriminator.features(images).numpy()
        fake = network.discriminator.features(drawn).numpy()
        again = network.encoder_of_drawn(drawn).numpy()
    expected = (
        2 * np.mean((real - fake) ** 2)
        + 30 * np.mean(np.abs(images.numpy() - drawn.numpy()))
        + 5 * np.mean((codes.numpy() - again) ** 2)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_discriminator_step_reaches_no_weight_of_the_generator() -> None:
    network = make_network()
    step = next(network.learn(some_images(), torch.Generator()))
    step.loss.backward()  # type: ignore[no-untyped-call]
    assert step.part == 1
    assert all(each.grad is not None for each in network.discriminator.parameters())
    others = (network.encoder, network.decoder, network.encoder_of_drawn)
    assert all(each.grad is None for part in others for each in part.parameters())


def test_the_generator_step_reaches_all_its_three_networks() -> None:
    network = make_network()
    _, step = network.learn(some_images(), torch.Generator())
    step.loss.backward()  # type: ignore[no-untyped-call]
    assert step.part == 0
    trained = {id(w) for group in network.optimizers()[0].param_groups for w in group["params"]}
    for part in (network.encoder, network.decoder, network.encoder_of_drawn):
        assert all(id(each) in trained for each in part.parameters())
        # Of a bias before batch norm the gradient is zero, but it is there.
        assert all(each.grad is not None for each in part.parameters())
    assert not any(id(each) in trained for each in network.discriminator.parameters())


def test_the_score_is_the_l1_distance_of_latent_codes() -> None:
    normal = np.random.default_rng(0).integers(0, 255, (6, 16, 16), np.uint8)
    pixels = ks.Pixels(16, color="grey", device="cpu")
    detector = ks.GANomaly(pixels, max_epochs=1, width=4, latent_size=8).fit(normal)
    network = detector.network_
    with torch.no_grad():
        images = torch.from_numpy(normal[:, None] / np.float32(255) * 2 - 1)
        codes = network.encoder(images)
        again = network.encoder_of_drawn(network.decoder(codes))
    expected = np.abs(codes.numpy() - again.numpy()).sum(axis=1)
    np.testing.assert_allclose(detector.scores(normal), expected, rtol=1e-4)
