"""Squared distances of candidates by one kernel a level, on a GPU.

PyTorch alone passes some 25 times over the features of all candidates; a kernel reads them once.
Values are those of `Grid.features_at` to the bit: the same blends, in float64, and no product fused
with a sum. What they add up to has an order of its own, the same for all candidates, so that equal
features are equally far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from knnspect.backends.torch.upsampling import Grid

__all__ = ["sq_distances"]

#: Channels that one program looks at together.
CHANNELS = 128


def sq_distances(
    features: Tensor,
    grid: Grid,
    gallery: Sequence[Tensor],
    candidates: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """Return the squared distances of candidates; see `knnspect.backends.torch.rescore.rescore`."""
    cells, images, places = candidates
    found = torch.zeros(len(cells), dtype=torch.float64, device=features.device)
    first = 0
    for level, (down, across) in zip(gallery, grid.taps, strict=True):
        _, height, width, channels = level.shape
        if len(cells):
            _add_level[(len(cells),)](
                found,
                features,
                level.contiguous(),
                cells,
                images,
                places,
                *(down.first, down.second, down.weight),
                *(across.first, across.second, across.weight),
                first=first,
                n_features=grid.n_features,
                grid_width=grid.width,
                height=height,
                width=width,
                channels=channels,
                IS_FINEST=(height, width) == (grid.height, grid.width),
                CHANNELS=CHANNELS,
                num_warps=1,
                enable_fp_fusion=False,
            )
        first += channels
    return found


@triton.jit
def _add_level(  # type: ignore[no-untyped-def]
    found,
    features,
    level,
    cells,
    images,
    places,
    down_first,
    down_second,
    down_weight,
    across_first,
    across_second,
    across_weight,
    first,
    n_features,
    grid_width,
    height,
    width,
    channels,
    IS_FINEST: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
):
    """Add what one level makes of the squared distance of one candidate."""
    pair = tl.program_id(0)
    place = tl.load(places + pair)
    row, column = place // grid_width, place % grid_width
    query = features + tl.load(cells + pair) * n_features + first
    image = level + tl.load(images + pair) * height * width * channels
    top, left = tl.load(down_first + row), tl.load(across_first + column)
    bottom, right = tl.load(down_second + row), tl.load(across_second + column)
    y, x = tl.load(down_weight + row), tl.load(across_weight + column)
    sums = tl.zeros([CHANNELS], tl.float64)
    for start in range(0, channels, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        inside = channel < channels
        corner = image + channel
        value = tl.load(corner + (top * width + left) * channels, inside, 0).to(tl.float64)
        if not IS_FINEST:
            other = tl.load(corner + (top * width + right) * channels, inside, 0).to(tl.float64)
            value = value + x * (other - value)
            below = tl.load(corner + (bottom * width + left) * channels, inside, 0).to(tl.float64)
            other = tl.load(corner + (bottom * width + right) * channels, inside, 0).to(tl.float64)
            below = below + x * (other - below)
            value = value + y * (below - value)
        difference = tl.load(query + channel, inside, 0) - value
        sums += difference * difference
    tl.store(found + pair, tl.load(found + pair) + tl.sum(sums))
