"""Parts of SiamMask's network: depth-wise correlation, branches, and the refinement of masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pad

from knnspect.locators.siam_mask.geometry import CELLS, FINE

__all__ = ["Branch", "Refinement", "depthwise_correlation", "windows_at"]

#: Cells of stride 8 on a side of what a mask shows, and of these before its location.
_SIDE, _BEFORE = 16, 4


def depthwise_correlation(search: Tensor, kernel: Tensor) -> Tensor:
    """Correlate each channel of each window with the same channel of its template.

    Parameters
    ----------
    search : tensor, shape (n, channels, height, width)
        Features of windows.
    kernel : tensor, shape (n, channels, rows, columns)
        Those of templates, one for each window.

    Returns
    -------
    tensor, shape (n, channels, height - rows + 1, width - columns + 1)
        The sum of products at each place at which the template lies in the window.

    Examples
    --------
    >>> depthwise_correlation(torch.ones(1, 2, 4, 4), torch.ones(1, 2, 3, 3))[0, 0].tolist()
    [[9.0, 9.0], [9.0, 9.0]]
    """
    n, channels = search.shape[:2]
    groups = n * channels
    joined = search.reshape(1, groups, *search.shape[2:])
    kernels = kernel.reshape(groups, 1, *kernel.shape[2:])
    found = conv2d(joined, kernels, groups=groups)
    return found.reshape(n, channels, *found.shape[2:])


def convolved(n_in: int, n_out: int, side: int) -> nn.Sequential:
    """Return a convolution without a border, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, side, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)
    )


class Branch(nn.Module):
    """Template and window, each through a 3x3 convolution, correlated, and a head of 1x1.

    Parameters
    ----------
    width : int
        Channels of all but the end.
    outputs : int
        Channels of the end.

    Examples
    --------
    >>> branch = Branch(4, 2)
    >>> found = branch.correlated(torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 32, 32))
    >>> found.shape, branch.head(found).shape
    (torch.Size([2, 4, 25, 25]), torch.Size([2, 2, 25, 25]))
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.template = convolved(width, width, 3)
        self.search = convolved(width, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Sequential(convolved(width, width, 1), nn.Conv2d(width, outputs, 1))

    def correlated(self, template: Tensor, search: Tensor) -> Tensor:
        """Return the features of each location; templates as many as windows, or one."""
        kernel = self.template(template).expand(len(search), -1, -1, -1)
        found: Tensor = self.norm(depthwise_correlation(self.search(search), kernel))
        return found


class Refinement(nn.Module):
    """Draws the mask of a location with the help of finer features of the window.

    Parameters
    ----------
    width : int
        Channels of what a location has, and of the window's features at stride 8.
    finer : sequence of int
        Channels of the levels of strides 4 and 2 that there are, in this order.

    Examples
    --------
    >>> refinement = Refinement(4, [3])
    >>> finer = [torch.zeros(2, 3, 64, 64)]
    >>> at = torch.zeros(5, 3, dtype=torch.long)
    >>> refinement(torch.zeros(5, 4), torch.zeros(2, 4, 32, 32), finer, at).shape
    torch.Size([5, 127, 127])
    """

    def __init__(self, width: int, finer: Sequence[int]) -> None:
        super().__init__()
        channels = [32, 16, 8][: len(finer) + 1]
        self.begin = nn.ConvTranspose2d(width, channels[0], _SIDE)
        self.skips = nn.ModuleList(
            nn.Sequential(nn.Conv2d(n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out))
            for n_in, n_out in zip([width, *finer], channels, strict=True)
        )
        self.mixed = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(n, n, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(n, n, 3, padding=1),
                nn.ReLU(inplace=True),
            )
            for n in channels
        )
        self.narrower = nn.ModuleList(
            nn.Conv2d(n, m, 3, padding=1)
            for n, m in zip(channels, [*channels[1:], channels[-1]], strict=True)
        )
        self.end = nn.Conv2d(channels[-1], 1, 3, padding=1)

    def forward(self, found: Tensor, search: Tensor, finer: Sequence[Tensor], at: Tensor) -> Tensor:
        """Return a logit for each pixel, shape (n, 127, 127).

        Parameters
        ----------
        found : tensor, shape (n, width)
            What locations have.
        search : tensor, shape (n_windows, width, 32, 32)
            Features of their windows.
        finer : sequence of tensor
            Finer ones.
        at : tensor of long, shape (n, 3)
            Window, row and column of each location.
        """
        map_ = self.begin(found[:, :, None, None])
        levels = [search, *finer]
        for place, level in enumerate(levels):
            # The 1x1 convolution goes before the cut, once for each window.
            skip = windows_at(self.skips[place](level), at)
            map_ = self.mixed[place](map_ + skip)
            side = 2 * map_.shape[-1] if place < len(levels) - 1 else FINE
            map_ = interpolate(map_, (side, side), mode="bilinear", align_corners=False)
            map_ = self.narrower[place](map_).relu()
        drawn: Tensor = self.end(map_)
        return drawn[:, 0]


def windows_at(level: Tensor, at: Tensor) -> Tensor:
    """Return what the masks of locations show of features, zeros beyond the window.

    Parameters
    ----------
    level : tensor, shape (n_windows, channels, side, side)
        Features; the side is 32 times a power of two.
    at : tensor of long, shape (n, 3)
        Window, row and column of each location.

    Returns
    -------
    tensor, shape (n, channels, side / 2, side / 2)
    """
    finer = level.shape[-1] // CELLS
    side, before = finer * _SIDE, finer * _BEFORE
    padded = pad(level, (before, before, before, before))
    steps = torch.arange(side, device=level.device)
    rows = (at[:, 1] * finer)[:, None] + steps
    columns = (at[:, 2] * finer)[:, None] + steps
    cut = padded.permute(0, 2, 3, 1)[at[:, 0][:, None, None], rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2)
