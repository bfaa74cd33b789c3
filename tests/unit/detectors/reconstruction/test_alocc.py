"""ALOCC: its losses, what each step trains, when training stops, and its scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import knnspect as ks
from knnspect.detectors.reconstruction.networks.alocc import ALOCCNetwork
from knnspect.detectors.reconstruction.networks.base import Settings

NORMAL = np.random.default_rng(0).integers(0, 255, (6, 16, 16), np.uint8)


def make_network(weight: float = 0.4, noise: float = 0.155) -> ALOCCNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ALOCCNetwork((16, 16, 1), Settings(8, 4, 1e-3), weight, noise, "drawn", 0.1)


def some_images(n_images: int = 4) -> torch.Tensor:
    return torch.rand(n_images, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def make_detector(**parameters: Any) -> ks.ALOCC:
    pixels = ks.Pixels(16, color="grey", device="cpu")
    given = {"max_epochs": 2, "width": 4, "latent_size": 8, **parameters}
    return ks.ALOCC(pixels, **given)


def test_the_reconstructor_loss_is_cross_entropy_and_the_weighted_share_of_the_variance() -> None:
    network = make_network(weight=3.0).eval()
    network.variance.fill_(0.25)
    images = some_images()
    with torch.no_grad():
        drawn = network.draw(images)
        found = float(network.reconstructor_loss(images, drawn))
        logits = network.discriminator(drawn).double().numpy()
    squared = np.mean((images.numpy() - drawn.numpy()) ** 2)
    expected = np.mean(-np.log(1 / (1 + np.exp(-logits)))) + 3 * squared / 0.25
    assert found == pytest.approx(expected, rel=1e-5)


def test_noise_is_on_what_is_drawn_in_training_and_comes_from_the_generator_given() -> None:
    images = some_images()
    losses = [
        float(next(make_network(noise=noise).learn(images, generator)).loss.detach())
        for noise, generator in [
            (0.3, torch.Generator().manual_seed(1)),
            (0.3, torch.Generator().manual_seed(1)),
            (0.3, torch.Generator().manual_seed(2)),
            (0.0, torch.Generator().manual_seed(1)),
            (0.0, torch.Generator().manual_seed(2)),
        ]
    ]
    assert losses[0] == losses[1]
    assert losses[3] == losses[4]
    assert len(set(losses)) == 3


def test_each_step_reaches_what_it_trains() -> None:
    network = make_network()
    steps = network.learn(some_images(), torch.Generator())
    first = next(steps)
    first.loss.backward()  # type: ignore[no-untyped-call]
    reconstructor = [*network.encoder.parameters(), *network.decoder.parameters()]
    assert first.part == 1
    assert all(each.grad is None for each in reconstructor)
    assert all(each.grad is not None for each in network.discriminator.parameters())
    second = next(steps)
    second.loss.backward()  # type: ignore[no-untyped-call]
    assert second.part == 0
    assert all(each.grad is not None for each in reconstructor)


def test_training_stops_as_soon_as_reconstruction_is_good_enough() -> None:
    assert len(make_detector(enough=1e6, max_epochs=4).fit(NORMAL).history_) == 1
    assert len(make_detector(enough=0.0, max_epochs=4).fit(NORMAL).history_) == 4


def test_the_loss_of_images_held_out_is_their_squared_residual_as_a_share_of_the_variance() -> None:
    detector = make_detector(patience=None).fit(NORMAL)
    images = NORMAL / 255.0 * 2 - 1
    drawn = detector.reconstruct(NORMAL)[..., 0] * 2 - 1
    shares = ((images - drawn) ** 2).mean(axis=(1, 2)) / float(detector.network_.variance)
    # One image, whichever, is held out.
    found = detector.history_[-1]["held_out_loss"]
    assert min(abs(shares - found)) < 1e-5


@pytest.mark.parametrize("judged", ["drawn", "image"])
def test_the_score_is_what_the_discriminator_lacks_to_one(judged: str) -> None:
    detector = make_detector(judged=judged).fit(NORMAL)
    images = torch.from_numpy(NORMAL[:, None] / np.float32(255) * 2 - 1)
    network = detector.network_
    with torch.no_grad():
        given = network.draw(images) if judged == "drawn" else images
        logits = network.discriminator(given).double().numpy()
    expected = 1 - 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(detector.scores(NORMAL), expected, rtol=1e-4)
    other = make_detector(judged="image" if judged == "drawn" else "drawn").fit(NORMAL)
    np.testing.assert_array_equal(
        other.set_params(judged=judged).scores(NORMAL), detector.scores(NORMAL)
    )
