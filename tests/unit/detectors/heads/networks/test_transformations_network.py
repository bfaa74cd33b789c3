"""Shifts of features: their likelihoods, and the map by which they are told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

import knnspect as ks
from knnspect.detectors.heads.networks.transformations import TransformationsNetwork, surprise

SHAPES = [(8, 6, 5), (4, 3, 7)]
#: Normal features vary in four directions alone, and little in others.
MIXED = np.random.default_rng(42).normal(size=(4, 12))


def pyramid(n_images: int, seed: int = 0) -> ks.FeaturePyramid:
    rng = np.random.default_rng(seed)
    few = rng.normal(size=(n_images, 4, 3, 4)) @ MIXED + 0.1 * rng.normal(size=(n_images, 4, 3, 12))
    fine = np.repeat(np.repeat(few[..., :5], 2, axis=1), 2, axis=2) * 3 + 100
    return ks.FeaturePyramid([fine.astype(np.float32), few[..., 5:].astype(np.float32)])


def trained(n_epochs: int = 60) -> tuple[TransformationsNetwork, list[float]]:
    torch.manual_seed(0)
    net = TransformationsNetwork(SHAPES, "block", 6, 0.1, 5, 5e-2)
    net.prepare(iter([pyramid(20)]))
    shifts = net.shifts.clone()
    (optimizer,) = net.optimizers()
    generator, losses = torch.Generator().manual_seed(0), []
    for epoch in range(n_epochs):
        for step in net.steps(pyramid(20, epoch), generator):
            optimizer.zero_grad()
            step.loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(step.loss.detach()))
    net.eval()
    assert torch.equal(net.shifts, shifts)
    return net, losses


@pytest.fixture(scope="module")
def both() -> tuple[TransformationsNetwork, list[float]]:
    return trained()


def by_numpy(net: TransformationsNetwork, image: ks.FeaturePyramid) -> Any:
    """Minus the logarithm of the likelihood of each right shift, summed, from the equations."""
    cells = image.concatenated("block").reshape(-1, 12).astype(np.float64)
    cells = (cells - net.mean.numpy()) / net.deviation.numpy()
    matrix, shifts = (net.map.detach().double().numpy(), net.shifts.double().numpy())
    centers, total = shifts @ matrix, np.zeros(len(cells))
    for place, shift in enumerate(shifts):
        seen = (cells + shift) @ matrix
        sq_distances = np.square(seen[:, None] - centers).sum(axis=2)
        total -= log_softmax(-sq_distances, axis=1)[:, place]
    return total


def test_scores_are_minus_the_likelihoods_of_the_right_shifts(
    both: tuple[TransformationsNetwork, list[float]],
) -> None:
    net, image = both[0], pyramid(1, seed=5)
    scores = net.cell_scores(image)
    assert scores.shape == (8, 6)
    np.testing.assert_allclose(scores.ravel(), by_numpy(net, image), rtol=2e-3, atol=1e-3)


def test_centres_are_the_means_of_what_is_made_of_shifted_normal_features(
    both: tuple[TransformationsNetwork, list[float]],
) -> None:
    net = both[0]
    with torch.no_grad():
        features = net.features(pyramid(20))
        means = torch.stack([((features + shift) @ net.map).mean(dim=0) for shift in net.shifts])
        torch.testing.assert_close(means, net.shifts @ net.map, rtol=1e-3, atol=1e-3)


def test_the_loss_is_the_cross_entropy_of_telling_shifts(
    both: tuple[TransformationsNetwork, list[float]],
) -> None:
    net, image = both[0], pyramid(2, seed=4)
    loss = net.loss(net.features(image), torch.Generator())
    assert float(loss.detach()) == pytest.approx(by_numpy(net, image).mean() / 6, rel=1e-3)


def test_its_gradient_is_that_of_differences() -> None:
    rng = np.random.default_rng(3)
    cells, shifts = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    start = rng.normal(size=(3, 2))

    def total(matrix: Any) -> Any:
        matrix = torch.as_tensor(matrix)
        return surprise(torch.from_numpy(cells) @ matrix, torch.from_numpy(shifts) @ matrix).sum()

    assert torch.autograd.gradcheck(total, torch.tensor(start, requires_grad=True))


def test_shifts_come_to_be_told_by_the_directions_in_which_normal_features_vary_little(
    both: tuple[TransformationsNetwork, list[float]],
) -> None:
    net, losses = both
    assert np.mean(losses[-5:]) < 0.6 * losses[0]
    assert np.mean(losses[-5:]) < 0.6 * np.log(6), "better than by chance"
    image = pyramid(1, seed=8)
    normal = net.cell_scores(image)
    usual = np.random.default_rng(1).normal(size=4) @ MIXED
    image.levels[0][0, 2, 3] = usual[:5] * 3 + 100
    image.levels[1][0, 1, 1] = usual[5:][::-1]
    strange = net.cell_scores(image)
    assert strange[2, 3] > normal.max()


def test_features_that_are_far_have_finite_scores() -> None:
    embedded = torch.tensor([[1e6, -1e6], [0.0, 0.0]])
    found = surprise(embedded, torch.tensor([[0.3, 0.1], [-0.2, 0.7], [5.0, 5.0]]))
    assert torch.isfinite(found).all()
    assert found[0] > found[1] >= 0
