"""ALAE: its losses, what each of its three steps trains, and its score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import knnspect as ks
from knnspect.detectors.reconstruction.networks.alae import ALAENetwork
from knnspect.detectors.reconstruction.networks.base import Settings

NORMAL = np.random.default_rng(0).integers(0, 255, (6, 16, 16), np.uint8)


def make_network(gamma: float = 10.0, image_weight: float = 10.0) -> ALAENetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ALAENetwork((16, 16, 1), Settings(8, 4, 1e-3), gamma, image_weight, 0.1)


def some_images(n_images: int = 4) -> torch.Tensor:
    return torch.rand(n_images, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def some_noise(n_images: int = 4) -> torch.Tensor:
    return torch.randn(n_images, 8, generator=torch.Generator().manual_seed(2))


def reached(network: nn.Module) -> bool:
    """Return whether any weight has a gradient that is not zero."""
    return any(each.grad is not None and bool(each.grad.any()) for each in network.parameters())


def test_the_discriminator_loss_has_the_penalty_of_the_gradient_at_real_images() -> None:
    network, images, noise = make_network(gamma=10.0), some_images(), some_noise()
    found = float(network.discriminator_loss(images, noise).detach())
    with torch.no_grad():
        drawn = network.generator(network.mapping(noise))
        fake, real = (
            network.discriminator(network.encoder(each))[:, 0].double().numpy()
            for each in (drawn, images)
        )
    norms = []
    for image in images:
        alone = image[None].clone().requires_grad_()
        network.discriminator(network.encoder(alone)).sum().backward()
        assert alone.grad is not None
        norms.append(float(alone.grad.square().sum()))
    expected = np.mean(np.log1p(np.exp(fake)) + np.log1p(np.exp(-real))) + 5 * np.mean(norms)
    assert found == pytest.approx(expected, rel=1e-5)


def test_reciprocity_is_the_distance_of_codes_and_of_images_as_weighted() -> None:
    images, noise = some_images(), some_noise()
    network = make_network(image_weight=7.0)
    with torch.no_grad():
        codes = network.mapping(noise)
        again = network.encoder(network.generator(codes))
        drawn = network.generator(network.encoder(images))
        found = float(network.reciprocity_loss(images, noise))
        by_the_paper = float(make_network(image_weight=0.0).reciprocity_loss(images, noise))
    of_codes = np.mean((codes.numpy() - again.numpy()) ** 2)
    of_images = np.mean(np.abs(images.numpy() - drawn.numpy()))
    assert found == pytest.approx(of_codes + 7 * of_images, rel=1e-5)
    assert by_the_paper == pytest.approx(of_codes, rel=1e-5)


def test_each_step_reaches_what_it_trains() -> None:
    network = make_network()
    steps = network.learn(some_images(), torch.Generator())
    first = next(steps)
    first.loss.backward()  # type: ignore[no-untyped-call]
    assert (first.part, list(first.optimizers)) == (1, [1])
    assert not reached(network.mapping), "the discriminator's step trains F"
    assert not reached(network.generator), "the discriminator's step trains G"
    assert reached(network.encoder)
    assert reached(network.discriminator)
    second = next(steps)
    second.loss.backward()  # type: ignore[no-untyped-call]
    assert (second.part, list(second.optimizers)) == (0, [0])
    assert reached(network.mapping)
    assert reached(network.generator)
    network.zero_grad()
    third = next(steps)
    third.loss.backward()  # type: ignore[no-untyped-call]
    assert (third.part, list(third.optimizers)) == (0, [0, 1])
    assert reached(network.encoder)
    assert reached(network.generator)
    assert not reached(network.mapping), "reciprocity trains F"
    assert not reached(network.discriminator), "reciprocity trains D"


def test_all_weights_are_trained() -> None:
    network = make_network()
    trained = {
        id(weight)
        for optimizer in network.optimizers()
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    assert trained == {id(weight) for weight in network.parameters()}


def test_the_score_adds_the_residual_and_the_weighted_distance_of_codes() -> None:
    pixels = ks.Pixels(16, color="grey", device="cpu")
    detector = ks.ALAE(pixels, max_epochs=1, width=4, latent_size=8, latent_weight=0.7)
    detector.fit(NORMAL)
    network = detector.network_
    with torch.no_grad():
        images = torch.from_numpy(NORMAL[:, None] / np.float32(255) * 2 - 1)
        codes = network.encoder(images)
        drawn = network.generator(codes)
        again = network.encoder(drawn)
    residual = np.sqrt(((images.numpy() - drawn.numpy()) ** 2).mean(axis=(1, 2, 3)))
    distance = np.sqrt(((codes.numpy() - again.numpy()) ** 2).mean(axis=1))
    without_one = [np.delete(codes.numpy(), index, axis=0).std(axis=0) for index in range(6)]
    # One image, whichever, is held out: its code does not count for the scale.
    deviations = [np.sqrt(np.mean(each**2)) for each in without_one]
    errors = [
        np.abs(detector.scores(NORMAL) - (residual + 0.7 * distance / each)).max()
        for each in deviations
    ]
    assert min(errors) < 1e-4
