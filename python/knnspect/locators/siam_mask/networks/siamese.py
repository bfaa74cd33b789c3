"""SiamMask's network: features of a template and of a window in, answers at all locations out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from knnspect.locators.siam_mask.geometry import CELLS, COARSE, KERNEL
from knnspect.locators.siam_mask.networks.blocks import Branch, Refinement
from knnspect.training.network import array_of

__all__ = ["Answers", "Siamese", "Window", "middle_of", "window_of"]


class Window(NamedTuple):
    """Features of windows as the network wants them.

    `main` has all levels from stride 8 on, brought to one grid: shape (n, channels, 32, 32).
    `finer` are those of strides 4 and 2, as far as there are any.
    """

    main: Tensor
    finer: list[Tensor]


class Answers(NamedTuple):
    """What the network says of windows.

    `classes`: logits of "no part" and "part", (n, 2, 25, 25). `boxes`: how far the middle of the
    part's upright box is below and to the right of a location, in sides of the template's box, and
    the logarithms of height and width by its own, (n, 4, 25, 25). `turns`: cosine and sine of the
    part's turn, (n, 2, 25, 25). `found`: what masks are refined from, and `hidden`: drawn from,
    both (n, width, 25, 25). `search`: features of the window, (n, width, 32, 32).
    """

    classes: Tensor
    boxes: Tensor
    turns: Tensor
    found: Tensor
    hidden: Tensor
    search: Tensor


class Siamese(nn.Module):
    """Branches for class, box and mask over adapted features.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Height, width and channels of the levels of a window, finest first.
    width : int
        Channels of all branches.

    Source
    ------
    Wang et al., "Fast Online Object Tracking and Segmentation: A Unifying Approach" (2019),
    figures 2 and 3 and section 3.2.
    """

    def __init__(self, shapes: Sequence[tuple[int, int, int]], width: int) -> None:
        super().__init__()
        n_finer = sum(shape[0] > CELLS for shape in shapes)
        main = sum(shape[2] for shape in shapes[n_finer:])
        self.adapted = nn.Sequential(nn.Conv2d(main, width, 1, bias=False), nn.BatchNorm2d(width))
        self.classes, self.boxes = Branch(width, 2), Branch(width, 6)
        self.masks = Branch(width, COARSE * COARSE)
        self.refinement = Refinement(width, [shape[2] for shape in shapes[:n_finer]][::-1])

    def forward(self, template: Tensor, window: Window) -> Answers:
        """Compare templates, the middle of their `Window.main`, with windows."""
        kernel, search = self.adapted(template), self.adapted(window.main)
        boxes = self.boxes.head(self.boxes.correlated(kernel, search))
        found = self.masks.correlated(kernel, search)
        return Answers(
            self.classes.head(self.classes.correlated(kernel, search)),
            boxes[:, :4],
            boxes[:, 4:],
            found,
            self.masks.head[0](found),
            search,
        )

    def coarse(self, answers: Answers, at: Tensor) -> Tensor:
        """Return the masks of locations as the head draws them: logits, shape (n, 63, 63)."""
        drawn: Tensor = self.masks.head[1](_at(answers.hidden, at)[:, :, None, None])
        return drawn.reshape(-1, COARSE, COARSE)

    def fine(self, answers: Answers, window: Window, at: Tensor) -> Tensor:
        """Return refined masks of locations, (window, row, column): logits, (n, 127, 127)."""
        drawn: Tensor = self.refinement(_at(answers.found, at), answers.search, window.finer, at)
        return drawn

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return copies of all that files keep, by name."""
        return {name: array_of(value) for name, value in self._kept()}

    def load_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what `arrays` returned.

        Raises
        ------
        ValueError, KeyError
            If something is missing, has another shape, or is not finite.
        """
        for name, value in self._kept():
            if arrays[name].shape != array_of(value).shape or not np.isfinite(arrays[name]).all():
                raise ValueError(
                    f"{name}: expected finite values of shape {tuple(value.shape)}, got shape "
                    f"{arrays[name].shape}"
                )
        with torch.no_grad():
            for name, value in self._kept():
                value.copy_(torch.from_numpy(arrays[name].copy()).reshape(value.shape))

    def _kept(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in self.state_dict().items():
            if not name.endswith("num_batches_tracked"):  # of no use with a fixed momentum
                yield name, value


def _at(map_: Tensor, at: Tensor) -> Tensor:
    return map_[at[:, 0], :, at[:, 1], at[:, 2]]


def window_of(levels: Sequence[Tensor]) -> Window:
    """Return the features of windows, each level (n, height, width, channels), as `Window`."""
    maps = [level.permute(0, 3, 1, 2) for level in levels]
    finer = [map_ for map_ in maps if map_.shape[2] > CELLS]
    coarse = [
        map_
        if map_.shape[2] == CELLS
        else interpolate(map_, (CELLS, CELLS), mode="bilinear", align_corners=False)
        for map_ in maps[len(finer) :]
    ]
    return Window(torch.cat(coarse, dim=1), finer[::-1])


def middle_of(window: Window) -> Tensor:
    """Return what of a template's window counts: its middle, (n, channels, 8, 8)."""
    first = (CELLS - KERNEL) // 2
    return window.main[:, :, first : first + KERNEL, first : first + KERNEL]
