"""Codes of images: found by search, drawn from, and the weights that judge them averaged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from knnspect.detectors.reconstruction.networks.latent import average_of, frozen, search

CPU = torch.device("cpu")


def test_a_search_finds_the_code_that_images_were_drawn_by() -> None:
    torch.manual_seed(0)
    drawing = nn.Sequential(nn.Linear(3, 40), nn.Tanh())
    wanted = torch.randn(4, 3)
    with torch.no_grad():
        images = drawing(wanted)
        found = search(
            lambda codes: (drawing(codes) - images).square().sum(dim=1), 4, 3, 800, 0.05, CPU
        )
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0)
    assert all(value.grad is None for value in drawing.parameters())


def test_a_search_takes_adams_steps_for_each_image_alone() -> None:
    wanted = np.array([[0.5, -1.0], [40.0, 7.0], [-3.0, 0.25]], np.float32)

    def losses(codes: torch.Tensor) -> torch.Tensor:
        return (codes - torch.from_numpy(wanted)).square().sum(dim=1)

    codes = np.repeat(search(losses, 3, 2, 0, 0.1, CPU).numpy()[:1], 3, 0).astype(float)
    mean, square = np.zeros((3, 2)), np.zeros((3, 2))
    for step in range(1, 8):
        gradient = 2 * (codes - wanted)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        root = np.sqrt(square / (1 - 0.999**step)) + 1e-8
        codes -= 0.1 * mean / (1 - 0.9**step) / root
    np.testing.assert_allclose(search(losses, 3, 2, 7, 0.1, CPU).numpy(), codes, atol=1e-5)


def test_a_search_is_the_same_whatever_the_generator_of_the_process() -> None:
    torch.manual_seed(5)
    first = search(lambda codes: codes.square().sum(dim=1), 1, 4, 0, 0.1, CPU)
    torch.manual_seed(6)
    again = search(lambda codes: codes.square().sum(dim=1), 2, 4, 0, 0.1, CPU)
    assert torch.equal(again, first.repeat(2, 1))


def test_no_gradient_reaches_what_is_frozen_and_it_thaws() -> None:
    fixed, moving = nn.Linear(2, 2), nn.Linear(2, 2)
    never = fixed.bias.requires_grad_(False)
    with frozen(fixed):
        loss = fixed(moving(torch.ones(1, 2))).sum()
    loss.backward()
    assert fixed.weight.grad is None
    assert moving.weight.grad is not None
    assert fixed.weight.requires_grad
    assert not never.requires_grad, "what never learnt does not begin to"
    with pytest.raises(RuntimeError), frozen(fixed):
        fixed(torch.ones(1, 3))
    assert fixed.weight.requires_grad


def test_averages_forget_the_beginning_and_then_decay_as_slowly_as_asked() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = average_of(layer, 0.9)
    expected = 0.0
    for step in range(200):
        nn.init.constant_(layer.weight, step + 1.0)
        average.update_parameters(layer)
        decay = 0.0 if step == 0 else min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1)
    assert next(average.parameters()).item() == pytest.approx(expected, rel=1e-5)
    # Far from the beginning: a lag of decay / (1 - decay) steps.
    assert expected == pytest.approx(200 - 9, abs=0.01)
