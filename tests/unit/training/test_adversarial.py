"""Trainings whose parts work against each other, and those that end when they are good enough."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from knnspect.errors import ParameterError
from knnspect.training.loop import Training, TrainingSettings
from knnspect.training.network import Step, TrainableNetwork

Values = NDArray[np.float32]


class Numbers:
    """Gives each image as a number: its id."""

    def batch(self, ids: Any) -> Values:
        return np.array([[float(id_)] for id_ in ids], np.float32)


class Duel(TrainableNetwork[Values]):
    """Two numbers: one goes to what comes in, the other away from the first."""

    schedule: Literal["cosine", "constant"] = "constant"
    part_names = ("generator", "discriminator")
    n_parts = 2
    images_at_once = 3

    def __init__(self) -> None:
        super().__init__()
        self.ours, self.theirs = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[str, float, int]] = []
        self.rates: list[float] = []
        self.broken_from = 1.0

    def prepare(self, batches: Iterator[Values]) -> None:
        pass

    def optimizers(self) -> list[torch.optim.Optimizer]:
        made: list[torch.optim.Optimizer] = [
            torch.optim.SGD([self.ours], 0.1),
            torch.optim.SGD([self.theirs], 0.2),
        ]
        self._made = made
        return made

    def steps(self, batch: Values, generator: torch.Generator) -> Iterator[Step]:
        before = self.ours.item()
        self.seen.append(("discriminator", self.done, len(batch)))
        theirs = (self.theirs + self.ours).square().sum()
        factor = float("nan") if self.done >= self.broken_from else 1.0
        yield Step(theirs * factor, len(batch), [1], 1, 0.5)
        assert self.ours.item() == before, "the first part rests while the other learns"
        self.rates.append(self._made[1].param_groups[0]["lr"])
        self.seen.append(("generator", self.done, len(batch)))
        yield Step((self.ours - float(batch.mean())).square().sum(), len(batch), [0], 0, 1.0)

    def held_out_losses(self, batch: Values) -> list[tuple[float, int]]:
        return [(abs(self.ours.item() - 4.5), len(batch))]

    def calibrate(self, batches: Iterator[Values]) -> None:
        pass


def trained(network: Duel, max_epochs: int = 4, patience: int | None = None) -> Training[Values]:
    settings = TrainingSettings(max_epochs, patience, seed=0, mixed_precision=True)
    ids = [str(place) for place in range(10)]
    training = Training(network, Numbers(), ids[:8], ids[8:], settings)
    training.run(progress=False)
    return training


def test_parts_learn_in_turns() -> None:
    network = Duel()
    training = trained(network)
    parts = [part for part, _, _ in network.seen]
    assert parts == ["discriminator", "generator"] * 12
    assert [n for part, _, n in network.seen if part == "generator"] == [3, 3, 2] * 4
    assert network.ours.item() == pytest.approx(4, abs=1)
    assert network.theirs.item() < -1
    for entry in training.history:
        assert set(entry) == {"loss", "generator", "discriminator", "held_out_loss"}
        assert entry["loss"] == entry["generator"]


def test_a_network_knows_how_much_is_done() -> None:
    network = Duel()
    trained(network)
    done = [share for part, share, _ in network.seen if part == "generator"]
    expected = [(8 * epoch + n) / 32 for epoch in range(4) for n in (0, 3, 6)]
    assert done == pytest.approx(expected)


def test_constant_rates_stay() -> None:
    network = Duel()
    trained(network)
    assert set(network.rates) == {0.2}
    network = Duel()
    network.schedule = "cosine"
    trained(network)
    assert len(set(network.rates)) > 8
    assert max(network.rates) <= 0.2


def test_it_ends_when_it_is_good_enough() -> None:
    network = Duel()
    network.stops_below = 2.0
    training = trained(network, max_epochs=50)
    losses = [entry["held_out_loss"] for entry in training.history]
    assert 1 < len(losses) < 50
    assert losses[-1] < 2 <= min(losses[:-1])
    assert training.best_epoch == len(losses)


def test_it_may_also_end_when_it_gets_no_better() -> None:
    network = Duel()
    network.stops_below = 1e-9
    assert len(trained(network, max_epochs=50, patience=2).history) < 50


def test_a_part_whose_loss_is_no_number_is_named() -> None:
    network = Duel()
    network.broken_from = 0.3
    message = (
        r"learning_rate: the loss of the discriminator is not finite any more in epoch 2: "
        "expected a lower rate"
    )
    with pytest.raises(ParameterError, match=message):
        trained(network)


def test_a_part_that_rests_has_no_loss() -> None:
    class Resting(Duel):
        def steps(self, batch: Values, generator: torch.Generator) -> Iterator[Step]:
            steps = super().steps(batch, generator)
            yield from (step for step in steps if step.part == 0 or self.done < 0.5)

    history = trained(Resting()).history
    assert ["discriminator" in entry for entry in history] == [True, True, False, False]
    assert all(np.isfinite(list(entry.values())).all() for entry in history)


class Late(Duel):
    """What judges is nearest at the beginning, when it is not trained yet, and then gets nearer."""

    settles_from = 0.5

    def held_out_losses(self, batch: Values) -> list[tuple[float, int]]:
        epoch = round(self.done * 8)
        return [([0.1, 0.2, 0.2, 0.2, 0.9, 0.8, 0.85, 0.7][epoch - 1 if epoch else 0], 1)]


def test_images_held_out_decide_when_what_judges_is_trained() -> None:
    # `done` is that of the last batch of an epoch, which rounds to the next.
    training = trained(Late(), max_epochs=8, patience=2)
    assert len(training.history) == 8, "two epochs without gain do not count in the first half"
    assert training.best_epoch == 8
    training = trained(Late(), max_epochs=8, patience=1)
    assert (len(training.history), training.best_epoch) == (7, 6)
