"""The network of Skip-GANomaly: a U-Net and a discriminator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from knnspect.detectors.reconstruction.networks.base import ReconstructionNetwork, Settings
from knnspect.detectors.reconstruction.networks.blocks import (
    Discriminator,
    dcgan_weights_,
    n_halvings,
)
from knnspect.detectors.reconstruction.networks.losses import as_fake, as_real, feature_distance
from knnspect.training.network import Step

__all__ = ["SkipGANomalyNetwork", "UNet"]


class SkipGANomalyNetwork(ReconstructionNetwork):
    """A U-Net that draws images, against a discriminator whose features describe them.

    Parameters
    ----------
    shape, settings
        As `ReconstructionNetwork` takes them.
    weights : (float, float, float)
        Of the adversarial, the contextual and the latent loss.
    residual_share : float
        The weight of the residual in the score; that of features is the rest to 1.
    noise : float
        Standard deviation of the noise, where black is 0 and white 1.
    """

    n_parts = 2
    part_names = ("generator", "discriminator")

    def __init__(
        self,
        shape: tuple[int, int, int],
        settings: Settings,
        weights: tuple[float, float, float],
        residual_share: float,
        noise: float,
    ) -> None:
        super().__init__(shape, settings)
        self.weights, self.residual_share = weights, residual_share
        self.noise = noise * (1 - self.black)
        self.generator = UNet(shape, settings.latent_size, settings.width)
        self.discriminator = Discriminator(shape, settings.width)
        dcgan_weights_(self)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one for the generator and one for the discriminator."""
        return [
            torch.optim.Adam(network.parameters(), self.settings.learning_rate, betas=(0.5, 0.999))
            for network in (self.generator, self.discriminator)
        ]

    def learn(self, images: Tensor, generator: torch.Generator) -> Iterator[Step]:
        """Tell images from drawn ones; then draw better."""
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        drawn = self.generator(images + self.noise * noise)
        real, fake = self.discriminator(images), self.discriminator(drawn.detach())
        yield self.step((as_real(real) + as_fake(fake)) / 2, images, part=1)
        yield self.step(self.generator_loss(images, drawn), images)

    def generator_loss(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the weighted sum of three losses (the paper, equations 2 to 5)."""
        with torch.no_grad():
            features = self.discriminator.features(images)
        features_of_drawn = self.discriminator.features(drawn)
        losses = (
            as_real(self.discriminator.head(features_of_drawn)),
            (images - drawn).abs().mean(),
            feature_distance(features, features_of_drawn),
        )
        terms = [weight * loss for weight, loss in zip(self.weights, losses, strict=True)]
        return torch.stack(terms).sum()

    def draw(self, images: Tensor) -> Tensor:
        """Return what the generator makes of images, with the same noise on each."""
        # Drawn on the CPU, so that it is the same on every device.
        noise = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(0))
        drawn: Tensor = self.generator(images + self.noise * noise.to(images.device))
        return drawn

    def scores(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the weighted sum of residual and feature distance (the paper, equation 6)."""
        residual = (images - drawn).abs().flatten(1).mean(dim=1)
        features = self.discriminator.features(images) - self.discriminator.features(drawn)
        distance = features.square().mean(dim=1).sqrt()
        return self.residual_share * residual + (1 - self.residual_share) * distance


class UNet(nn.Module):
    """An encoder and a decoder whose every doubling sees the maps of the same size, too.

    Parameters
    ----------
    shape : (int, int, int)
        Height, width and channels of the images.
    latent_size : int
        Numbers in the middle.
    width : int
        Channels after the first convolution; they double, up to four times as many.
    """

    def __init__(self, shape: tuple[int, int, int], latent_size: int, width: int) -> None:
        super().__init__()
        height, breadth, n_channels = shape
        n = n_halvings(height, breadth)
        channels = [n_channels, *(width * min(2**place, 4) for place in range(n))]
        deepest = (channels[-1], height >> n, breadth >> n)
        self.halvings = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 4, 2, 1),
                nn.BatchNorm2d(after) if place > 0 else nn.Identity(),
                nn.LeakyReLU(0.2),
            )
            for place, (before, after) in enumerate(pairwise(channels))
        )
        self.middle = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(deepest), latent_size),
            nn.LeakyReLU(0.2),
            nn.Linear(latent_size, math.prod(deepest)),
            nn.Unflatten(1, deepest),
            nn.BatchNorm2d(deepest[0]),
            nn.ReLU(),
        )
        self.doublings = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(2 * before, after, 4, 2, 1),
                *([nn.BatchNorm2d(after), nn.ReLU()] if place > 0 else [nn.Tanh()]),
            )
            for place, (after, before) in reversed(list(enumerate(pairwise(channels))))
        )

    def forward(self, images: Tensor) -> Tensor:
        """Draw images."""
        maps: Tensor = images
        skipped: list[Tensor] = []
        for halving in self.halvings:
            maps = halving(maps)
            skipped.append(maps)
        maps = self.middle(maps)
        for doubling, skip in zip(self.doublings, reversed(skipped), strict=True):
            maps = doubling(torch.cat([maps, skip], dim=1))
        return maps
