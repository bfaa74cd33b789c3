"""The constrained adversarial autoencoder: its losses, and what each of them changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from knnspect.detectors.reconstruction.networks.aae import AAENetwork
from knnspect.detectors.reconstruction.networks.base import Settings
from knnspect.training.network import Step


def untrained(
    adversarial_weight: float = 0.5, constraint_weight: float = 0.25, critic_steps: int = 2
) -> AAENetwork:
    torch.manual_seed(0)
    # In eval mode an image's code does not depend on the others, so that terms can be compared.
    return AAENetwork(
        (16, 16, 1), Settings(3, 4, 1e-3), adversarial_weight, constraint_weight, critic_steps
    ).eval()


def some_images() -> Tensor:
    return torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def steps_of(network: AAENetwork) -> list[Step]:
    return list(network.learn(some_images(), torch.Generator().manual_seed(2)))


def test_the_critic_has_its_steps_before_the_autoencoder() -> None:
    assert [step.part for step in steps_of(untrained(critic_steps=3))] == [1, 1, 1, 0]
    assert [step.optimizers for step in steps_of(untrained(critic_steps=1))] == [[1], [0]]


def test_the_loss_of_the_autoencoder_is_that_of_the_paper() -> None:
    network, images = untrained(), some_images()
    found = steps_of(network)[-1].loss.item()
    with torch.no_grad():
        codes = network.encoder(images)
        drawn = network.decoder(codes)
        again, told = network.encoder(drawn).numpy(), network.critic(codes).numpy().ravel()
    squares = ((images - drawn).numpy().reshape(5, -1) ** 2).sum(axis=1)
    constraint = ((codes.numpy() - again) ** 2).sum(axis=1)
    assert constraint.min() > 0
    assert found == pytest.approx(np.mean(squares - 0.5 * told + 0.25 * constraint), rel=1e-5)


def test_the_loss_of_the_critic_is_that_of_its_paper() -> None:
    network = untrained()
    linear = torch.nn.Linear(3, 1)
    network.critic = torch.nn.Sequential(linear)
    weight = linear.weight.detach().numpy().ravel()
    codes = torch.randn(6, 3, generator=torch.Generator().manual_seed(3)) + 4
    noise = torch.randn(6, 3, generator=torch.Generator().manual_seed(2)).numpy()
    found = network.critic_loss(codes, torch.Generator().manual_seed(2)).item()
    # The gradient of a linear critic is its weight, at every code.
    penalty = (np.linalg.norm(weight) - 1) ** 2
    told = (codes.numpy() @ weight).mean() - (noise @ weight).mean()
    assert found == pytest.approx(told + 10 * penalty, rel=1e-4)


def test_the_critic_learns_nothing_of_the_encoder_and_tells_codes_from_noise() -> None:
    network = untrained(critic_steps=1)
    generator = torch.Generator().manual_seed(2)
    for step in network.learn(some_images(), generator):
        if step.part == 1:
            torch.autograd.backward(step.loss)
            assert all(p.grad is None for p in network.encoder.parameters())
            assert all(p.grad is not None for p in network.critic.parameters())
    optimizer = network.optimizers()[1]
    codes = torch.randn(64, 3, generator=generator) * 0.1 + 2
    for _ in range(60):
        optimizer.zero_grad()
        torch.autograd.backward(network.critic_loss(codes, generator))
        optimizer.step()
    noise = torch.randn(64, 3, generator=generator)
    assert network.critic(noise).mean() > network.critic(codes).mean() + 0.5


def test_the_constraint_teaches_encoder_and_decoder() -> None:
    gradients = []
    for weight in (0.0, 0.25):
        network = untrained(0.0, weight, 1)
        torch.autograd.backward(steps_of(network)[-1].loss)
        gradients.append([network.encoder.head.weight.grad, network.decoder.first.weight.grad])
    images, codes = some_images(), network.encoder(some_images())
    constraint = (codes - network.encoder(network.draw(images))).square().sum(dim=1).mean()
    weights: list[Any] = [network.encoder.head.weight, network.decoder.first.weight]
    for without, having, alone in zip(
        *gradients, torch.autograd.grad(constraint, weights), strict=True
    ):
        assert alone.abs().max() > 0
        torch.testing.assert_close(having - without, 0.25 * alone, rtol=1e-3, atol=1e-4)


def test_the_score_is_the_mean_of_the_map() -> None:
    network, images = untrained(), some_images()
    with torch.no_grad():
        drawn = network.draw(images)
    difference = np.abs(images.numpy() - drawn.numpy())
    np.testing.assert_allclose(network.residuals(images, drawn), difference[:, 0], rtol=1e-6)
    np.testing.assert_allclose(
        network.scores(images, drawn), difference.mean(axis=(1, 2, 3)), rtol=1e-5
    )
