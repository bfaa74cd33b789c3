"""A conditional normalizing flow over the cells of one level: the decoder of CFLOW-AD.

The coupling blocks are zuko's: released this year and tested on current PyTorch, while the last
release of FrEIA, which the paper used, is from 2022. zuko splits, transforms, merges, inverts, and
gives log-determinants; what is ours are the subnets, since they are told where a cell lies, which
can be worked out once per cell instead of once per feature.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from torch.nn.functional import embedding, relu
from zuko.transforms import (
    ComposedTransform,
    CouplingTransform,
    DependentTransform,
    MonotonicAffineTransform,
)

from knnspect.errors import ParameterError

__all__ = ["ConditionalFlow", "PreparedFlow", "encode_positions"]

#: Channels that encode one coordinate; a position has as many for rows and for columns.
_N_ENCODED = 64
#: Logarithms of the scales of coupling blocks lie between -1.9 and 1.9 (the paper's "clamp").
_CLAMP = 1.9


def encode_positions(n: int, n_channels: int = _N_ENCODED) -> Tensor:
    """Encode the coordinates 0 to n - 1 by sines and cosines.

    Parameters
    ----------
    n : int
        How many.
    n_channels : int
        Even; half are sines, half cosines, of wavelengths from 2 pi to 10,000 times that.

    Returns
    -------
    tensor of float32, shape (n, n_channels)
        One row per coordinate.

    Source
    ------
    Gudovskiy et al., CFLOW-AD (2022), section 4; Vaswani et al., "Attention Is All You Need"
    (2017), section 3.5.

    Examples
    --------
    >>> encode_positions(2, 4).round(decimals=2).tolist()
    [[0.0, 1.0, 0.0, 1.0], [0.8399999737739563, 0.5400000214576721, 0.009999999776482582, 1.0]]
    """
    frequencies = torch.exp(torch.arange(0, n_channels, 2) * (-math.log(1e4) / n_channels))
    angles = torch.arange(n)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(n, n_channels).float()


class ConditionalFlow(nn.Module):
    """An invertible network from the features of a level to a normal distribution, told the cell.

    Parameters
    ----------
    n_channels : int
        Channels of the level, at least 2.
    grid : (int, int)
        Its height and width in cells.
    coupling_blocks : int
        Affine coupling blocks; each changes half of the channels by what the others are.

    Raises
    ------
    ParameterError
        If there is a single channel, of which no half can be kept.

    Source
    ------
    Gudovskiy et al., "CFLOW-AD: Real-Time Unsupervised Anomaly Detection with Localization via
    Conditional Normalizing Flows" (2022), section 4.

    Examples
    --------
    >>> flow = ConditionalFlow(n_channels=6, grid=(4, 5), coupling_blocks=2)
    >>> features, cells = torch.randn(3, 6), torch.tensor([0, 7, 19])
    >>> transform = flow.transform(cells)
    >>> bool(torch.allclose(transform.inv(transform(features)), features, atol=1e-5))
    True
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, n_channels: int, grid: tuple[int, int], coupling_blocks: int) -> None:
        super().__init__()
        if n_channels < 2:
            raise ParameterError(
                "levels: a flow needs levels of at least 2 channels, one has a single channel"
            )
        self.n_channels, self.grid = n_channels, grid
        self.register_buffer("rows", encode_positions(grid[0]), persistent=False)
        self.register_buffer("columns", encode_positions(grid[1]), persistent=False)
        self.blocks = nn.ModuleList(_CouplingBlock(n_channels) for _ in range(coupling_blocks))

    def transform(self, cells: Tensor) -> ComposedTransform:
        """Return the transform of features, shape (n_cells, n_channels), at some cells.

        Parameters
        ----------
        cells : tensor of int64, shape (n_cells,)
            Which cell each feature comes from: row times width plus column.
        """
        width = self.grid[1]
        places = cells // width, cells % width
        parts = [
            part
            for block in self._blocks
            for part in block.transforms(self.rows, self.columns, places)
        ]
        return ComposedTransform(*parts)

    def log_likelihood(self, features: Tensor, cells: Tensor) -> Tensor:
        """Return the log-likelihood of features divided by their channels, in nats.

        Parameters
        ----------
        features : tensor of float32, shape (n_cells, n_channels)
            Standardized features.
        cells : tensor of int64, shape (n_cells,)
            Where they lie; see `transform`.

        Returns
        -------
        tensor of float32, shape (n_cells,)
            Finite for all finite features.
        """
        z, log_det = self.transform(cells).call_and_ladj(features)
        return _log_likelihood(z.float(), log_det.float(), dim=1)

    def prepared(self) -> PreparedFlow:
        """Return the same flow for whole levels, without gradients, several times as fast."""
        return PreparedFlow(self)

    @property
    def _blocks(self) -> list[_CouplingBlock]:
        return [block for block in self.blocks if isinstance(block, _CouplingBlock)]


