"""How SiamMask's network is trained: pasted windows, their features, the losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from knnspect.locators.siam_mask.geometry import FINE, LOCATIONS, location_pixels
from knnspect.locators.siam_mask.networks.losses import box_loss, class_loss, mask_loss, turn_loss
from knnspect.locators.siam_mask.networks.siamese import Siamese, Window, middle_of, window_of
from knnspect.locators.siam_mask.pairs import BEYOND, Painter, Pasted
from knnspect.training.network import Step, TrainableNetwork

__all__ = ["PairNetwork", "Targets", "targets_of"]

#: Windows of one step; locations of each whose masks are drawn.
_PAIRS, _MASKS = 4, 3
#: Pixels from the middle of the part within which a location shows it; beyond which it does not.
_NEAR, _FAR = 12.0, 24.0
#: Weights of mask, class, box and turn, as in the paper (equation 4), the last as the box.
_OF_MASK, _OF_CLASS, _OF_BOX, _OF_TURN = 32.0, 1.0, 1.0, 1.0
#: The share of pairs whose template is the locator's own.
_OWN = 0.5


class Targets(NamedTuple):
    """What the network is to say of windows.

    `labels`: shape (n, 25, 25), see `class_loss`. `at`: locations of which more is known, (m, 3):
    window, row and column. `boxes`, (m, 4), and `turns`, (m, 2): as in `Answers`. `masks`: which of
    the locations have masks, (k,), and `drawn`: these, (k, 127, 127).
    """

    labels: Tensor
    at: Tensor
    boxes: Tensor
    turns: Tensor
    masks: Tensor
    drawn: Tensor


def targets_of(
    windows: Sequence[Pasted], box: tuple[float, float], rng: np.random.Generator
) -> Targets:
    """Return what the network is to say.

    Parameters
    ----------
    windows : sequence of Pasted
        The windows.
    box : (float, float)
        Height and width of the template's box, in pixels of a window.
    rng : Generator
        Chooses the locations whose masks are drawn.
    """
    pixels = location_pixels()
    labels = np.zeros((len(windows), LOCATIONS, LOCATIONS), np.int64)
    at: list[tuple[int, int, int]] = []
    boxes, turns, masks, drawn = [], [], [], []
    for number, window in enumerate(windows):
        if not window.has_part:
            continue
        row, column = window.middle
        off = np.hypot(*np.meshgrid(pixels - row, pixels - column, indexing="ij"))
        near = off <= _NEAR
        labels[number][off <= _FAR] = -1
        labels[number][near] = 1
        places = np.argwhere(near)
        middle_row, middle_column, height, width = window.box()
        chosen = rng.permutation(len(places))[:_MASKS]
        masks += (len(at) + chosen).tolist()
        drawn += [_cut(window.mask, *places[place]) for place in chosen]
        radians = np.radians(window.angle)
        for i, j in places:
            at.append((number, int(i), int(j)))
            boxes.append(
                (
                    (middle_row - pixels[i]) / box[0],
                    (middle_column - pixels[j]) / box[1],
                    np.log(height / box[0]),
                    np.log(width / box[1]),
                )
            )
            turns.append((np.cos(radians), np.sin(radians)))
    return Targets(
        torch.from_numpy(labels),
        torch.tensor(at, dtype=torch.long).reshape(-1, 3),
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(turns, dtype=torch.float32).reshape(-1, 2),
        torch.tensor(masks, dtype=torch.long),
        torch.from_numpy(np.array(drawn, bool).reshape(-1, FINE, FINE)),
    )


def _cut(mask: NDArray[np.bool_], i: int, j: int) -> NDArray[np.bool_]:
    """Return what the mask of a location shows: 63 pixels to each side of it."""
    first = [int(location_pixels()[place]) - FINE // 2 + BEYOND for place in (i, j)]
    return mask[first[0] : first[0] + FINE, first[1] : first[1] + FINE]


class PairNetwork(TrainableNetwork[Sequence[int]]):
    """The network, and what it is trained with.

    Parameters
    ----------
    siamese : Siamese
        The network.
    painter : Painter
        Pastes parts by their numbers; 0 is that of the template.
    templates : list of ndarray
        Of each part, what shows it as a template; see `extract`.
    extract : callable
        Returns the frozen features of a window, (256, 256, 3): each level.
    box : (float, float)
        Height and width of the template's box, in pixels of a window.
    learning_rate : float
        Adam's, at its highest.
    """

    images_at_once = 8 * _PAIRS

    def __init__(
        self,
        siamese: Siamese,
        painter: Painter,
        templates: Sequence[NDArray[np.uint8]],
        extract: Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]],
        box: tuple[float, float],
        learning_rate: float,
    ) -> None:
        super().__init__()
        self.siamese = siamese
        self._painter, self._extract, self._box = painter, extract, box
        self._learning_rate = learning_rate
        self._templates = torch.cat([middle_of(self._window([each])) for each in templates])

    def _window(self, windows: Sequence[NDArray[np.uint8]]) -> Window:
        levels = zip(*(self._extract(window) for window in windows), strict=True)
        device = next(self.siamese.parameters()).device
        return window_of([torch.from_numpy(np.concatenate(level)).to(device) for level in levels])

    def prepare(self, batches: Iterator[Sequence[int]]) -> None:
        """Nothing is learnt before: the network normalises its features by itself."""

    def calibrate(self, batches: Iterator[Sequence[int]]) -> None:
        """Nothing is learnt after: frames are located for that."""

    def held_out_losses(self, batch: Sequence[int]) -> list[tuple[float, int]]:
        """Return no loss: no part is held out."""
        return [(0.0, len(batch))]

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return Adam over all."""
        return [torch.optim.Adam(self.siamese.parameters(), self._learning_rate)]

    def steps(self, batch: Sequence[int], generator: torch.Generator) -> Iterator[Step]:
        """Go once through some parts, each pasted anew."""
        seed = torch.randint(2**62, (), generator=generator, device=generator.device)
        rng = np.random.default_rng(int(seed))
        for first in range(0, len(batch), _PAIRS):
            numbers = batch[first : first + _PAIRS]
            windows = [self._painter.paste(number, rng) for number in numbers]
            yield Step(
                self.loss(windows, rng),
                len(numbers),
                (0,),
                0,
                min(1.0, (first + len(numbers)) / len(batch)),
            )

    def loss(self, windows: Sequence[Pasted], rng: np.random.Generator) -> Tensor:
        """Return the weighted sum of all losses of some windows."""
        features = self._window([window.pixels for window in windows])
        targets = targets_of(windows, self._box, rng)
        n_parts = len(self._templates)
        others = rng.integers(n_parts, size=len(windows))
        chosen = np.where(rng.random(len(windows)) < _OWN, 0, others)
        answers = self.siamese(self._templates[torch.from_numpy(chosen)], features)
        at = targets.at
        of_masks = at[targets.masks]
        fine = self.siamese.fine(answers, features, of_masks)
        coarse = self.siamese.coarse(answers, of_masks)
        boxes = answers.boxes[at[:, 0], :, at[:, 1], at[:, 2]]
        turns = answers.turns[at[:, 0], :, at[:, 1], at[:, 2]]
        masks = mask_loss(fine, targets.drawn) + mask_loss(coarse, targets.drawn[:, 1::2, 1::2])
        return (
            _OF_MASK * masks
            + _OF_CLASS * class_loss(answers.classes, targets.labels)
            + _OF_BOX * box_loss(boxes, targets.boxes)
            + _OF_TURN * turn_loss(turns, targets.turns)
        )
