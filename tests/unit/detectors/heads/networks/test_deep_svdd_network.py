"""Deep SVDD's network: its layers, the centre, and each of its losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import knnspect as ks
from knnspect.detectors.heads.networks.deep_svdd import (
    DeepSvddNetwork,
    Objective,
    away_from_zero,
)

SHAPES = [(8, 6, 5), (4, 3, 7)]


def pyramid(n_images: int, seed: int = 0, factor: float = 1.0) -> ks.FeaturePyramid:
    rng = np.random.default_rng(seed)
    scales = ((3, 100), (0.01, 2))
    return ks.FeaturePyramid(
        [
            (factor * rng.normal(size=(n_images, *shape)) * scale + offset).astype(np.float32)
            for shape, (scale, offset) in zip(SHAPES, scales, strict=True)
        ]
    )


def network(**changed: Any) -> DeepSvddNetwork:
    torch.manual_seed(0)
    settings = {"kind": "one_class", "nu": 0.1, "eta": 1.0, "learning_rate": 5e-3}
    objective = Objective(**{**settings, "weight_decay": 1e-6, **changed})
    net = DeepSvddNetwork(SHAPES, "bilinear", 16, 6, objective)
    net.prepare(iter([pyramid(20)]))
    return net


def trained(net: DeepSvddNetwork, n_epochs: int = 30) -> list[float]:
    (optimizer,) = net.optimizers()
    generator = torch.Generator().manual_seed(0)
    losses = []
    net.train()
    for epoch in range(n_epochs):
        net.done = epoch / n_epochs
        for step in net.steps(pyramid(20, epoch), generator):
            optimizer.zero_grad()
            step.loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(step.loss.detach()))
    net.eval()
    return losses


def standardized(net: DeepSvddNetwork, image: ks.FeaturePyramid) -> NDArray[np.float64]:
    rows = image.concatenated().reshape(-1, 12).astype(np.float64)
    return np.asarray((rows - net.mean.numpy()) / net.deviation.numpy())


def by_numpy(net: DeepSvddNetwork, image: ks.FeaturePyramid) -> NDArray[np.float64]:
    """Squared distances to the centre, from the equations."""
    first, second = (layer.weight.detach().double().numpy() for layer in (net.first, net.second))
    hidden = standardized(net, image) @ first.T
    out = np.where(hidden > 0, hidden, 0.1 * hidden) @ second.T
    return np.asarray(np.square(out - net.center.numpy()).sum(axis=1))


def test_no_layer_has_a_bias() -> None:
    net = network()
    shapes = {name: tuple(value.shape) for name, value in net.named_parameters()}
    assert shapes == {"first.weight": (16, 12), "second.weight": (6, 16)}
    assert not net(torch.zeros(1, 12)).any(), "nothing is added"
    far = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(net(1e4 * far), 1e4 * net(far), rtol=1e-4, atol=1e-3)


def test_the_centre_is_the_mean_of_what_the_untrained_network_makes_of_normal_cells() -> None:
    net, image = network(), pyramid(20)
    first, second = (layer.weight.detach().numpy() for layer in (net.first, net.second))
    hidden = standardized(net, image) @ first.T
    mean = (np.where(hidden > 0, hidden, 0.1 * hidden) @ second.T).mean(axis=0)
    expected = np.where(np.abs(mean) < 0.1, np.where(mean < 0, -0.1, 0.1), mean)
    np.testing.assert_allclose(net.center, expected, atol=1e-5)
    before = net.center.clone()
    trained(net, 3)
    assert torch.equal(net.center, before)
    assert (before.abs() >= np.float32(0.1)).all()


def test_coordinates_of_the_centre_are_moved_away_from_zero() -> None:
    center = torch.tensor([0.0, 1e-9, -0.0999, 0.0999, 0.1, -3.0])
    expected = torch.tensor([0.1, 0.1, -0.1, 0.1, 0.1, -3.0])
    torch.testing.assert_close(away_from_zero(center), expected)


def test_scores_are_squared_distances_to_the_centre() -> None:
    net = network()
    trained(net, 3)
    image = pyramid(1, seed=3, factor=2)
    scores = net.cell_scores(image)
    assert scores.shape == (8, 6)
    np.testing.assert_allclose(scores.ravel(), by_numpy(net, image), rtol=1e-3)


def test_the_one_class_loss_and_its_gradient_are_those_of_the_equation() -> None:
    net, image = network(), pyramid(2, seed=4)
    features = net.features(image)
    loss = net.loss(features, torch.Generator())
    assert float(loss.detach()) == pytest.approx(by_numpy(net, image).mean(), rel=1e-4)
    loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        hidden = torch.nn.functional.leaky_relu(net.first(features), 0.1)
        expected = 2 * (hidden @ net.second.weight.T - net.center).T @ hidden / len(features)
    torch.testing.assert_close(net.second.weight.grad, expected, rtol=1e-3, atol=1e-4)


def test_the_soft_boundary_is_the_quantile_and_what_lies_beyond_it_counts() -> None:
    net, image = network(kind="soft_boundary", nu=0.2), pyramid(2, seed=4)
    features, sq_distances = net.features(image), by_numpy(net, image)
    net.train()
    net.done = 0.1
    early = net.loss(features, torch.Generator())
    assert not net.radius
    assert float(early.detach()) == pytest.approx(sq_distances.mean() / 0.2, rel=1e-4)
    net.done = 0.5
    loss = float(net.loss(features, torch.Generator()).detach())
    radius = np.quantile(np.sqrt(sq_distances), 0.8)
    assert float(net.radius) == pytest.approx(radius, rel=1e-4)
    beyond = np.maximum(0, sq_distances - radius**2).mean() / 0.2
    assert loss == pytest.approx(radius**2 + beyond, rel=1e-4)
    net.eval()
    net.loss(2 * features, torch.Generator())
    assert float(net.radius) == pytest.approx(radius, rel=1e-4), "what is judged does not move it"


def test_after_training_a_share_of_nu_lies_beyond_the_soft_boundary() -> None:
    net = network(kind="soft_boundary", nu=0.2)
    trained(net)
    distances = np.sqrt(by_numpy(net, pyramid(20, seed=29)))
    assert (distances > float(net.radius)).mean() == pytest.approx(0.2, abs=0.06)


def test_defective_cells_add_the_inverse_of_their_distance() -> None:
    net, image, defect = network(eta=3.0), pyramid(2, seed=4), pyramid(1, seed=5, factor=4)
    net.defects = defect.concatenated().reshape(-1, 12)[:7]
    near, inverse = by_numpy(net, image), 1 / (by_numpy(net, defect)[:7] + 1e-6)
    net.train()
    loss = net.loss(net.features(image), torch.Generator())
    expected = (near.sum() + 3.0 * inverse.sum()) / (len(near) + 7)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    net.eval()
    held_out = net.loss(net.features(image), torch.Generator())
    assert float(held_out.detach()) == pytest.approx(near.mean(), rel=1e-4)


def test_defects_are_taken_away_from_the_centre() -> None:
    def odd(seed: int) -> ks.FeaturePyramid:
        """One cell lies at the rim of what normal cells are."""
        image = pyramid(1, seed)
        image.levels[0][:, 2, 3, :2] = 100 + 3 * 2.0
        return image

    plain, taught = network(), network()
    taught.defects = np.stack([odd(seed).concatenated()[0, 2, 3] for seed in range(5, 25)])
    ranks = []
    for net in (plain, taught):
        losses = trained(net, 60)
        assert np.mean(losses[-5:]) < 0.6 * losses[0]
        images = [net.cell_scores(odd(seed)) for seed in range(90, 100)]
        ranks.append(np.mean([(scores < scores[2, 3]).mean() for scores in images]))
    assert ranks[1] > ranks[0] + 0.1
    assert ranks[1] > 0.9


def test_weights_decay() -> None:
    (optimizer,) = network(weight_decay=0.25).optimizers()
    assert optimizer.param_groups[0]["weight_decay"] == 0.25
    light, heavy = network(weight_decay=0.0), network(weight_decay=10.0)
    for net in (light, heavy):
        trained(net)
    assert heavy.first.weight.norm() < 0.8 * light.first.weight.norm()
