"""CFLOW's network in NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.heads.scorers.arrays import ArrayScorer
from knnspect.detectors.heads.scorers.resizing import resized
from knnspect.errors import ShapeError
from knnspect.pyramid import FeaturePyramid, describe_shapes

__all__ = ["CFlowScorer"]

#: As those of the network: channels that encode a coordinate, and the largest logarithms of the
#: scales of couplings and of the affine maps between them.
_N_ENCODED = 64
_CLAMP, _CLAMP_BETWEEN = 1.9, -math.log(1e-3)

_Array = NDArray[np.float32]


class CFlowScorer(ArrayScorer):
    """What `CFlowNetwork` says of cells.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Height, width and channels of each level.
    coupling_blocks : int
        Of each flow.
    arrays : mapping of str to ndarray
        What the network's `arrays` returned.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        coupling_blocks: int,
        arrays: Mapping[str, NDArray[Any]],
    ) -> None:
        expected: dict[str, tuple[int, ...]] = {"highest": (len(shapes),)}
        for level, (_, _, n) in enumerate(shapes):
            expected |= {f"mean{level}": (n,), f"deviation{level}": (n,)}
            for block in range(coupling_blocks):
                before = f"flows.{level}.blocks.{block}."
                expected |= {before + name: shape for name, shape in _shapes_of_block(n).items()}
        super().__init__(arrays, expected)
        self._shapes, self._n_blocks = list(shapes), coupling_blocks
        self._flows: list[_Flow] | None = None

    def cell_scores(self, pyramid: FeaturePyramid) -> NDArray[np.float64]:
        """Return how unlike normal each cell of the finest level is, in nats per channel."""
        if pyramid.shapes != self._shapes:
            raise ShapeError(
                f"the image's pyramid is {describe_shapes(pyramid.shapes)}, the flows were trained "
                f"on {describe_shapes(self._shapes)}"
            )
        if self._flows is None:  # what depends on cells alone is large, and made once
            self._flows = [self._flow(level) for level in range(len(self._shapes))]
        size = self._shapes[0][:2]
        total = np.zeros(size)
        for level, flow in enumerate(self._flows):
            features = pyramid.levels[level][0] - self._arrays[f"mean{level}"]
            features /= self._arrays[f"deviation{level}"]
            values = flow.log_likelihood(features.reshape(-1, features.shape[-1]).T)
            relative = np.minimum(values - self._arrays["highest"][level], 0).astype(np.float64)
            total += resized(np.exp(relative).reshape(self._shapes[level][:2]), size)
        smallest = np.finfo(np.float64).tiny
        scores: NDArray[np.float64] = -np.log(np.clip(total / len(self._flows), smallest, 1))
        return scores

    def _flow(self, level: int) -> _Flow:
        height, width, _ = self._shapes[level]
        grid = _encoded(height), _encoded(width)
        flow = _Flow()
        for block in range(self._n_blocks):
            before = f"flows.{level}.blocks.{block}."
            names = [name for name in self._arrays if name.startswith(before)]
            flow.add({name.removeprefix(before): self._arrays[name] for name in names}, grid)
        return flow


class _Flow:
    """A flow over all cells of a level; channels come first."""

    def __init__(self) -> None:
        self._blocks: list[tuple[_Array, ...]] = []
        #: Of the affine maps, which is the same for all features.
        self._log_det = np.float32(0)

    def add(self, of: Mapping[str, _Array], grid: tuple[_Array, _Array]) -> None:
        """Add a coupling block, by its arrays."""
        rows, columns = grid[0] @ of["row.weight"].T, grid[1] @ of["column.weight"].T
        of_cells = (rows[:, None] + columns).reshape(-1, rows.shape[1]) + of["feature.bias"]
        log_scale = _clamped(of["log_scale"], _CLAMP_BETWEEN)
        self._log_det += log_scale.sum()
        self._blocks.append(
            (
                of["feature.weight"],
                np.ascontiguousarray(of_cells.T),
                of["output.weight"],
                of["output.bias"][:, None],
                # The affine map of every channel and the rotation, in one.
                of["rotation"] * np.exp(log_scale),
                (of["rotation"] @ of["shift"])[:, None],
            )
        )

    def log_likelihood(self, features: _Array) -> _Array:
        """Return the log-likelihood of each cell divided by the channels, in nats.

        The features are standardized, shape (n_channels, n_cells).
        """
        z = features
        log_det = np.full(z.shape[1], self._log_det, np.float32)
        for weight, of_cells, output, bias, mixing, shift in self._blocks:
            n_kept = weight.shape[1]
            hidden = np.maximum(weight @ z[:n_kept] + of_cells, 0)
            coupled = output @ hidden + bias
            n_changed = len(coupled) // 2
            log_scale = _clamped(coupled[:n_changed], _CLAMP)
            log_det += log_scale.sum(0)
            changed = z[n_kept:] * np.exp(log_scale) + coupled[n_changed:]
            z = mixing @ np.concatenate([z[:n_kept], changed]) + shift
        n_channels = len(z)
        # In float64, in which no square of a float32 overflows.
        sq_norm = np.square(z, dtype=np.float64).sum(0)
        value: NDArray[Any] = (
            log_det - 0.5 * (sq_norm + n_channels * math.log(2 * math.pi))
        ) / n_channels
        return value.clip(min=np.finfo(np.float32).min).astype(np.float32)


def _shapes_of_block(n_channels: int) -> dict[str, tuple[int, ...]]:
    n_kept = n_channels // 2
    n_changed = n_channels - n_kept
    n_hidden = min(2 * (n_kept + 2 * _N_ENCODED), 2 * n_channels + 16)
    return {
        "feature.weight": (n_hidden, n_kept),
        "feature.bias": (n_hidden,),
        "row.weight": (n_hidden, _N_ENCODED),
        "column.weight": (n_hidden, _N_ENCODED),
        "output.weight": (2 * n_changed, n_hidden),
        "output.bias": (2 * n_changed,),
        "shift": (n_channels,),
        "log_scale": (n_channels,),
        "rotation": (n_channels, n_channels),
    }


def _clamped(scale: _Array, largest: float) -> _Array:
    """Return logarithms of scales, softly between -largest and largest."""
    found: _Array = scale / (1 + np.abs(scale / np.float32(largest)))
    return found


def _encoded(n: int) -> _Array:
    """Return the coordinates 0 to n - 1 as sines and cosines, one row each."""
    steps = np.arange(0, _N_ENCODED, 2, dtype=np.float32)
    angles = np.arange(n, dtype=np.float32)[:, None] * np.exp(
        steps * np.float32(-math.log(1e4) / _N_ENCODED)
    )
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(n, _N_ENCODED)
