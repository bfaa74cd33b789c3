"""Encoders, decoders and discriminators for images whose sides are multiples of 4.

Each halving of an image is a convolution of 4x4 with stride 2, each doubling its transpose (the
DCGAN kind: Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep
Convolutional Generative Adversarial Networks", 2016), or a residual block with an average or a
repetition of pixels (the residual kind).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, leaky_relu
from torch.nn.utils.parametrizations import spectral_norm

__all__ = [
    "Decoder",
    "Discriminator",
    "Encoder",
    "JointDiscriminator",
    "Kind",
    "Trunk",
    "dcgan_weights_",
    "mlp",
    "n_halvings",
]

#: The slope of leaky ReLUs below zero, and how much wider the deepest convolutions may get.
_SLOPE, _WIDEST = 0.2, 4


@dataclass(frozen=True)
class Kind:
    """How blocks are made.

    Parameters
    ----------
    norm : {"batch", "layer", "none"}
        What normalizes activations. Critics with a gradient penalty must not have "batch", as the
        penalty is one image's.
    is_spectral : bool
        Whether the spectral norm of each layer is 1.
    is_residual : bool
        Whether blocks are residual.
    """

    norm: Literal["batch", "layer", "none"] = "batch"
    is_spectral: bool = False
    is_residual: bool = False

    def layer(self, layer: nn.Module) -> nn.Module:
        """Return a convolution or linear layer, with its norm if it is to have one."""
        return spectral_norm(layer) if self.is_spectral else layer

    def normalization(self, channels: int) -> nn.Module:
        """Return what normalizes channels."""
        if self.norm == "batch":
            return nn.BatchNorm2d(channels)
        return nn.GroupNorm(1, channels) if self.norm == "layer" else nn.Identity()


def n_halvings(height: int, width: int, smallest: int = 4) -> int:
    """Return how often both sides can be halved without one getting smaller than `smallest`.

    >>> n_halvings(28, 28), n_halvings(64, 64), n_halvings(100, 72), n_halvings(256, 256)
    (2, 4, 2, 6)
    """
    n = 0
    while height % 2 == width % 2 == 0 and min(height, width) // 2 >= smallest:
        height, width, n = height // 2, width // 2, n + 1
    return n


class Trunk(nn.Sequential):
    """Halves images as often as they can be: (n, channels, h, w) to (n, `channels`, *`grid`).

    Parameters
    ----------
    shape : (int, int, int)
        Height, width and channels of the images.
    width : int
        Channels after the first convolution; they double, up to four times as many.
    kind : Kind
        How blocks are made.
    halvings : int, optional
        How often images are halved, at most `n_halvings`.

    Attributes
    ----------
    channels : int
        Of what comes out.
    grid : (int, int)
        Height and width of what comes out.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        width: int,
        kind: Kind | None = None,
        halvings: int | None = None,
    ) -> None:
        kind = kind or Kind()
        height, breadth, channels = shape
        n = n_halvings(height, breadth) if halvings is None else halvings
        layers: list[nn.Module] = []
        for place in range(n):
            wider = width * min(2**place, _WIDEST)
            if kind.is_residual:
                layers.append(_Halving(channels, wider, kind, is_first=place == 0))
            else:
                layers.append(kind.layer(nn.Conv2d(channels, wider, 4, 2, 1)))
                # As in the paper of DCGAN, the first layer of a discriminator has none.
                layers += [kind.normalization(wider)] if place > 0 else []
                layers.append(nn.LeakyReLU(_SLOPE))
            channels = wider
        super().__init__(*layers)
        self.channels = channels
        self.grid = (height >> n, breadth >> n)

    @property
    def n_features(self) -> int:
        """Numbers that come out for an image."""
        return self.channels * self.grid[0] * self.grid[1]


class Encoder(nn.Module):
    """Describes images by some numbers each: (n, channels, h, w) to (n, `n_outputs`)."""

    def __init__(
        self, shape: tuple[int, int, int], n_outputs: int, width: int, kind: Kind | None = None
    ) -> None:
        super().__init__()
        self.trunk = Trunk(shape, width, kind)
        self.head = (kind or Kind()).layer(nn.Linear(self.trunk.n_features, n_outputs))

    def forward(self, images: Tensor) -> Tensor:
        """Describe images."""
        found: Tensor = self.head(self.trunk(images).flatten(1))
        return found


