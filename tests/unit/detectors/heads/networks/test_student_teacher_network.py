"""Students: what they are shown, what they learn, and how far they are wrong and apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve

import knnspect as ks
from knnspect.detectors.heads.networks.student_teacher import (
    StudentTeacherNetwork,
    error_and_variance,
)
from knnspect.detectors.heads.scorers.student_teacher import around

SHAPES = [(8, 6, 5), (4, 3, 7)]


def pyramid(n_images: int, seed: int = 0) -> ks.FeaturePyramid:
    """Images that vary from each other, and little inside."""
    rng = np.random.default_rng(seed)
    levels = []
    for shape, (scale, offset) in zip(SHAPES, ((3, 100), (0.01, 2)), strict=True):
        whole = rng.normal(size=(n_images, 1, 1, shape[2]))
        level = (whole + 0.3 * rng.normal(size=(n_images, *shape))) * scale + offset
        levels.append(level.astype(np.float32))
    return ks.FeaturePyramid(levels)


def trained(students: int = 3, n_epochs: int = 40) -> tuple[StudentTeacherNetwork, list[float]]:
    torch.manual_seed(0)
    net = StudentTeacherNetwork(SHAPES, "bilinear", students, 16, 5e-3)
    net.prepare(iter([pyramid(20)]))
    (optimizer,) = net.optimizers()
    generator, losses = torch.Generator().manual_seed(0), []
    for epoch in range(n_epochs):
        for step in net.steps(pyramid(20, epoch), generator):
            optimizer.zero_grad()
            step.loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(step.loss.detach()))
    net.eval()
    net.normalize(pyramid(3, seed=77)[i] for i in range(3))
    return net, losses


@pytest.fixture(scope="module")
def net() -> StudentTeacherNetwork:
    return trained()[0]


def by_numpy(net: StudentTeacherNetwork, image: ks.FeaturePyramid) -> Any:
    """Error and variance of each cell, from the equations."""
    cells = image.concatenated().astype(np.float64)
    cells = (cells - net.mean.numpy()) / net.deviation.numpy()
    ring = np.ones((1, 3, 3, 1)) / 8
    ring[0, 1, 1] = 0
    shown = convolve(cells, ring, mode="nearest").reshape(-1, 12)
    of = {name: array.astype(np.float64) for name, array in net.arrays().items()}
    hidden = shown @ of["first"] + of["first_bias"]
    predicted = np.where(hidden > 0, hidden, 0.01 * hidden) @ of["second"] + of["second_bias"]
    mean = predicted.mean(axis=0)
    error = np.square(mean - cells.reshape(-1, 12)).sum(axis=1)
    variance = np.square(predicted).sum(axis=2).mean(axis=0) - np.square(mean).sum(axis=1)
    return error / 12, variance / 12


def test_a_cell_is_told_by_the_eight_around_it() -> None:
    cells = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype(np.float32)
    ring = np.ones((1, 3, 3, 1)) / 8
    ring[0, 1, 1] = 0
    expected = convolve(cells.astype(np.float64), ring, mode="nearest")
    np.testing.assert_allclose(around(cells), expected, atol=1e-6)
    alone = np.full((1, 1, 1, 2), 3, np.float32)
    np.testing.assert_array_equal(around(alone), alone)


def test_the_error_is_that_of_the_mean_and_the_variance_is_around_it() -> None:
    rng = np.random.default_rng(1)
    predicted, target = rng.normal(size=(4, 7, 3)), rng.normal(size=(7, 3))
    error, variance = error_and_variance(torch.from_numpy(predicted), torch.from_numpy(target))
    mean = predicted.mean(axis=0)
    np.testing.assert_allclose(error, np.square(mean - target).mean(axis=1))
    np.testing.assert_allclose(variance, predicted.var(axis=0).mean(axis=1))


def test_scores_are_error_and_variance_in_units_of_their_deviations(
    net: StudentTeacherNetwork,
) -> None:
    image = pyramid(1, seed=50)
    error, variance = by_numpy(net, image)
    held = [by_numpy(net, pyramid(3, seed=77)[i]) for i in range(3)]
    errors, variances = (np.concatenate(part) for part in zip(*held, strict=True))
    paper = (error - errors.mean()) / errors.std() + (variance - variances.mean()) / variances.std()
    scores = net.cell_scores(image)
    assert scores.shape == (8, 6)
    shift = errors.mean() / errors.std() + variances.mean() / variances.std()
    np.testing.assert_allclose(scores.ravel(), paper + shift, rtol=2e-3)


def test_students_learn_what_can_be_told_from_the_cells_around() -> None:
    _, losses = trained(n_epochs=120)
    assert np.mean(losses[:3]) > 1
    # What is each cell's own, 0.3 of deviation, cannot be guessed.
    assert 0.03 < np.mean(losses[-5:]) < 0.3


def test_a_strange_cell_has_the_largest_score(net: StudentTeacherNetwork) -> None:
    image = pyramid(1, seed=51)
    image.levels[0][0, 3, 2] += 12
    scores = net.cell_scores(image)
    assert scores.argmax() == 3 * 6 + 2


def test_the_loss_is_the_mean_over_students(net: StudentTeacherNetwork) -> None:
    features = net.features(pyramid(2, seed=8))
    net.zero_grad()
    loss = net.loss(features, torch.Generator())
    shown, target = features.chunk(2, dim=1)
    with torch.no_grad():
        each = [float((one - target).square().mean()) for one in net(shown)]
    assert float(loss.detach()) == pytest.approx(np.mean(each), rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert net.second_bias.grad is not None
    with torch.no_grad():
        expected = 2 * (net(shown) - target).sum(dim=1, keepdim=True) / (3 * target.numel())
    torch.testing.assert_close(net.second_bias.grad, expected, rtol=1e-3, atol=1e-6)
    net.zero_grad()


def test_one_student_is_never_apart_from_itself() -> None:
    net, _ = trained(students=1, n_epochs=2)
    assert float(net.variance_deviation) == 1
    error, variance = by_numpy(net, pyramid(1, seed=3))
    np.testing.assert_allclose(variance, 0, atol=1e-9)
    expected = error / float(net.error_deviation)
    np.testing.assert_allclose(net.cell_scores(pyramid(1, seed=3)).ravel(), expected, rtol=2e-3)
