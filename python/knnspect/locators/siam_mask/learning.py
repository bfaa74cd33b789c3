"""What SiamMask is trained on, and its training."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from knnspect.data import ImageArray
from knnspect.features import Extractor
from knnspect.locators.part import Part
from knnspect.locators.siam_mask.geometry import INPUT, factor_of
from knnspect.locators.siam_mask.grounds import Grounds
from knnspect.locators.siam_mask.pairs import Painter
from knnspect.locators.siam_mask.parts import cut_parts, read_all, template_window
from knnspect.locators.siam_mask.places import REACH

if TYPE_CHECKING:
    from knnspect.locators.siam_mask.networks.siamese import Siamese
    from knnspect.training.checkpoint import Checkpoint

__all__ = ["Learning", "Plan"]

#: Images that are kept for grounds; by which factor windows are laid worse than they should be.
_MOST_GROUNDS, _SPARE = 60, 1.07


@dataclass(frozen=True)
class Plan:
    """How a network is trained: parameters of `SiamMask`, and what `Checkpoint` is to tell apart.

    `levels` returns the frozen features of a window.
    """

    turn: float
    scales: tuple[float, float]
    pairs: int
    max_epochs: int
    learning_rate: float
    seed: int
    levels: Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]]
    settings: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Learning:
    """What a network is trained on.

    Parameters
    ----------
    parts : list of Part
        That of the template first.
    plain, mixed : list of ndarray
        Images without the part, and with it.
    """

    parts: list[Part]
    plain: list[ImageArray]
    mixed: list[ImageArray]

    @classmethod
    def of(
        cls,
        backbone: Extractor,
        picture: ImageArray,
        part: Part,
        own: tuple[object, object],
        parts: object,
        masks: object,
        frames: object,
        backgrounds: object,
    ) -> Learning:
        """Read what `SiamMask.fit` is given."""
        size = (picture.shape[0], picture.shape[1])
        all_parts = [part]
        mixed = read_all([np.ascontiguousarray(picture)], backbone, 1)
        if parts is not None:
            all_parts += cut_parts(parts, masks, size, own, backbone)
        for images in (parts, frames):
            if images is not None:
                mixed += read_all(images, backbone, _MOST_GROUNDS)
        without = [] if backgrounds is None else read_all(backgrounds, backbone, _MOST_GROUNDS)
        return cls(all_parts, without, mixed)

    def train(
        self,
        siamese: Siamese,
        plan: Plan,
        checkpoint: str | os.PathLike[str] | None,
        progress: bool,
    ) -> list[dict[str, float]]:
        """Train the network; return the losses of its epochs."""
        from knnspect.locators.siam_mask.networks.training import PairNetwork
        from knnspect.training.loop import Training, TrainingSettings

        factor = factor_of(self.parts[0])
        # A window is laid for the middle of its scales; then for that which was found.
        reach = min(REACH, (plan.scales[1] / plan.scales[0]) ** 0.5) * _SPARE
        network = PairNetwork(
            siamese,
            Painter(
                self.parts,
                Grounds(self.plain, self.mixed, INPUT),
                factor,
                plan.turn,
                (1 / reach, reach),
            ),
            [template_window(part, factor) for part in self.parts],
            plan.levels,
            (factor * self.parts[0].size[0], factor * self.parts[0].size[1]),
            plan.learning_rate,
        )
        ids = [f"{number:06d}" for number in range(plan.pairs)]
        training = Training(
            network,
            _Numbers(len(self.parts)),
            ids,
            [],
            TrainingSettings(plan.max_epochs, None, plan.seed, mixed_precision=False),
            None if checkpoint is None else self._checkpoint(checkpoint, plan.settings),
        )
        training.run(progress)
        return training.history

    def _checkpoint(self, path: str | os.PathLike[str], settings: dict[str, Any]) -> Checkpoint:
        from knnspect.training.checkpoint import Checkpoint

        images: list[tuple[str, list[Any]]] = [
            *((f"part {n}", [part.pixels, part.mask]) for n, part in enumerate(self.parts)),
            *((f"background {n}", [image]) for n, image in enumerate(self.plain)),
            *((f"image {n}", [image]) for n, image in enumerate(self.mixed)),
        ]
        digests = {name: _digest(arrays) for name, arrays in images}
        return Checkpoint(path, settings, digests)


class _Numbers:
    """Tells which part each pair shows: all equally often."""

    def __init__(self, n_parts: int) -> None:
        self._n_parts = n_parts

    def batch(self, ids: Sequence[str]) -> list[int]:
        """Return the numbers of the parts of pairs."""
        return [int(id_) % self._n_parts for id_ in ids]


def _digest(arrays: Sequence[Any]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.shape} {array.dtype}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
