"""What the trained network says of a window, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from knnspect.forked import fork_safe
from knnspect.locators.siam_mask.networks.siamese import (
    Answers,
    Siamese,
    Window,
    middle_of,
    window_of,
)

__all__ = ["Judge", "Said"]


@dataclass(frozen=True, eq=False)
class Said:
    """What the network says of one window.

    Parameters
    ----------
    scores : ndarray of float64, shape (25, 25)
        How sure it is that the part lies at a location, from 0 to 1.
    boxes : ndarray of float32, shape (4, 25, 25)
        See `Answers`.
    turns : ndarray of float32, shape (2, 25, 25)
        Cosine and sine of the part's turn.
    """

    scores: NDArray[np.float64]
    boxes: NDArray[np.float32]
    turns: NDArray[np.float32]
    _judge: Judge
    _answers: Answers
    _window: Window

    @fork_safe
    def mask(self, row: int, column: int) -> NDArray[np.float32]:
        """Return how sure it is of each pixel around a location, shape (127, 127), from 0 to 1."""
        with torch.inference_mode():
            at = torch.tensor([[0, row, column]], device=self._answers.found.device)
            logits = self._judge.siamese.fine(self._answers, self._window, at)
            found: NDArray[np.float32] = logits[0].sigmoid().cpu().numpy()
        return found


class Judge:
    """A trained network and its template.

    Parameters
    ----------
    siamese : Siamese
        The network; it is set to judge.
    template : sequence of ndarray
        The levels of the template's window, each (1, height, width, channels).
    """

    def __init__(self, siamese: Siamese, template: Sequence[NDArray[np.float32]]) -> None:
        self.siamese = siamese.eval()
        self._device = next(siamese.parameters()).device
        self._template = middle_of(self._window(template))

    def _window(self, levels: Sequence[NDArray[np.float32]]) -> Window:
        return window_of([torch.from_numpy(level).to(self._device) for level in levels])

    @fork_safe
    def judge(self, levels: Sequence[NDArray[np.float32]]) -> Said:
        """Return what the network says of a window, by its levels."""
        with torch.inference_mode():
            window = self._window(levels)
            answers = self.siamese(self._template, window)
            # In float64: differences next to 1 count where many windows show the part.
            scores = answers.classes[0].double().softmax(dim=0)[1]
            boxes, turns = answers.boxes[0].cpu().numpy(), answers.turns[0].cpu().numpy()
        return Said(scores.cpu().numpy(), boxes, turns, self, answers, window)
