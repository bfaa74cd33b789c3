"""How far the cells of a network see: measured, so that it is known of any network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.features.network import Network
from knnspect.pyramid import FeaturePyramid

__all__ = ["reach_of"]

#: Lengths of inputs on which it is measured; what reaches as far as the second is all of an input.
_LENGTHS = (512, 2048)
_WIDTH = 64


def reach_of(network: Network, multiple: int) -> list[int] | None:
    """Return for each level how many pixels beyond a cell its features depend on.

    Half of an input has values that are no numbers: whatever depends on them is no number, too.
    Whole cells are counted, to the farther side. (A network that makes numbers of NaN, such as one
    in int8, is given two inputs instead, of which one half differs; the cells that do not, too.)

    Parameters
    ----------
    network : Network
        It takes inputs of any size.
    multiple : int
        The stride of the coarsest level, of which sides of inputs are multiples.

    Returns
    -------
    list of int or None
        Multiples of each level's stride; None for a network whose cells depend on the whole input.

    Examples
    --------
    >>> from knnspect.features import Backbone
    >>> reach_of(Backbone(resize="own", device="cpu")._load(), 16)
    [12, 40, 176]
    """
    for length in _LENGTHS:
        size = (length - length % (2 * multiple), _WIDTH + -_WIDTH % multiple)
        found = [_measured(network, size, flips, turned) for flips in (0, 1) for turned in (0, 1)]
        if all(None not in of_way for of_way in found):
            return [max(of_level) for of_level in zip(*found, strict=True)]
    return None


def _measured(network: Network, size: tuple[int, int], flips: int, turned: int) -> list[int | None]:
    """Return the reach of each level, upwards or with `flips` downwards, None if it is too far.

    With `turned` it is measured along columns, else along rows.
    """
    length = size[0]
    random = np.random.default_rng(0).random((2, 3, *size), np.float32)

    def along(image: NDArray[np.float32]) -> NDArray[np.float32]:
        image = image[:, ::-1] if flips else image
        return np.ascontiguousarray(image.transpose(0, 2, 1) if turned else image)

    def differs(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
        cells = ((one != other) | np.isnan(one)).any(axis=-1)
        rows: NDArray[np.bool_] = cells.any(axis=0) if turned else cells.any(axis=1)
        return rows[::-1] if flips else rows

    half = length // 2
    plain, not_numbers, other = random[0], random[0].copy(), random[0].copy()
    not_numbers[:, :half] = np.nan
    other[:, :half] = random[1, :, :half]
    base = _levels(network, along(plain))
    found: list[int | None] = []
    changed = [
        differs(*pair) for pair in zip(_levels(network, along(not_numbers)), base, strict=True)
    ]
    if not all(rows[: len(rows) // 2].all() for rows in changed):
        changed = [
            differs(*pair) for pair in zip(_levels(network, along(other)), base, strict=True)
        ]
    for rows in changed:
        n_beyond = int(rows[len(rows) // 2 :].sum())
        found.append(
            None if n_beyond == len(rows) - len(rows) // 2 else n_beyond * length // len(rows)
        )
    return found


def _levels(network: Network, image: NDArray[np.float32]) -> list[NDArray[Any]]:
    pyramid: FeaturePyramid = network.forward([image], 1, pooled=False)[0]
    return [level[0] for level in pyramid.levels]
