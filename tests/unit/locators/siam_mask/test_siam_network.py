"""The network: correlation, losses, what masks are drawn from, and what learns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from knnspect import Backbone
from knnspect.locators.part import Part
from knnspect.locators.siam_mask.geometry import INPUT, LOCATIONS
from knnspect.locators.siam_mask.grounds import Grounds
from knnspect.locators.siam_mask.networks.blocks import depthwise_correlation, windows_at
from knnspect.locators.siam_mask.networks.losses import box_loss, class_loss, mask_loss, turn_loss
from knnspect.locators.siam_mask.networks.siamese import Siamese, Window, middle_of, window_of
from knnspect.locators.siam_mask.networks.training import PairNetwork
from knnspect.locators.siam_mask.pairs import Painter

SHAPES = [(128, 128, 16), (64, 64, 24), (32, 32, 40), (16, 16, 112)]


def test_the_correlation_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    search, kernel = rng.normal(size=(2, 3, 7, 6)), rng.normal(size=(2, 3, 4, 3))
    found = depthwise_correlation(torch.from_numpy(search), torch.from_numpy(kernel)).numpy()
    assert found.shape == (2, 3, 4, 4)
    for n in range(2):
        for channel in range(3):
            for row in range(4):
                for column in range(4):
                    total = 0.0
                    for i in range(4):
                        for j in range(3):
                            total += (
                                search[n, channel, row + i, column + j] * kernel[n, channel, i, j]
                            )
                    assert found[n, channel, row, column] == pytest.approx(total, abs=1e-12)


def test_the_class_loss_weighs_both_kinds_the_same() -> None:
    # Logits of "part" less "no part": 0 where it is; 0 and log 3 where it is not; 9 does not count.
    difference = torch.tensor([[0.0, 0.0, math.log(3), 9.0]])
    logits = torch.stack([torch.zeros(1, 4), difference], dim=1)[:, :, None]
    labels = torch.tensor([[[1, 0, 0, -1]]])
    expected = (math.log(2) + (math.log(2) + math.log(4)) / 2) / 2
    assert class_loss(logits, labels).item() == pytest.approx(expected)
    none = class_loss(logits, torch.tensor([[[0, 0, 0, -1]]]))
    assert none.item() == pytest.approx((2 * math.log(2) + math.log(4)) / 3 / 2)


def test_box_and_turn_losses() -> None:
    boxes = torch.tensor([[0.5, 0.0, -2.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    # .5 * .25 + (2 - .5), and .5: the mean of both boxes.
    assert box_loss(boxes, torch.zeros(2, 4)).item() == pytest.approx((0.125 + 1.5 + 0.5) / 2)
    turns = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    truth = torch.tensor([[0.0, 1.0], [0.6, 0.8]])
    assert turn_loss(turns, truth).item() == pytest.approx(1.0)


def test_the_mask_loss() -> None:
    logits = torch.tensor([[[math.log(3), 0.0], [math.log(3), -40.0]]])
    truth = torch.tensor([[[True, True], [False, False]]])
    expected = (math.log(4 / 3) + math.log(2) + math.log(4) + 0) / 4
    assert mask_loss(logits, truth).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [box_loss, turn_loss, mask_loss])
def test_windows_without_the_part_have_no_other_loss(loss: object) -> None:
    n = torch.zeros(0, 4, requires_grad=True)
    assert callable(loss)
    found = loss(n, torch.zeros(0, 4))
    assert found.item() == 0
    found.backward()


def test_what_a_mask_is_drawn_from_lies_around_its_location() -> None:
    columns = torch.arange(32.0).repeat(32, 1)
    level = torch.stack([columns.T, columns])[None]
    cut = windows_at(level, torch.tensor([[0, 12, 4], [0, 0, 24]]))
    assert cut.shape == (2, 2, 16, 16)
    assert cut[0, 0, :, 0].tolist() == [float(row) for row in range(8, 24)]
    assert cut[0, 1, 0].tolist() == [float(column) for column in range(16)]
    # Four rows above the window, and eight columns right of it, are zeros.
    assert cut[1, 0, :4].abs().sum() == 0
    assert cut[1, 1, 5].tolist() == [*map(float, range(20, 32)), 0, 0, 0, 0]
    finer = torch.arange(64.0).repeat(64, 1)[None, None]
    assert windows_at(finer, torch.tensor([[0, 4, 4]]))[0, 0, 0].tolist() == [
        float(column) for column in range(32)
    ]


def test_levels_come_on_one_grid() -> None:
    levels = [torch.rand(2, *shape) for shape in SHAPES]
    window = window_of(levels)
    assert window.main.shape == (2, 152, 32, 32)
    assert [each.shape[1] for each in window.finer] == [24, 16]
    torch.testing.assert_close(window.main[:, :40], levels[2].permute(0, 3, 1, 2))
    assert middle_of(window).shape == (2, 152, 8, 8)
    torch.testing.assert_close(middle_of(window)[:, :, 0, 0], window.main[:, :, 12, 12])


def random_window(n: int, seed: int) -> Window:
    rng = torch.Generator().manual_seed(seed)
    return window_of([torch.rand(n, *shape, generator=rng) for shape in SHAPES])


def test_shapes_and_windows_beside_others() -> None:
    torch.manual_seed(0)
    siamese = Siamese(SHAPES, 8).eval()
    template, window = middle_of(random_window(1, 1)), random_window(3, 2)
    at = torch.tensor([[0, 3, 4], [2, 20, 11]])
    with torch.inference_mode():
        answers = siamese(template, window)
        assert answers.classes.shape == (3, 2, LOCATIONS, LOCATIONS)
        assert answers.boxes.shape == (3, 4, LOCATIONS, LOCATIONS)
        assert answers.turns.shape == (3, 2, LOCATIONS, LOCATIONS)
        assert siamese.coarse(answers, at).shape == (2, 63, 63)
        fine = siamese.fine(answers, window, at)
        assert fine.shape == (2, 127, 127)
        # Alone, the third window has the same answers, but for rounding.
        alone = Window(window.main[2:], [each[2:] for each in window.finer])
        its = siamese(template, alone)
        torch.testing.assert_close(its.classes[0], answers.classes[2], rtol=1e-4, atol=1e-5)
        its_fine = siamese.fine(its, alone, torch.tensor([[0, 20, 11]]))
        torch.testing.assert_close(its_fine[0], fine[1], rtol=1e-4, atol=1e-5)


def test_a_level_of_stride_8_alone_will_do() -> None:
    siamese = Siamese([(32, 32, 5)], 4).eval()
    window = window_of([torch.rand(1, 32, 32, 5)])
    with torch.inference_mode():
        answers = siamese(middle_of(window), window)
        assert siamese.fine(answers, window, torch.tensor([[0, 1, 2]])).shape == (1, 127, 127)


def test_all_learn_but_the_backbone() -> None:
    backbone = Backbone(levels=(0, 1, 2, 3), image_size=INPUT)

    def levels(window: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        return [np.asarray(each) for each in backbone.extract([window]).pyramid.levels]

    before = {name: value.copy() for name, value in backbone.state()[1].items()}
    rng = np.random.default_rng(0)
    part = Part(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8), np.ones((40, 40), bool))
    grounds = Grounds([], [part.pixels], INPUT)
    painter = Painter([part], grounds, 1.6, 180, (0.9, 1.1))
    template = rng.integers(0, 255, (INPUT, INPUT, 3), dtype=np.uint8)
    torch.manual_seed(0)
    siamese = Siamese(SHAPES, 8)
    network = PairNetwork(siamese, painter, [template], levels, (64.0, 64.0), 1e-2)
    windows = [painter.paste(0, rng) for _ in range(4)]
    assert any(window.has_part for window in windows)
    network.train()
    network.loss(windows, rng).backward()  # type: ignore[no-untyped-call]
    without = [
        name
        for name, value in siamese.named_parameters()
        if value.grad is None or not value.grad.abs().sum() > 0
    ]
    assert without == []
    held = {
        id(value) for group in network.optimizers()[0].param_groups for value in group["params"]
    }
    assert held == {id(value) for value in siamese.parameters()}
    network.optimizers()[0].step()
    after = backbone.state()[1]
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_arrays_are_taken_over_or_refused() -> None:
    torch.manual_seed(0)
    one, other = Siamese(SHAPES[2:], 4), Siamese(SHAPES[2:], 4)
    arrays = one.arrays()
    other.load_arrays(arrays)
    assert all(np.array_equal(arrays[name], value) for name, value in other.arrays().items())
    name = next(iter(arrays))
    with pytest.raises(ValueError, match="expected finite values of shape"):
        other.load_arrays({**arrays, name: arrays[name] * np.float32("nan")})
    with pytest.raises(ValueError, match="expected finite values of shape"):
        other.load_arrays({**arrays, name: arrays[name][1:]})
    with pytest.raises(KeyError):
        other.load_arrays({})
