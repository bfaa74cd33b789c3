"""f-AnoGAN: a Wasserstein GAN with gradient penalty, then an encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call, jacrev, vmap

import knnspect as ks
from knnspect.detectors.reconstruction.networks.base import Settings
from knnspect.detectors.reconstruction.networks.f_anogan import FAnoGANNetwork

SHAPE, SETTINGS = (16, 20, 1), Settings(latent_size=6, width=4, learning_rate=1e-2)


def network(encoder_training: Any = "izif") -> Any:
    torch.manual_seed(0)
    return FAnoGANNetwork(SHAPE, SETTINGS, encoder_training).train()


def images(n: int = 5) -> torch.Tensor:
    return torch.rand(n, 1, 16, 20, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_the_critic_learns_a_distance_with_a_penalty_of_its_gradient() -> None:
    made, real = network(), images()
    drawn = images().flip(0) * 0.5
    loss = made._critic_loss(real, drawn, torch.Generator().manual_seed(7))
    # By the Jacobian of each image alone, of a critic without state.
    shares = torch.rand(5, generator=torch.Generator().manual_seed(7)).reshape(5, 1, 1, 1)
    between = shares * real + (1 - shares) * drawn
    weights = dict(made.critic.named_parameters())

    def answer(image: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = functional_call(made.critic, weights, (image[None],))[0]
        return found

    norms = vmap(jacrev(answer))(between).flatten(1).norm(dim=1)
    expected = 10 * ((norms - 1) ** 2).mean()
    expected = expected - made.critic(real).mean() + made.critic(drawn).mean()
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    by_hand = torch.autograd.grad(expected, list(weights.values()), allow_unused=True)
    for ours, theirs in zip(gradients, by_hand, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


def test_the_critic_takes_five_steps_for_one_of_the_generator_and_then_the_encoder_learns() -> None:
    made, generator = network(), torch.Generator()
    others = {0: [made.critic, made.encoder], 1: [made.decoder, made.encoder]}
    others[2] = [made.decoder, made.critic]
    parts = []
    for made.done in (0.0, 0.49, 0.5, 0.99):
        for step in made.learn(images(), generator):
            parts.append(step.part)
            made.zero_grad()
            step.loss.backward()
            for module in others[step.part]:
                assert all(value.grad is None for value in module.parameters())
    assert parts == [1, 1, 1, 1, 1, 0] * 2 + [2, 2]


def test_the_generator_is_as_it_was_while_the_encoder_learns() -> None:
    made = network()
    made.done = 0.5
    statistics = [value.clone() for value in made.decoder.buffers()]
    list(made.learn(images(), torch.Generator()))
    assert statistics, "it has batch normalization"
    assert all(map(torch.equal, statistics, made.decoder.buffers()))


def test_encoders_learn_by_what_was_chosen() -> None:
    x = images()
    for training in ("izif", "izi", "ziz"):
        made = network(training).eval()
        with torch.no_grad():
            loss = made._encoder_loss(x, torch.Generator().manual_seed(1)).item()
            drawn = made.decoder(made.encoder(x))
            pixels = ((x - drawn).numpy() ** 2).mean()
            features = made.critic.features(x) - made.critic.features(drawn)
            z = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
            codes = (z - made.encoder(made.decoder(z))).numpy()
        expected = {"izi": pixels, "izif": pixels + (features.numpy() ** 2).mean()}
        expected["ziz"] = (codes**2).mean()
        assert loss == pytest.approx(expected[training], rel=1e-5)


def test_the_score_is_what_izif_learns_by() -> None:
    made, x = network().eval(), images()
    with torch.no_grad():
        drawn = made.draw(x)
        scores = made.scores(x, drawn).numpy()
        features = (made.critic.features(x) - made.critic.features(drawn)).numpy()
    pixels = (x - drawn).numpy().reshape(5, -1)
    expected = (pixels**2).mean(axis=1) + (features**2).mean(axis=1)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_the_weights_of_the_first_half_are_never_the_best() -> None:
    normal = np.random.default_rng(0).integers(90, 130, (6, 16, 16), np.uint8)
    pixels = ks.Pixels(16, color="grey", device="cpu")
    detector = ks.FAnoGAN(pixels, width=4, latent_size=4, max_epochs=8, patience=1).fit(normal)
    assert detector.best_epoch_ > 4
    assert [set(entry) & {"critic", "encoder"} for entry in detector.history_[3:5]] == [
        {"critic"},
        {"encoder"},
    ]
