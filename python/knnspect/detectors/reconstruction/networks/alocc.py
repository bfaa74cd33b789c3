"""The network of ALOCC: a denoising autoencoder against a discriminator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from knnspect.detectors.reconstruction.networks.base import (
    ReconstructionNetwork,
    Settings,
    variance,
)
from knnspect.detectors.reconstruction.networks.blocks import Decoder, Discriminator, Encoder
from knnspect.detectors.reconstruction.networks.losses import as_fake, as_real
from knnspect.pyramid import FeaturePyramid
from knnspect.training.network import Step

__all__ = ["ALOCCNetwork"]


class ALOCCNetwork(ReconstructionNetwork):
    """A reconstructor that draws noisy images without noise, against a discriminator.

    Parameters
    ----------
    shape, settings
        As `ReconstructionNetwork` takes them.
    weight : float
        Of the squared difference of images and what is drawn.
    noise : float
        Standard deviation of the noise, where black is 0 and white 1.
    judged : {"drawn", "image"}
        What the discriminator judges.
    enough : float
        Training stops as soon as what is drawn of images held out differs by less than this share
        of the variance of images.

    Attributes
    ----------
    variance : Tensor, shape ()
        The variance of the images that are learnt from.
    """

    n_parts = 2
    part_names = ("reconstructor", "discriminator")
    variance: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        settings: Settings,
        weight: float,
        noise: float,
        judged: Literal["drawn", "image"],
        enough: float,
    ) -> None:
        super().__init__(shape, settings)
        self.weight, self.judged, self.stops_below = weight, judged, enough
        self.noise = noise * (1 - self.black)
        self.register_buffer("variance", torch.ones(()))
        self.encoder = Encoder(shape, settings.latent_size, settings.width)
        self.decoder = Decoder(shape, settings.latent_size, settings.width)
        self.discriminator = Discriminator(shape, settings.width)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one for the reconstructor and one for the discriminator."""
        parts = (
            [*self.encoder.parameters(), *self.decoder.parameters()],
            list(self.discriminator.parameters()),
        )
        rate = self.settings.learning_rate
        return [torch.optim.Adam(part, rate, betas=(0.5, 0.999)) for part in parts]

    def prepare(self, batches: Iterator[FeaturePyramid]) -> None:
        """Learn how much images differ."""
        self.variance.copy_(variance(map(self.images_of, batches)))

    def learn(self, images: Tensor, generator: torch.Generator) -> Iterator[Step]:
        """Tell images from drawn ones; then draw better."""
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        drawn = self.draw(images + self.noise * noise)
        real, fake = self.discriminator(images), self.discriminator(drawn.detach())
        yield self.step((as_real(real) + as_fake(fake)) / 2, images, part=1)
        yield self.step(self.reconstructor_loss(images, drawn), images)

    def reconstructor_loss(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the adversarial and the weighted reconstruction loss (equations 3 to 5)."""
        squared = (images - drawn).square().mean() / self.variance
        return as_real(self.discriminator(drawn)) + self.weight * squared

    def draw(self, images: Tensor) -> Tensor:
        """Return what the reconstructor makes of images."""
        drawn: Tensor = self.decoder(self.encoder(images))
        return drawn

    def scores(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return how sure the discriminator is that these are no normal images, from 0 to 1."""
        logits: Tensor = self.discriminator(drawn if self.judged == "drawn" else images)
        return (-logits.double()).sigmoid()

    def held_out_losses(self, batch: FeaturePyramid) -> list[tuple[float, int]]:
        """Return the mean squared residual as a share of the variance, and the number of images."""
        shares = [
            (images - self.draw(images))[:n].square().mean().double() / self.variance * n
            for images, n in self._some(batch)
        ]
        return [(float(np.sum([share.cpu() for share in shares])), len(batch.levels[0]))]
