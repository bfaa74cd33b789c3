"""The networks of EGBAD: a bidirectional GAN."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from knnspect.detectors.reconstruction.networks.base import Settings
from knnspect.detectors.reconstruction.networks.blocks import (
    Decoder,
    Encoder,
    JointDiscriminator,
    Kind,
)
from knnspect.detectors.reconstruction.networks.latent import CodedNetwork, average_of, frozen
from knnspect.detectors.reconstruction.networks.losses import as_fake, as_real
from knnspect.training.network import Step

__all__ = ["EGBADNetwork"]

#: How slowly the weights that judge follow those that learn.
_DECAY = 0.999


class _BiGAN(nn.Module):
    """Encoder E, generator G, and the discriminator D of both."""

    def __init__(self, shape: tuple[int, int, int], settings: Settings) -> None:
        super().__init__()
        width, size = settings.width, settings.latent_size
        self.encoder = Encoder(shape, size, width)
        self.decoder = Decoder(shape, size, width)
        # With a spectral norm it gets too weak to see which code belongs to which image.
        self.discriminator = JointDiscriminator(shape, size, width, kind=Kind("none"))


class EGBADNetwork(CodedNetwork):
    """A bidirectional GAN, whose averaged weights judge.

    Parameters
    ----------
    shape, settings
        As `ReconstructionNetwork` takes them.
    discriminator_score : {"features", "cross_entropy"}
        What the discriminator's share of the score is.
    pixel_share : float
        The share of the score that is the difference of pixels: alpha.
    """

    n_parts = 2
    part_names: Sequence[str] = ("generator", "discriminator")

    def __init__(
        self,
        shape: tuple[int, int, int],
        settings: Settings,
        discriminator_score: Literal["features", "cross_entropy"],
        pixel_share: float,
    ) -> None:
        super().__init__(shape, settings)
        self.discriminator_score, self.pixel_share = discriminator_score, pixel_share
        self.learning = _BiGAN(shape, settings)
        self.average = average_of(self.learning, _DECAY)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return Adam for encoder and generator, and for the discriminator."""
        rate, betas, now = self.settings.learning_rate, (0.5, 0.999), self.learning
        return [
            torch.optim.Adam([*now.encoder.parameters(), *now.decoder.parameters()], rate, betas),
            torch.optim.Adam(now.discriminator.parameters(), rate, betas),
        ]

    def learn(self, images: Tensor, generator: torch.Generator) -> Iterator[Step]:
        """Let the discriminator tell (x, E(x)) from (G(z), z), then the others deceive it."""
        now = self.learning
        codes = self.random_codes(len(images), generator)
        encoded, drawn = now.encoder(images), now.decoder(codes)
        loss = as_real(now.discriminator(images, encoded.detach()))
        loss = loss + as_fake(now.discriminator(drawn.detach(), codes))
        yield self.step(loss, images, 1)
        # Encoder and generator are as they were, so what they made is, too.
        with frozen(now.discriminator):
            loss = as_fake(now.discriminator(images, encoded))
            loss = loss + as_real(now.discriminator(drawn, codes))
        yield self.step(loss, images, 0)
        self.average.update_parameters(now)

    @property
    def _bigan(self) -> _BiGAN:
        return cast(_BiGAN, self.average.module)

    def draw(self, images: Tensor) -> Tensor:
        """Return G(E(x)), by the averaged weights."""
        drawn: Tensor = self._bigan.decoder(self._bigan.encoder(images))
        return drawn

    def scores(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return alpha L_G + (1 - alpha) L_D (the paper, equations 3 to 6)."""
        encoded, judge = self._bigan.encoder(images), self._bigan.discriminator
        of_pixels = (images - drawn).abs().sum(dim=(1, 2, 3))
        if self.discriminator_score == "cross_entropy":
            of_both = softplus(-judge(images, encoded))
        else:
            difference = judge.features(images, encoded) - judge.features(drawn, encoded)
            of_both = difference.abs().sum(dim=1)
        return self.pixel_share * of_pixels + (1 - self.pixel_share) * of_both
