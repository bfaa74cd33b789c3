"""The network of ALAE: two halves of a generator, two halves of a discriminator."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from knnspect.detectors.reconstruction.networks.base import (
    ReconstructionNetwork,
    Settings,
    variance,
)
from knnspect.detectors.reconstruction.networks.blocks import Decoder, Encoder, Kind, mlp
from knnspect.detectors.reconstruction.networks.losses import (
    as_fake,
    as_real,
    feature_distance,
    r1_penalty,
)
from knnspect.pyramid import FeaturePyramid
from knnspect.training.network import Step

__all__ = ["ALAENetwork"]


class ALAENetwork(ReconstructionNetwork):
    """F makes codes of noise, G draws by codes, E describes images by codes, D judges codes.

    Parameters
    ----------
    shape, settings
        As `ReconstructionNetwork` takes them.
    gamma : float
        Twice the weight of the penalty of the gradient at real images.
    image_weight : float
        Of the absolute difference of images and what is drawn of them.
    latent_weight : float
        Of the distance of codes in the score.

    Attributes
    ----------
    deviation : Tensor, shape ()
        Standard deviation of the codes of normal images.
    """

    n_parts = 2
    #: Reciprocity counts among the losses of the generator.
    part_names = ("generator", "discriminator")
    deviation: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        settings: Settings,
        gamma: float,
        image_weight: float,
        latent_weight: float,
    ) -> None:
        super().__init__(shape, settings)
        self.gamma, self.image_weight, self.latent_weight = gamma, image_weight, latent_weight
        self.register_buffer("deviation", torch.ones(()))
        latent, width = settings.latent_size, settings.width
        hidden = 2 * latent
        self.mapping = mlp(latent, hidden, hidden, latent)
        # The penalty of the gradient is one image's, and codes of noise and of images differ: what
        # is normalized is therefore one image, not the batch.
        self.generator = Decoder(shape, latent, width, Kind("layer"))
        self.encoder = Encoder(shape, latent, width, Kind("none"))
        self.discriminator = mlp(latent, hidden, hidden, 1)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one for F and G, and one for E and D (the paper, section 5)."""
        parts = ((self.mapping, self.generator), (self.encoder, self.discriminator))
        return [
            torch.optim.Adam(
                [weight for network in part for weight in network.parameters()],
                self.settings.learning_rate,
                betas=(0.0, 0.99),
            )
            for part in parts
        ]

    def learn(self, images: Tensor, generator: torch.Generator) -> Iterator[Step]:
        """Tell codes of images from those of drawn ones; draw better; then encode better."""
        yield self.step(self.discriminator_loss(images, self._noise(images, generator)), images, 1)
        yield self.step(as_real(self._judged(self._drawn(images, generator))), images)
        loss = self.reciprocity_loss(images, self._noise(images, generator))
        yield Step(loss, len(images), [0, 1], 0, 1.0)

    def discriminator_loss(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return its cross-entropy with the penalty of the gradient (the paper, algorithm 1)."""
        with torch.no_grad():
            drawn = self.generator(self.mapping(noise))
        fake, real = as_fake(self._judged(drawn)), as_real(self._judged(images))
        return fake + real + self.gamma / 2 * r1_penalty(self._judged, images)

    def reciprocity_loss(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return the distance of codes from those of what they draw, and that of images."""
        # The paper trains E and G by it, not F.
        codes = self.mapping(noise).detach()
        loss = feature_distance(codes, self.encoder(self.generator(codes)))
        if self.image_weight:
            loss = loss + self.image_weight * (images - self.draw(images)).abs().mean()
        return loss

    def draw(self, images: Tensor) -> Tensor:
        """Return what is drawn by the codes of images."""
        drawn: Tensor = self.generator(self.encoder(images))
        return drawn

    def scores(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the root mean square of the residual, and weighted that of codes."""
        codes: Tensor = (self.encoder(images) - self.encoder(drawn)) / self.deviation
        residual = (images - drawn).flatten(1).square().mean(dim=1).sqrt()
        return residual + self.latent_weight * codes.square().mean(dim=1).sqrt()

    def calibrate(self, batches: Iterator[FeaturePyramid]) -> None:
        """Learn how much the codes of normal images differ."""
        with torch.no_grad():
            found = variance(self.encoder(self.images_of(batch)) for batch in batches)
        self.deviation.copy_(found.sqrt().clamp_min(1e-6))

    def _noise(self, images: Tensor, generator: torch.Generator) -> Tensor:
        n_images, size = len(images), self.settings.latent_size
        return torch.randn(n_images, size, generator=generator, device=images.device)

    def _drawn(self, images: Tensor, generator: torch.Generator) -> Tensor:
        drawn: Tensor = self.generator(self.mapping(self._noise(images, generator)))
        return drawn

    def _judged(self, images: Tensor) -> Tensor:
        judged: Tensor = self.discriminator(self.encoder(images))[:, 0]
        return judged
