"""Training: epochs, early stopping, checkpoints, progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from knnspect.errors import ParameterError
from knnspect.files import as_damage
from knnspect.forked import fork_safe
from knnspect.progress import Progress
from knnspect.training.checkpoint import Checkpoint
from knnspect.training.network import Batch, Step, TrainableNetwork, array_of
from knnspect.training.schedule import rate_factor
from knnspect.training.sources import Source, batches_of
from knnspect.validation import check_count, stored_history

__all__ = ["Training", "TrainingSettings"]

#: Seconds between two checkpoints within an epoch.
_CHECKPOINT_INTERVAL = 30.0


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained.

    Parameters
    ----------
    max_epochs : int
        Passes through all images.
    patience : int or None
        Stop after so many epochs without a lower loss of the images held out, and keep the weights
        of the best; None: never stop, and keep the last.
    seed : int
        Decides the order of images and cells, and noise.
    mixed_precision : bool
        On CUDA devices that have bfloat16, take products in it; never on the CPU.
    """

    max_epochs: int
    patience: int | None
    seed: int
    mixed_precision: bool


class Training(Generic[Batch]):
    """Trains a network, epoch by epoch, until it is done or does not get better any more.

    What happens depends on the settings alone: an interrupted training that goes on from its
    checkpoint ends with the same weights as one that was never interrupted (on the CPU to the bit,
    with as many PyTorch threads).

    Parameters
    ----------
    network : TrainableNetwork
        On its device.
    source : Source
        The images, or their features.
    ids, held_out : list of str
        The images that are trained on, and those that decide when to stop; the latter may be none.
    settings : TrainingSettings
        See there.
    checkpoint : Checkpoint, optional
        Where the state is written at the end of every epoch, and every 30 s of a long one.
    check : callable, optional
        Called now and then; what it raises ends the training.

    Attributes
    ----------
    history : list of dict
        For each epoch its "loss", and its "held_out_loss" where images are held out.
    best_epoch : int
        The epoch whose weights were kept, from 1.
    """

    def __init__(
        self,
        network: TrainableNetwork[Batch],
        source: Source[Batch],
        ids: list[str],
        held_out: list[str],
        settings: TrainingSettings,
        checkpoint: Checkpoint | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._network, self._source = network, source
        self._ids, self._held_out = ids, held_out
        self._settings, self._checkpoint, self._check = settings, checkpoint, check
        self._device = next(network.parameters()).device
        self._optimizers: list[torch.optim.Optimizer] = []
        self._rates: list[float] = []
        self.history: list[dict[str, float]] = []
        self.best_epoch = 0
        self._best: dict[str, NDArray[Any]] = {}
        # Images of the present epoch that are done, and what their losses add up to, by part.
        self._n_done = 0
        self._sums: NDArray[np.float64] = np.zeros((network.n_parts, 2))
        self._written = time.monotonic()

    def run(self, progress: bool) -> None:
        """Train until all epochs are done or the loss does not fall any more.

        Raises
        ------
        ParameterError
            If the loss is not finite any more, or the checkpoint is of another training.
        StoreError
            If the checkpoint is damaged or cannot be written.
        """
        if not self._restore():
            self._prepare()
            self._begin()
            self._write()
        n_images, n_epochs = len(self._ids), self._settings.max_epochs
        done = n_images * len(self.history) + self._n_done
        with Progress("training", n_images * n_epochs, progress, done=done) as report:
            while len(self.history) < n_epochs and not self._is_settled():
                self._train_epoch(report)
                self._end_epoch()
                report.note(self._describe())
                self._write()
        self._finish()

    @fork_safe
    def _prepare(self) -> None:
        self._network.prepare(batches_of(self._source, self._ids))

    @fork_safe
    def _finish(self) -> None:
        if self._best:
            self._network.load_arrays(self._best)
        self._network.eval()
        self._network.calibrate(batches_of(self._source, self._ids))

    def _begin(self) -> None:
        self._optimizers = self._network.optimizers()
        self._rates = [
            group["lr"] for optimizer in self._optimizers for group in optimizer.param_groups
        ]

    def _train_epoch(self, report: Progress) -> None:
        epoch = len(self.history)
        rng = np.random.default_rng([self._settings.seed, epoch])
        order = [self._ids[i] for i in rng.permutation(len(self._ids))]
        self._network.train()
        while self._n_done < len(order):
            ids = order[self._n_done : self._n_done + self._network.images_at_once]
            self._train_part(ids, epoch)
            self._n_done += len(ids)
            self._check_losses(epoch)
            report.advance(len(ids))
            if time.monotonic() - self._written > _CHECKPOINT_INTERVAL:
                self._write()
            self._check()

    def _check_losses(self, epoch: int) -> None:
        """Raise a ParameterError if one of the losses is not a number any more."""
        for part, (total, _) in enumerate(self._sums):
            if not math.isfinite(total):
                names = self._network.part_names
                loss = f"the loss of the {names[part]}" if names else "the loss"
                raise ParameterError(
                    f"learning_rate: {loss} is not finite any more in epoch {epoch + 1}: expected "
                    "a lower rate",
                    parameter="learning_rate",
                )

    @fork_safe
    def _train_part(self, ids: list[str], epoch: int) -> None:
        """Go through the cells of some images."""
        seeds = np.random.SeedSequence([self._settings.seed, epoch, self._n_done])
        generator = torch.Generator(self._device)
        generator.manual_seed(int(seeds.generate_state(1)[0]))
        losses = torch.zeros(self._network.n_parts, dtype=torch.float64, device=self._device)
        n_cells = np.zeros(self._network.n_parts)
        n_before = epoch * len(self._ids) + self._n_done
        self._network.done = n_before / (len(self._ids) * self._settings.max_epochs)
        steps = self._network.steps(self._source.batch(ids), generator)
        while True:
            with self._precision():
                step = next(steps, None)
            if step is None:
                break
            self._follow(step, n_before + step.done * len(ids))
            losses[step.part] += step.loss.detach() * step.n_cells
            n_cells[step.part] += step.n_cells
        self._sums += np.stack([losses.cpu().numpy(), n_cells], axis=1)

    def _precision(self) -> torch.autocast:
        is_mixed = (
            self._settings.mixed_precision
            and self._network.allows_bfloat16
            and self._device.type == "cuda"
            and torch.cuda.is_bf16_supported()
        )
        return torch.autocast(self._device.type, torch.bfloat16, enabled=is_mixed)

    def _follow(self, step: Step, n_images: float) -> None:
        is_constant = self._network.schedule == "constant"
        done = n_images / (len(self._ids) * self._settings.max_epochs)
        factor = 1.0 if is_constant else rate_factor(done)
        rates = iter(self._rates)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = next(rates) * factor
        for index in step.optimizers:
            self._optimizers[index].zero_grad(set_to_none=True)
        step.loss.backward()  # type: ignore[no-untyped-call]
        for index in step.optimizers:
            self._optimizers[index].step()

    @fork_safe
    def _end_epoch(self) -> None:
        entry = self._losses()
        if self._held_out:
            self._network.eval()
            batches = (self._source.batch([id_]) for id_ in self._held_out)
            held_out = [np.array(self._network.held_out_losses(batch)) for batch in batches]
            entry["held_out_loss"] = _mean(np.sum(held_out, axis=0))
        self.history.append(entry)
        self._n_done = 0
        self._sums = np.zeros((self._network.n_parts, 2))
        first = math.ceil(self._network.settles_from * self._settings.max_epochs)
        losses = [past.get("held_out_loss", 0.0) for past in self.history[first:]]
        if not self._may_stop or not losses:
            self.best_epoch = len(self.history)
        elif losses[-1] < min(losses[:-1], default=math.inf):
            self.best_epoch = len(self.history)
            self._best = self._network.arrays()

    def _losses(self) -> dict[str, float]:
        """Return the mean losses of the present epoch."""
        names = self._network.part_names
        if not names:
            return {"loss": _mean(self._sums)}
        # Some parts may have rested.
        means = {
            name: float(total / n) for name, (total, n) in zip(names, self._sums, strict=True) if n
        }
        return {"loss": next(iter(means.values())), **means}

    @property
    def _may_stop(self) -> bool:
        return self._settings.patience is not None and bool(self._held_out)

    def _is_settled(self) -> bool:
        patience, enough = self._settings.patience, self._network.stops_below
        losses = [entry["held_out_loss"] for entry in self.history[-1:] if self._held_out]
        if enough is not None and losses and losses[0] < enough:
            return True
        return (
            self._may_stop
            and patience is not None
            and len(self.history) - self.best_epoch >= patience
        )

    def _describe(self) -> str:
        entry = self.history[-1]
        words = (
            f"epoch {len(self.history)} of {self._settings.max_epochs}, loss {entry['loss']:.4g}"
        )
        others = [name for name in self._network.part_names[1:] if name in entry]
        words += "".join(f", {name} {entry[name]:.4g}" for name in others)
        if "held_out_loss" in entry:
            words += f", held out {entry['held_out_loss']:.4g}"
        return words

    def _write(self) -> None:
        if self._checkpoint is None:
            return
        state = {
            "history": self.history,
            "best_epoch": self.best_epoch,
            "n_done": self._n_done,
            "sums": self._sums.tolist(),
        }
        tensors = {f"network.{name}": value for name, value in self._network.arrays().items()}
        tensors |= {f"best.{name}": value for name, value in self._best.items()}
        for number, optimizer in enumerate(self._optimizers):
            for place, values in optimizer.state_dict()["state"].items():
                for name, value in values.items():
                    tensors[f"optimizer.{number}.{place}.{name}"] = array_of(value)
        self._checkpoint.write(state, tensors)
        self._written = time.monotonic()

    @fork_safe
    def _restore(self) -> bool:
        """Take over the checkpoint, if there is one."""
        found = None if self._checkpoint is None else self._checkpoint.read()
        if found is None or self._checkpoint is None:
            return False
        state, tensors = found
        with as_damage(self._checkpoint.path, "its state"):
            self._network.load_arrays(_under("network.", tensors))
            self._best = _under("best.", tensors)
            self._begin()
            for number, optimizer in enumerate(self._optimizers):
                _restore_optimizer(optimizer, _under(f"optimizer.{number}.", tensors))
            self.history = stored_history(state["history"])
            self.best_epoch = check_count("best_epoch", state["best_epoch"], 0)
            self._n_done = check_count("n_done", state["n_done"], 0)
            self._sums = np.array(state["sums"], float).reshape(self._sums.shape)
            if (
                self.best_epoch > len(self.history)
                or self._n_done > len(self._ids)
                or not np.isfinite(self._sums).all()
            ):
                raise ValueError("its numbers are not those of a training")
        return True


def _mean(sums: NDArray[np.float64]) -> float:
    """Mean over parts of their mean losses."""
    return float((sums[:, 0] / sums[:, 1]).mean())


def _under(prefix: str, tensors: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, NDArray[Any]]) -> None:
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, array in tensors.items():
        place, name = key.split(".", 1)
        shape = () if name == "step" else parameters[int(place)].shape
        if array.size != math.prod(shape):
            raise ValueError(f"{key}: expected shape {tuple(shape)}, got {array.shape}")
        value = torch.from_numpy(array.copy()).reshape(shape)
        state.setdefault(int(place), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
