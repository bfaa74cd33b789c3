"""The network of ADAE: two autoencoders, one of which tells images by how well it draws them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from knnspect.detectors.reconstruction.networks.base import (
    ReconstructionNetwork,
    Settings,
    variance,
)
from knnspect.detectors.reconstruction.networks.blocks import Decoder, Encoder, Kind
from knnspect.pyramid import FeaturePyramid
from knnspect.training.network import Step

__all__ = ["ADAENetwork"]


class ADAENetwork(ReconstructionNetwork):
    """An autoencoder that draws images, against one that draws real images well and others badly.

    Parameters
    ----------
    shape, settings
        As `ReconstructionNetwork` takes them.
    margin : float
        How badly the discriminator is to draw drawn images, as a share of the standard deviation of
        the images that are learnt from.

    Attributes
    ----------
    deviation : Tensor, shape ()
        That standard deviation.
    """

    deviation: Tensor

    n_parts = 2
    part_names = ("generator", "discriminator")

    def __init__(self, shape: tuple[int, int, int], settings: Settings, margin: float) -> None:
        super().__init__(shape, settings)
        self.margin = margin
        self.register_buffer("deviation", torch.ones(()))
        self.generator, self.discriminator = (
            nn.Sequential(
                # Real and drawn images are judged apart, so that no batch may be normalized as one.
                Encoder(shape, settings.latent_size, settings.width, Kind("none")),
                Decoder(shape, settings.latent_size, settings.width, Kind("layer")),
            )
            for _ in range(2)
        )

    def prepare(self, batches: Iterator[FeaturePyramid]) -> None:
        """Learn how much images differ."""
        self.deviation.copy_(variance(map(self.images_of, batches)).sqrt())

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one for each autoencoder."""
        return [
            torch.optim.Adam(network.parameters(), self.settings.learning_rate, betas=(0.5, 0.999))
            for network in (self.generator, self.discriminator)
        ]

    def learn(
        self,
        images: Tensor,
        generator: torch.Generator,  # noqa: ARG002 - nothing is drawn at random
    ) -> Iterator[Step]:
        """Draw images well and drawn ones badly; then draw better."""
        drawn = self.generator(images)
        yield self.step(self.discriminator_loss(images, drawn.detach()), images, part=1)
        again = _difference(drawn, self.discriminator(drawn))
        yield self.step(_difference(images, drawn) + again, images)

    def discriminator_loss(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return its loss, in which drawn images count up to the margin."""
        real = _difference(images, self.discriminator(images))
        fake = _difference(drawn, self.discriminator(drawn))
        return real - torch.minimum(fake, self.margin * self.deviation)

    def draw(self, images: Tensor) -> Tensor:
        """Return what the discriminator makes of what the generator makes of images."""
        drawn: Tensor = self.discriminator(self.generator(images))
        return drawn

    def scores(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the L2 distance of images and what is drawn."""
        distances: Tensor = (images - drawn).flatten(1).norm(dim=1)
        return distances


def _difference(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).abs().mean()
