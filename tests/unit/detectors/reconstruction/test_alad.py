"""ALAD: three discriminators of pairs, four scores, weights that are averaged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import knnspect as ks
from knnspect.detectors.reconstruction.networks.alad import ALADNetwork
from knnspect.detectors.reconstruction.networks.base import Settings

SHAPE, SETTINGS = (16, 20, 1), Settings(latent_size=6, width=4, learning_rate=1e-2)


@pytest.fixture
def network() -> Any:
    torch.manual_seed(0)
    return ALADNetwork(SHAPE, SETTINGS, "features").train()


def images(n: int) -> torch.Tensor:
    return torch.rand(n, 1, 16, 20, generator=torch.Generator().manual_seed(3)) * 2 - 1


def trained(network: Any, n_steps: int) -> Any:
    optimizers, generator = network.optimizers(), torch.Generator().manual_seed(1)
    for _ in range(n_steps):
        for step in network.learn(images(8), generator):
            optimizers[step.part].zero_grad()
            step.loss.backward()
            optimizers[step.part].step()
    return network


def test_each_score_is_the_papers(network: Any) -> None:
    trained(network, 2).eval()
    of_images = network.average.module.of_images
    with torch.no_grad():
        x = images(5)
        drawn = network.draw(x)
        same = of_images.features(torch.cat([x, x], 1)).numpy()
        other = of_images.features(torch.cat([x, drawn], 1)).numpy()
        logits = of_images(torch.cat([x, drawn], 1)).numpy()
        difference = (x - drawn).numpy().reshape(5, -1)
        expected = {
            "features": np.abs(same - other).sum(1),
            "l1": np.abs(difference).sum(1),
            "l2": np.sqrt((difference**2).sum(1)),
            "logits": -np.log(1 / (1 + np.exp(-logits))),
        }
        for network.judged_by, scores in expected.items():
            np.testing.assert_allclose(network.scores(x, drawn).numpy(), scores, rtol=1e-5)


def test_discriminators_are_to_tell_apart_what_the_others_are_to_make_alike(
    network: Any,
) -> None:
    x, generator = images(8), torch.Generator().manual_seed(1)
    z = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    now = network.learning
    with torch.no_grad():
        encoded, drawn = now.encoder(x), now.decoder(z)
        redrawn, reencoded = now.decoder(encoded), now.encoder(drawn)
    steps = network.learn(x, generator)
    told_apart = next(steps)
    network.eval()  # spectral norms stay as they are

    def answers(discriminator: Any, *pair: torch.Tensor) -> NDArray[np.float32]:
        joined = pair if discriminator is network.of_both else (torch.cat(pair, 1),)
        with torch.no_grad():
            found: NDArray[np.float32] = discriminator(*joined).numpy().ravel()
        return found

    real = [(network.of_both, x, encoded), (now.of_images, x, x), (network.of_codes, z, z)]
    fake = [
        (network.of_both, drawn, z),
        (now.of_images, x, redrawn),
        (network.of_codes, z, reencoded),
    ]
    by_hand = sum(np.log1p(np.exp(-answers(*pair))).mean() for pair in real)
    by_hand += sum(np.log1p(np.exp(answers(*pair))).mean() for pair in fake)
    # The power iteration of spectral norms goes on with each forward pass of a training.
    assert told_apart.loss.item() == pytest.approx(by_hand, rel=0.02)
    assert told_apart.part == 1
    made_alike = next(steps)
    by_hand = np.log1p(np.exp(answers(*real[0]))).mean()
    by_hand += sum(np.log1p(np.exp(-answers(*pair))).mean() for pair in fake)
    assert made_alike.loss.item() == pytest.approx(by_hand, rel=0.02)
    assert made_alike.part == 0


def test_no_gradient_reaches_the_others(network: Any) -> None:
    now = network.learning
    discriminators: list[nn.Module] = [network.of_both, now.of_images, network.of_codes]
    makers: list[nn.Module] = [now.encoder, now.decoder]
    others = {1: makers, 0: discriminators}
    for step in network.learn(images(4), torch.Generator()):
        network.zero_grad()
        step.loss.backward()
        for module in others[step.part]:
            assert all(value.grad is None for value in module.parameters())
        for module in others[1 - step.part]:
            assert all(value.grad is not None for value in module.parameters())


def test_discriminators_have_a_spectral_norm_of_one(network: Any) -> None:
    trained(network, 30).eval()
    norms = [
        torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item()
        for module in (network.of_both, network.learning.of_images, network.of_codes)
        for layer in module.modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    assert len(norms) == 12
    np.testing.assert_allclose(norms, 1, atol=0.15)


def test_weights_that_judge_are_an_average_of_those_that_learn(network: Any) -> None:
    learning = network.learning.encoder.head.weight
    average = network.average.module.encoder.head.weight
    assert torch.equal(learning, average)
    seen = []
    for _ in range(3):
        trained(network, 1)
        seen.append(learning.detach().clone())
    # The first is a copy; then the old one's share grows from 2 / 11.
    second = 2 / 11 * seen[0] + 9 / 11 * seen[1]
    expected = 3 / 12 * second + 9 / 12 * seen[2]
    torch.testing.assert_close(average.detach(), expected)


def test_what_scores_are_may_be_chosen_anew_for_a_model() -> None:
    rng = np.random.default_rng(0)
    normal = rng.integers(90, 130, (6, 16, 16), np.uint8)
    pixels = ks.Pixels(16, color="grey", device="cpu")
    detector = ks.ALAD(pixels, width=4, latent_size=4, max_epochs=1).fit(normal)
    by_features = detector.scores(normal[:2])
    residual = np.abs(detector.reconstruct(normal[:2])[..., 0] - normal[:2] / 255)
    by_pixels = detector.set_params(judged_by="l1").scores(normal[:2])
    # The network's values go from -1 to 1, those of pixels from 0 to 1.
    np.testing.assert_allclose(by_pixels, 2 * residual.sum(axis=(1, 2)), rtol=1e-4)
    assert not np.allclose(by_features, by_pixels)
