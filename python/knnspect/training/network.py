"""What is trained: a network that says what its steps are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from knnspect.forked import fork_safe
from knnspect.training.sources import IMAGES_AT_ONCE

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Batch", "Step", "TrainableNetwork", "array_of"]

#: What a network is trained on: some images, or their features.
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Step:
    """A loss to be lowered.

    Parameters
    ----------
    loss : tensor, shape ()
        Mean loss of some cells, or images.
    n_cells : int
        How many.
    optimizers : sequence of int
        Which of the network's optimizers it concerns.
    part : int
        Which part of the network, where these are trained apart from each other.
    done : float
        The share of this part's work on the present images that is done after the step.
    """

    loss: Tensor
    n_cells: int
    optimizers: Sequence[int]
    part: int
    done: float


class TrainableNetwork(nn.Module, ABC, Generic[Batch]):
    """A network that `Training` trains on batches of one kind, such as feature pyramids.

    It learns in three stages: `prepare`, once; `steps`, again and again; `calibrate`, once.
    """

    #: Parts that are trained apart from each other; the loss of the whole is the mean of theirs.
    n_parts: int = 1
    #: Names of the parts, where these work against each other, as generator and discriminator do:
    #: the loss of the whole is then the first one's, and the history has all of them.
    part_names: Sequence[str] = ()
    #: Images that are in memory at a time; they, or their cells, are shuffled together.
    images_at_once: int = IMAGES_AT_ONCE
    #: How learning rates go: up, and down along a cosine; or not at all.
    schedule: Literal["cosine", "constant"] = "cosine"
    #: Training ends as soon as the loss of the images held out is below it.
    stops_below: float | None = None
    #: The share of the whole training from which on images held out decide when to stop, for
    #: networks that train what judges after something else.
    settles_from: float = 0.0
    #: Whether products may be taken in bfloat16 while it is trained on CUDA.
    allows_bfloat16: bool = True
    #: The share of the whole training that was done before the present batch; `Training` sets it.
    done: float = 0.0
    #: What is worked out of the weights for judging; None while they may change.
    _prepared: Any = None

    @abstractmethod
    def prepare(self, batches: Iterator[Batch]) -> None:
        """Learn how what comes in is scaled, from the images that are trained on."""

    @abstractmethod
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return new optimizers, with their highest learning rates."""

    @abstractmethod
    def steps(self, batch: Batch, generator: torch.Generator) -> Iterator[Step]:
        """Go once through some images, in random order."""

    @abstractmethod
    def held_out_losses(self, batch: Batch) -> list[tuple[float, int]]:
        """Return for each part the sum of the losses of an image that is not trained on.

        And the number of its cells. Every call for the same image is to give the same losses while
        the network does not change.
        """

    @abstractmethod
    def calibrate(self, batches: Iterator[Batch]) -> None:
        """Learn what scores are held against, from the images that were trained on."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_prepared": None}

    def train(self, mode: bool = True) -> Self:
        """Begin to train, or end it."""
        self._prepared = None
        return super().train(mode)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return copies of all parameters and what else is kept in files, by name."""
        return {name: array_of(value) for name, value in _kept(self)}

    @fork_safe
    def load_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what `arrays` returned.

        Raises
        ------
        ValueError, KeyError
            As `check_arrays`.
        """
        self.check_arrays(arrays)
        with torch.no_grad():
            for name, value in _kept(self):
                value.copy_(torch.from_numpy(arrays[name].copy()).reshape(value.shape))
        self._prepared = None

    def check_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Raise an error unless `load_arrays` can take these, also where the network has no values.

        Raises
        ------
        ValueError, KeyError
            If something is missing, has another shape, or is not finite.
        """
        for name, value in _kept(self):
            if arrays[name].size != value.numel():
                raise ValueError(
                    f"{name}: expected {value.numel()} values, got {arrays[name].size}"
                )
            if not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name}: expected finite values")


def _kept(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, value in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):  # of no use with a fixed momentum
            yield name, value


def array_of(value: Tensor) -> NDArray[Any]:
    """Return a copy with at least one dimension."""
    array: NDArray[Any] = value.detach().cpu().numpy().copy()
    return array.reshape(array.shape or (1,))
