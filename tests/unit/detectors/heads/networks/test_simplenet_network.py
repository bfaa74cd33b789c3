"""SimpleNet's parts: the adaptor, the discriminator, the loss, and what is made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import leaky_relu

import knnspect as ks
from knnspect.detectors.heads.networks.simplenet import (
    Adaptor,
    Discriminator,
    SimpleNetNetwork,
    hinge_loss,
)

SHAPES = [(8, 6, 5), (4, 3, 7)]


def pyramid(n_images: int, seed: int = 0) -> ks.FeaturePyramid:
    rng = np.random.default_rng(seed)
    scales = ((3, 100), (0.01, 2))
    return ks.FeaturePyramid(
        [
            (rng.normal(size=(n_images, *shape)) * scale + offset).astype(np.float32)
            for shape, (scale, offset) in zip(SHAPES, scales, strict=True)
        ]
    )


def network(noise: float = 1.0, hidden: int = 32) -> SimpleNetNetwork:
    torch.manual_seed(0)
    return SimpleNetNetwork(SHAPES, "bilinear", hidden, noise, 0.5, 2e-3)


def trained(network: SimpleNetNetwork, n_steps: int) -> list[float]:
    network.prepare(iter([pyramid(20)]))
    optimizers = network.optimizers()
    generator = torch.Generator().manual_seed(0)
    losses: list[float] = []
    while len(losses) < n_steps:
        for step in network.steps(pyramid(20, len(losses)), generator):
            for index in step.optimizers:
                optimizers[index].zero_grad()
            step.loss.backward()  # type: ignore[no-untyped-call]
            for index in step.optimizers:
                optimizers[index].step()
            losses.append(float(step.loss.detach()))
    network.eval()
    return losses


def test_the_adaptor_begins_near_the_identity() -> None:
    torch.manual_seed(0)
    adaptor = Adaptor(176)
    difference = adaptor.weight.detach() - torch.eye(176)
    assert 0 < difference.abs().max() < 0.1
    assert torch.linalg.matrix_norm(difference, 2) < 0.5
    assert not adaptor.bias.any()
    assert adaptor.weight.requires_grad


def test_the_discriminator_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    discriminator, features = Discriminator(12, 7).eval(), torch.randn(5, 12)
    parameters = dict(discriminator.named_parameters())
    assert {name: tuple(value.shape) for name, value in parameters.items()} == {
        "linear.weight": (7, 12),
        "linear.bias": (7,),
        "norm.weight": (7,),
        "norm.bias": (7,),
        "output.weight": (1, 7),
    }
    hidden = features @ parameters["linear.weight"].T + parameters["linear.bias"]
    hidden = leaky_relu(hidden / (1 + discriminator.norm.eps) ** 0.5, 0.2)
    expected = (hidden @ parameters["output.weight"].T)[:, 0]
    torch.testing.assert_close(discriminator(features), expected)


@pytest.mark.parametrize(
    ("normal", "noisy", "margin", "loss"),
    [
        ([0.5, 2.0], [-0.5, -9.0], 0.5, 0.0),
        ([0.49], [-0.5], 0.5, 0.01),
        ([0.5], [-0.49], 0.5, 0.01),
        ([-0.5], [0.5], 0.5, 2.0),
        ([0.0, 1.0], [0.0, -1.0], 0.5, 0.5),
        ([0.0], [0.0], 0.8, 1.6),
    ],
)
def test_the_loss_is_what_lies_within_the_margins(
    normal: list[float], noisy: list[float], margin: float, loss: float
) -> None:
    found = hinge_loss(torch.tensor(normal), torch.tensor(noisy), margin)
    assert float(found) == pytest.approx(loss, abs=1e-6)


class TestNetwork:
    def test_tells_noise_of_the_size_that_it_was_trained_with(self) -> None:
        net = network(noise=1.5)
        losses = trained(net, 500)
        assert np.mean(losses[:5]) > 0.8
        assert np.mean(losses[-20:]) < 0.5
        clean = pyramid(10, seed=99)
        rng = np.random.default_rng(5)
        noisy = [
            (level + 1.5 * level.std() * rng.normal(size=level.shape)).astype(np.float32)
            for level in clean.levels
        ]
        normal = np.concatenate([net.cell_scores(clean[i]) for i in range(10)]).ravel()
        odd = ks.FeaturePyramid(noisy)
        strange = np.concatenate([net.cell_scores(odd[i]) for i in range(10)]).ravel()
        higher = (strange[:, None] > normal).mean()
        assert higher > 0.8

    def test_does_not_tell_noise_that_is_far_smaller(self) -> None:
        net = network(noise=1e-4)
        assert np.mean(trained(net, 60)[-20:]) > 0.8

    def test_one_layer_is_the_same_as_all_that_it_stands_for(self) -> None:
        net = network()
        trained(net, 40)
        image = pyramid(1, seed=3)
        rows = torch.from_numpy(image.concatenated().reshape(48, 12))
        with torch.no_grad():
            standardized = (rows - net.mean) / net.deviation
            expected = -net.discriminator(net.adaptor(standardized))
        torch.testing.assert_close(net._judged(image), expected, rtol=1e-3, atol=1e-3)

    def test_scores_begin_at_the_lowest_of_the_normal_images(self) -> None:
        net = network()
        trained(net, 20)
        images = pyramid(7)
        net.calibrate(iter([images[0], images[1]]))
        first, second = net.cell_scores(images[0]), net.cell_scores(images[1])
        assert min(first.min(), second.min()) == 0
        assert first.shape == (8, 6)
        net.lowest.fill_(10.0)
        assert not net.cell_scores(images[0]).any()

    def test_the_loss_of_images_held_out_does_not_vary(self) -> None:
        net = network()
        trained(net, 20)
        image = pyramid(1, seed=8)
        assert net.held_out_losses(image) == net.held_out_losses(image)