class Decoder(nn.Module):
    """Draws images by some numbers each: (n, `n_inputs`) to (n, channels, h, w).

    Parameters
    ----------
    shape : (int, int, int)
        Height, width and channels of the images.
    n_inputs : int
        Numbers by which an image is drawn.
    width : int
        Channels before the last convolution.
    kind : Kind, optional
        How blocks are made.
    output : {"tanh", "sigmoid", "linear"}
        What brings pixels to their range.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        n_inputs: int,
        width: int,
        kind: Kind | None = None,
        output: Literal["tanh", "sigmoid", "linear"] = "tanh",
    ) -> None:
        super().__init__()
        kind = kind or Kind()
        height, breadth, channels = shape
        n = n_halvings(height, breadth)
        self.grid = (height >> n, breadth >> n)
        self.channels = width * min(2 ** (n - 1), _WIDEST)
        self.first = kind.layer(nn.Linear(n_inputs, self.channels * math.prod(self.grid)))
        layers: list[nn.Module] = [kind.normalization(self.channels), nn.ReLU()]
        now = self.channels
        for place in reversed(range(n)):
            narrower = channels if place == 0 else width * min(2 ** (place - 1), _WIDEST)
            if kind.is_residual:
                narrower = width if place == 0 else narrower
                layers.append(_Doubling(now, narrower, kind))
            else:
                layers.append(kind.layer(nn.ConvTranspose2d(now, narrower, 4, 2, 1)))
                if place > 0:
                    layers += [kind.normalization(narrower), nn.ReLU()]
            now = narrower
        if kind.is_residual:
            layers += [kind.normalization(now), nn.ReLU(), nn.Conv2d(now, channels, 3, padding=1)]
        last = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "linear": nn.Identity}[output]
        self.layers = nn.Sequential(*layers, last())

    def forward(self, codes: Tensor) -> Tensor:
        """Draw images."""
        drawn: Tensor = self.layers(self.first(codes).unflatten(1, (self.channels, *self.grid)))
        return drawn


class Discriminator(nn.Module):
    """Tells images from others: one number each, and the features that it is made of.

    Parameters
    ----------
    shape : (int, int, int)
        Height, width and channels of the images; with two images side by side as channels, twice
        as many channels.
    width : int
        Channels after the first convolution.
    kind : Kind, optional
        How blocks are made.
    """

    def __init__(self, shape: tuple[int, int, int], width: int, kind: Kind | None = None) -> None:
        super().__init__()
        self.trunk = Trunk(shape, width, kind)
        self.head = (kind or Kind()).layer(nn.Linear(self.trunk.n_features, 1))

    def features(self, images: Tensor) -> Tensor:
        """Return what comes before the last layer, shape (n_images, n_features)."""
        found: Tensor = self.trunk(images).flatten(1)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (n_images,)."""
        judged: Tensor = self.head(self.features(images))[:, 0]
        return judged


class JointDiscriminator(nn.Module):
    """Tells pairs of an image and a code from other pairs.

    Parameters
    ----------
    shape : (int, int, int)
        Height, width and channels of the images.
    n_codes : int
        Numbers of a code.
    width : int
        Channels after the first convolution.
    hidden : int
        Numbers that image and code are brought to, each, and both together.
    kind : Kind, optional
        How blocks are made.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        n_codes: int,
        width: int,
        hidden: int = 256,
        kind: Kind | None = None,
    ) -> None:
        super().__init__()
        kind = kind or Kind()
        self.trunk = Trunk(shape, width, kind)
        self.of_image = kind.layer(nn.Linear(self.trunk.n_features, hidden))
        self.of_code = kind.layer(nn.Linear(n_codes, hidden))
        self.of_both = kind.layer(nn.Linear(2 * hidden, hidden))
        self.head = kind.layer(nn.Linear(hidden, 1))

    def features(self, images: Tensor, codes: Tensor) -> Tensor:
        """Return what comes before the last layer, shape (n_images, hidden)."""
        image = leaky_relu(self.of_image(self.trunk(images).flatten(1)), _SLOPE)
        code = leaky_relu(self.of_code(codes), _SLOPE)
        return leaky_relu(self.of_both(torch.cat([image, code], dim=1)), _SLOPE)

    def forward(self, images: Tensor, codes: Tensor) -> Tensor:
        """Return logits, shape (n_images,)."""
        judged: Tensor = self.head(self.features(images, codes))[:, 0]
        return judged


def mlp(*sizes: int, kind: Kind | None = None) -> nn.Sequential:
    """Return linear layers of these sizes, with leaky ReLUs between them.

    >>> mlp(3, 8, 1)(torch.zeros(5, 3)).shape
    torch.Size([5, 1])
    """
    kind = kind or Kind()
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [kind.layer(nn.Linear(before, after)), nn.LeakyReLU(_SLOPE)]
    return nn.Sequential(*layers[:-1])


def dcgan_weights_(network: nn.Module) -> None:
    """Draw weights anew, as the paper of DCGAN does: convolutions with a deviation of 0.02."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
            nn.init.zeros_(layer.bias)


class _Halving(nn.Module):
    """A residual block that halves its input."""

    def __init__(self, before: int, after: int, kind: Kind, is_first: bool) -> None:
        super().__init__()
        self.is_first = is_first
        self.body = nn.Sequential(
            *([] if is_first else [kind.normalization(before), nn.LeakyReLU(_SLOPE)]),
            kind.layer(nn.Conv2d(before, after, 3, padding=1)),
            kind.normalization(after),
            nn.LeakyReLU(_SLOPE),
            kind.layer(nn.Conv2d(after, after, 3, padding=1)),
        )
        self.shortcut = kind.layer(nn.Conv2d(before, after, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """Halve maps."""
        halved: Tensor = self.shortcut(avg_pool2d(maps, 2)) + avg_pool2d(self.body(maps), 2)
        return halved


class _Doubling(nn.Module):
    """A residual block that doubles its input."""

    def __init__(self, before: int, after: int, kind: Kind) -> None:
        super().__init__()
        self.before = nn.Sequential(kind.normalization(before), nn.ReLU())
        self.body = nn.Sequential(
            kind.layer(nn.Conv2d(before, after, 3, padding=1)),
            kind.normalization(after),
            nn.ReLU(),
            kind.layer(nn.Conv2d(after, after, 3, padding=1)),
        )
        self.shortcut = kind.layer(nn.Conv2d(before, after, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """Double maps."""
        doubled: Tensor = self.shortcut(interpolate(maps, scale_factor=2.0)) + self.body(
            interpolate(self.before(maps), scale_factor=2.0)
        )
        return doubled