class _CouplingBlock(nn.Module):
    """An affine coupling, an affine map of every channel, and a rotation that mixes channels."""

    kept: Tensor
    rotation: Tensor

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.n_kept = n_channels // 2
        n_changed = n_channels - self.n_kept
        n_inputs = self.n_kept + 2 * _N_ENCODED
        # Twice the inputs, as in the paper, unless that were mostly for the position.
        n_hidden = min(2 * n_inputs, 2 * n_channels + 16)
        # One linear layer over a feature and its position, in three parts.
        self.feature = nn.Linear(self.n_kept, n_hidden)
        self.row = nn.Linear(_N_ENCODED, n_hidden, bias=False)
        self.column = nn.Linear(_N_ENCODED, n_hidden, bias=False)
        bound = n_inputs**-0.5
        for weight in (self.feature.weight, self.feature.bias, self.row.weight, self.column.weight):
            nn.init.uniform_(weight, -bound, bound)
        self.output = nn.Linear(n_hidden, 2 * n_changed)
        with torch.no_grad():  # so that training begins near a mere rotation
            self.output.weight.mul_(0.1)
            self.output.bias.mul_(0.1)
        self.shift = nn.Parameter(torch.zeros(n_channels))
        self.log_scale = nn.Parameter(torch.zeros(n_channels))
        self.register_buffer("rotation", torch.linalg.qr(torch.randn(n_channels, n_channels))[0])
        kept = torch.arange(n_channels) < self.n_kept
        self.register_buffer("kept", kept, persistent=False)

    def position(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the hidden layer is told of all rows and all columns."""
        return self.row(rows), self.column(columns)

    def transforms(
        self, rows: Tensor, columns: Tensor, places: tuple[Tensor, Tensor]
    ) -> tuple[CouplingTransform, DependentTransform, _Rotation]:
        of_rows, of_columns = self.position(rows, columns)
        of_cells = embedding(places[0], of_rows) + embedding(places[1], of_columns)

        def coupled(kept: Tensor) -> DependentTransform:
            # In mixed precision the subnets alone are in bfloat16: what flows stays in float32.
            of_both = self.output(relu(self.feature(kept) + of_cells)).to(kept.dtype)
            scale, shift = of_both.chunk(2, dim=-1)
            affine = MonotonicAffineTransform(shift, scale, slope=math.exp(-_CLAMP))
            return DependentTransform(affine, 1)

        return (
            CouplingTransform(coupled, self.kept),
            DependentTransform(MonotonicAffineTransform(self.shift, self.log_scale), 1),
            _Rotation(self.rotation),
        )


class _Rotation(Transform):
    """A fixed rotation, the paper's "soft permutation"; zuko's own are learnt."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, rotation: Tensor) -> None:
        super().__init__()
        self._rotation = rotation

    def _call(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return x @ self._rotation.T

    def _inverse(self, y: Tensor) -> Tensor:
        with torch.autocast(y.device.type, enabled=False):
            return y @ self._rotation

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        return torch.zeros_like(x[..., 0])

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self._call(x)
        return y, self.log_abs_det_jacobian(x, y)


class PreparedFlow:
    """A flow for whole levels: what depends on the cell alone is worked out beforehand.

    Channels come first, so that the halves that are kept and changed are each contiguous.
    """

    def __init__(self, flow: ConditionalFlow) -> None:
        self._blocks: list[_PreparedBlock] = []
        log_det = torch.zeros(())
        with torch.inference_mode():
            for block in flow._blocks:
                rows, columns = block.position(flow.rows, flow.columns)
                of_cells = (rows[:, None] + columns[None, :]).flatten(0, 1) + block.feature.bias
                affine = MonotonicAffineTransform(block.shift, block.log_scale)
                log_det = log_det.to(rows.device) + affine.log_scale.sum()
                self._blocks.append(
                    _PreparedBlock(
                        block.n_kept,
                        block.feature.weight.clone(),
                        of_cells.T.contiguous(),
                        block.output.weight.clone(),
                        block.output.bias[:, None].clone(),
                        # The affine map of every channel and the rotation, in one.
                        block.rotation * affine.scale,
                        (block.rotation @ block.shift)[:, None],
                    )
                )
        #: Of the affine maps, which is the same for all features.
        self._log_det = log_det

    def log_likelihood(self, features: Tensor) -> Tensor:
        """Return the log-likelihood of every cell divided by the channels, in nats.

        Parameters
        ----------
        features : tensor of float32, shape (n_channels, n_cells)
            Standardized features of all cells of a level, row by row; they are overwritten.

        Returns
        -------
        tensor of float32, shape (n_cells,)
            As `ConditionalFlow.log_likelihood` gives it, but for rounding.
        """
        with torch.inference_mode():
            z, log_det = features, self._log_det.expand(features.shape[1]).clone()
            # Room for what blocks make on the way, which all of them use: new memory for each would
            # take as long as the products.
            hidden, coupled, mixed = (z.new_empty(0) for _ in range(3))
            for block in self._blocks:
                z, mixed = block(z, log_det, hidden, coupled, mixed), z
            return _log_likelihood(z, log_det, dim=0)


class _PreparedBlock:
    """One coupling block over all cells; adds to the log-determinants of its couplings."""

    def __init__(self, n_kept: int, *tensors: Tensor) -> None:
        self.n_kept = n_kept
        self.weight, self.of_cells, self.output, self.bias = tensors[:4]
        self.mixing, self.shift = tensors[4:]

    def __call__(
        self, x: Tensor, log_det: Tensor, hidden: Tensor, coupled: Tensor, mixed: Tensor
    ) -> Tensor:
        torch.addmm(self.of_cells, self.weight, x[: self.n_kept], out=hidden).relu_()
        torch.addmm(self.bias, self.output, hidden, out=coupled)
        n_changed = len(coupled) // 2
        log_scale, shift = coupled[:n_changed], coupled[n_changed:]
        log_scale = log_scale.div_(log_scale.abs().div_(_CLAMP).add_(1))
        log_det += log_scale.sum(0)
        changed = x[self.n_kept :]
        torch.addcmul(shift, changed, log_scale.exp_(), out=changed)
        return torch.addmm(self.shift, self.mixing, x, out=mixed)


def _log_likelihood(z: Tensor, log_det: Tensor, dim: int) -> Tensor:
    """Log-density of z under a standard normal distribution, plus log|det|, per channel."""
    n_channels = z.shape[dim]
    # In float64, in which no square of a float32 overflows.
    sq_norm = z.double().square().sum(dim)
    constant = n_channels * math.log(2 * math.pi)
    value = (log_det - 0.5 * (sq_norm + constant)) / n_channels
    return value.clamp(min=torch.finfo(torch.float32).min).float()
