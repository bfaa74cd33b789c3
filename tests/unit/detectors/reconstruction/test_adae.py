"""ADAE: its two losses, the margin of one, what each step trains, and its score."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import knnspect as ks
from knnspect.detectors.reconstruction.networks.adae import ADAENetwork
from knnspect.detectors.reconstruction.networks.base import Settings, variance


def make_network(margin: float = 0.1) -> ADAENetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ADAENetwork((16, 16, 1), Settings(8, 4, 1e-3), margin)


def some_images(n_images: int = 4) -> torch.Tensor:
    return torch.rand(n_images, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def mean_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float(np.abs(ours.numpy() - theirs.numpy()).mean())


@pytest.mark.parametrize(("margin", "is_reached"), [(0.1, True), (1e3, False)])
def test_drawn_images_count_up_to_the_margin(margin: float, is_reached: bool) -> None:
    network = make_network(margin).eval()
    network.deviation.fill_(0.5)
    images = some_images()
    with torch.no_grad():
        drawn = network.generator(images)
        found = float(network.discriminator_loss(images, drawn))
        real = mean_difference(images, network.discriminator(images))
        fake = mean_difference(drawn, network.discriminator(drawn))
    assert (fake > margin * 0.5) == is_reached, "else the case says nothing"
    assert found == pytest.approx(real - min(fake, margin * 0.5), rel=1e-5)


def test_beyond_the_margin_nothing_is_gained_by_drawing_drawn_images_badly() -> None:
    network = make_network(1e-6).eval()
    images = some_images()
    network.discriminator_loss(images, torch.zeros_like(images)).backward()  # type: ignore[no-untyped-call]
    found = [
        each.grad.clone() for each in network.discriminator.parameters() if each.grad is not None
    ]
    network.zero_grad()
    real = (images - network.discriminator(images)).abs().mean()
    real.backward()
    expected = [each.grad for each in network.discriminator.parameters()]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_generator_loss_is_that_of_the_paper() -> None:
    network = make_network()
    first, second = network.learn(some_images(), torch.Generator())
    assert (first.part, second.part) == (1, 0)
    images = some_images()
    with torch.no_grad():
        drawn = network.generator(images)
        again = network.discriminator(drawn)
    expected = mean_difference(images, drawn) + mean_difference(drawn, again)
    assert float(second.loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_discriminator_step_reaches_no_weight_of_the_generator() -> None:
    network = make_network()
    step = next(network.learn(some_images(), torch.Generator()))
    step.loss.backward()  # type: ignore[no-untyped-call]
    assert all(each.grad is None for each in network.generator.parameters())
    assert all(each.grad is not None for each in network.discriminator.parameters())


def test_the_margin_is_in_standard_deviations_of_the_images_learnt() -> None:
    normal = np.random.default_rng(0).integers(0, 255, (6, 16, 16), np.uint8)
    pixels = ks.Pixels(16, color="grey", device="cpu")
    detector = ks.ADAE(pixels, max_epochs=1, width=4, latent_size=8, validation_fraction=0.01)
    detector.fit(normal)
    values = normal / 255.0 * 2 - 1
    without_one = [np.delete(values, index, axis=0).std(axis=0) for index in range(6)]
    # One image, whichever, is held out.
    expected = [np.sqrt(np.mean(each**2)) for each in without_one]
    found = float(detector.network_.deviation)
    assert min(abs(found - each) for each in expected) < 1e-5


def test_the_score_is_the_l2_distance_of_the_image_and_what_both_make_of_it() -> None:
    normal = np.random.default_rng(0).integers(0, 255, (6, 16, 16), np.uint8)
    pixels = ks.Pixels(16, color="grey", device="cpu")
    detector = ks.ADAE(pixels, max_epochs=1, width=4, latent_size=8).fit(normal)
    images = normal / np.float32(255) * 2 - 1
    drawn = detector.reconstruct(normal)[..., 0] * 2 - 1
    expected = np.sqrt(((images - drawn) ** 2).sum(axis=(1, 2)))
    np.testing.assert_allclose(detector.scores(normal), expected, rtol=1e-4)


def test_the_variance_of_batches_is_that_of_all_images() -> None:
    images = some_images(7)
    found = variance([images[:3], images[3:]])
    assert float(found) == pytest.approx(float(np.var(images.numpy(), axis=0).mean()), rel=1e-5)
