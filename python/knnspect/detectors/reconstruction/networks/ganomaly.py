"""The network of GANomaly: an encoder, a decoder, an encoder again, and a discriminator."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from knnspect.detectors.reconstruction.networks.base import ReconstructionNetwork, Settings
from knnspect.detectors.reconstruction.networks.blocks import (
    Decoder,
    Discriminator,
    Encoder,
    dcgan_weights_,
)
from knnspect.detectors.reconstruction.networks.losses import as_fake, as_real, feature_distance
from knnspect.training.network import Step

__all__ = ["GANomalyNetwork"]


class GANomalyNetwork(ReconstructionNetwork):
    """A generator that encodes what it drew once more, against a discriminator.

    Parameters
    ----------
    shape, settings
        As `ReconstructionNetwork` takes them.
    weights : (float, float, float)
        Of the adversarial, the contextual and the encoder loss.
    """

    n_parts = 2
    part_names = ("generator", "discriminator")

    def __init__(
        self,
        shape: tuple[int, int, int],
        settings: Settings,
        weights: tuple[float, float, float],
    ) -> None:
        super().__init__(shape, settings)
        self.weights = weights
        latent, width = settings.latent_size, settings.width
        self.encoder = Encoder(shape, latent, width)
        self.decoder = Decoder(shape, latent, width)
        self.encoder_of_drawn = Encoder(shape, latent, width)
        self.discriminator = Discriminator(shape, width)
        dcgan_weights_(self)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one for the generator and one for the discriminator (the paper, section 4)."""
        generator = (self.encoder, self.decoder, self.encoder_of_drawn)
        return [
            torch.optim.Adam(parameters, self.settings.learning_rate, betas=(0.5, 0.999))
            for parameters in (
                [weight for part in generator for weight in part.parameters()],
                list(self.discriminator.parameters()),
            )
        ]

    def learn(
        self,
        images: Tensor,
        generator: torch.Generator,  # noqa: ARG002 - nothing is drawn at random
    ) -> Iterator[Step]:
        """Tell images from drawn ones; then draw better."""
        codes = self.encoder(images)
        drawn = self.decoder(codes)
        real, fake = self.discriminator(images), self.discriminator(drawn.detach())
        yield self.step((as_real(real) + as_fake(fake)) / 2, images, part=1)
        yield self.step(self.generator_loss(images, codes, drawn), images)

    def generator_loss(self, images: Tensor, codes: Tensor, drawn: Tensor) -> Tensor:
        """Return the weighted sum of three losses (the paper, equations 1 to 4)."""
        with torch.no_grad():
            features = self.discriminator.features(images)
        losses = (
            feature_distance(features, self.discriminator.features(drawn)),
            (images - drawn).abs().mean(),
            feature_distance(codes, self.encoder_of_drawn(drawn)),
        )
        terms = [weight * loss for weight, loss in zip(self.weights, losses, strict=True)]
        return torch.stack(terms).sum()

    def draw(self, images: Tensor) -> Tensor:
        """Return what the generator makes of images."""
        drawn: Tensor = self.decoder(self.encoder(images))
        return drawn

    def scores(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the L1 distance of the codes of images and of what is drawn (equation 5)."""
        difference: Tensor = self.encoder(images) - self.encoder_of_drawn(drawn)
        return difference.abs().sum(dim=1)
