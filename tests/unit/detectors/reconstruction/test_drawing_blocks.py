"""Blocks and losses that methods share."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from knnspect.detectors.reconstruction.networks.base import augmented
from knnspect.detectors.reconstruction.networks.blocks import (
    Decoder,
    Discriminator,
    Encoder,
    JointDiscriminator,
    Kind,
    Trunk,
    dcgan_weights_,
    mlp,
)
from knnspect.detectors.reconstruction.networks.losses import (
    as_fake,
    as_real,
    feature_distance,
    gradient_penalty,
    kl_to_standard_normal,
    r1_penalty,
    ssim,
)

KINDS = [Kind(n, s, r) for n, s, r in product(("batch", "layer", "none"), (0, 1), (0, 1))]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", [(28, 28, 1), (100, 72, 3), (16, 16, 3)], ids=str)
def test_images_become_codes_and_codes_images(kind: Kind, shape: tuple[int, int, int]) -> None:
    height, width, channels = shape
    images = torch.rand(2, channels, height, width) * 2 - 1
    codes = Encoder(shape, 5, 4, kind)(images)
    assert codes.shape == (2, 5)
    drawn = Decoder(shape, 5, 4, kind)(codes)
    assert drawn.shape == images.shape
    assert drawn.abs().max() <= 1
    judge = Discriminator(shape, 4, kind)
    assert judge(images).shape == (2,)
    assert judge.features(images).shape == (2, judge.trunk.n_features)
    joint = JointDiscriminator(shape, 5, 4, hidden=7, kind=kind)
    assert joint(images, codes).shape == (2,)
    assert joint.features(images, codes).shape == (2, 7)


def test_halvings_can_be_fewer() -> None:
    trunk = Trunk((64, 48, 3), 4, halvings=2)
    assert (trunk.grid, trunk.channels) == ((16, 12), 8)
    assert trunk(torch.zeros(1, 3, 64, 48)).shape == (1, 8, 16, 12)


def test_a_spectral_norm_is_one() -> None:
    torch.manual_seed(0)
    network = mlp(20, 30, 1, kind=Kind("none", is_spectral=True))
    network.train()
    for _ in range(50):
        network(torch.zeros(1, 20))
    layer: Any = network[0]
    assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1, abs=0.01)


def test_weights_of_dcgan_are_small() -> None:
    network = Discriminator((64, 64, 3), 32)
    dcgan_weights_(network)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == 4
    assert all(abs(layer.weight.std().item() - 0.02) < 0.002 for layer in layers)


def test_cross_entropies_are_those_of_pytorch() -> None:
    logits = torch.linspace(-3, 3, 7)
    reference = nn.functional.binary_cross_entropy_with_logits
    assert torch.isclose(as_real(logits), reference(logits, torch.ones(7)))
    assert torch.isclose(as_fake(logits), reference(logits, torch.zeros(7)))
    assert feature_distance(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]])) == 2.5


def test_the_gradient_penalty_is_that_of_autograd() -> None:
    # The gradient of w * |x|^2 / 2 is w * x.
    weight = torch.tensor(0.7, requires_grad=True)
    real, fake = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    penalty = gradient_penalty(
        lambda x: weight * x.square().flatten(1).sum(1) / 2, real, fake, seeded(5)
    )
    shares = torch.rand(4, generator=seeded(5))[:, None, None, None]
    norms = (0.7 * (shares * real + (1 - shares) * fake)).flatten(1).norm(dim=1)
    assert torch.isclose(penalty, (norms - 1).square().mean())
    penalty.backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    expected = (2 * (norms - 1) * norms / 0.7).mean()
    assert torch.isclose(weight.grad, expected)


def test_the_r1_penalty_is_that_of_autograd() -> None:
    weight = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
    real = torch.randn(6, 2)
    penalty = r1_penalty(lambda x: (x @ weight).square().sum(1), real)
    gradient = 2 * real @ weight @ weight.T
    assert torch.isclose(penalty, gradient.square().sum(1).mean())
    penalty.backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_the_divergence_is_that_of_pytorch() -> None:
    mean, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    ours = torch.distributions.Normal(mean, (log_variance / 2).exp())
    normal = torch.distributions.Normal(torch.zeros(3), torch.ones(3))
    expected = torch.distributions.kl_divergence(ours, normal).sum(1)
    assert torch.allclose(kl_to_standard_normal(mean, log_variance), expected, atol=1e-5)


def test_ssim_is_that_of_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(0)
    one = rng.random((40, 50))
    other = np.clip(one + rng.normal(0, 0.1, one.shape), 0, 1)
    _, expected = metrics.structural_similarity(
        one,
        other,
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        win_size=11,
        use_sample_covariance=False,
        full=True,
    )
    tensors = (torch.from_numpy(image[None, None]) for image in (one, other))
    found = ssim(*tensors)[0, 0].numpy()
    # Border pixels go on in another way there.
    np.testing.assert_allclose(found[5:-5, 5:-5], expected[5:-5, 5:-5], atol=1e-5)
    same = torch.from_numpy(one[None, None])
    assert torch.allclose(ssim(same, same), torch.ones_like(same))


def test_ssim_is_taken_in_float32_while_a_network_is_trained_in_bfloat16() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (0.5 + 0.02 * torch.rand(2, 1, 20, 20, generator=generator) for _ in range(2))
    expected = ssim(ours, theirs)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ssim(ours, theirs), expected)


def test_augmented_images_are_turned_and_shifted_a_little() -> None:
    image = torch.zeros(1, 1, 64, 64)
    image[..., 20:40, 25:30] = 1
    many = augmented(image.expand(50, 1, 64, 64), seeded(0))
    rows = torch.arange(64.0)
    middles = (many.sum((1, 3)) @ rows) / many.sum((1, 2, 3))
    away = (middles - 29.5).abs()
    # 4 % of 64 px, and a little more by turning about the middle of the image.
    assert 1 < away.max() < 3.5
    assert middles.std() > 0.8
    assert torch.equal(many, augmented(image.expand(50, 1, 64, 64), seeded(0)))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
