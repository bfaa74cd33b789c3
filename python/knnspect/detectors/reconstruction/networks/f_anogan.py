"""The networks of f-AnoGAN: a Wasserstein GAN, and an encoder that learns after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from knnspect.detectors.reconstruction.networks.base import Settings
from knnspect.detectors.reconstruction.networks.blocks import (
    Decoder,
    Discriminator,
    Encoder,
    Kind,
)
from knnspect.detectors.reconstruction.networks.latent import CodedNetwork, frozen
from knnspect.detectors.reconstruction.networks.losses import feature_distance, gradient_penalty
from knnspect.training.network import Step

__all__ = ["FAnoGANNetwork"]

#: Steps of the critic for one of the generator, and the weight of its gradient penalty
#: (Gulrajani et al., algorithm 1).
_CRITIC_STEPS, _PENALTY = 5, 10.0


class FAnoGANNetwork(CodedNetwork):
    """Generator G, critic D with features f, and encoder E.

    Parameters
    ----------
    shape, settings
        As `ReconstructionNetwork` takes them.
    encoder_training : {"izif", "izi", "ziz"}
        What the encoder learns by.
    """

    n_parts = 3
    part_names: Sequence[str] = ("generator", "critic", "encoder")
    #: The encoder learns in the second half; before it, what is drawn says nothing.
    settles_from = 0.5

    def __init__(
        self,
        shape: tuple[int, int, int],
        settings: Settings,
        encoder_training: Literal["izif", "izi", "ziz"],
    ) -> None:
        super().__init__(shape, settings)
        self.encoder_training = encoder_training
        self.decoder = Decoder(shape, settings.latent_size, settings.width)
        self.critic = Discriminator(shape, settings.width, Kind("layer"))
        # Of a difference of two answers, a bias would never learn.
        self.critic.head = nn.Linear(self.critic.trunk.n_features, 1, bias=False)
        self.encoder = Encoder(shape, settings.latent_size, settings.width)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return Adam for generator and critic, RMSprop for the encoder."""
        rate = self.settings.learning_rate
        return [
            torch.optim.Adam(self.decoder.parameters(), rate, betas=(0.0, 0.9)),
            torch.optim.Adam(self.critic.parameters(), rate, betas=(0.0, 0.9)),
            torch.optim.RMSprop(self.encoder.parameters(), rate),
        ]

    def learn(self, images: Tensor, generator: torch.Generator) -> Iterator[Step]:
        """Train generator and critic in the first half, the encoder in the second."""
        if self.done >= self.settles_from:
            # What the encoder learns by does not change any more.
            self.decoder.eval()
            self.critic.eval()
            with frozen(self.decoder, self.critic):
                loss = self._encoder_loss(images, generator)
            yield self.step(loss, images, 2)
            return
        for _ in range(_CRITIC_STEPS):
            with torch.no_grad():
                drawn = self.decoder(self.random_codes(len(images), generator))
            yield self.step(self._critic_loss(images, drawn, generator), images, 1)
        codes = self.random_codes(len(images), generator)
        with frozen(self.critic):
            loss = -self.critic(self.decoder(codes)).mean()
        yield self.step(loss, images, 0)

    def _critic_loss(self, images: Tensor, drawn: Tensor, generator: torch.Generator) -> Tensor:
        """Return the negated Wasserstein distance, and the penalty of its gradient."""
        distance = self.critic(images).mean() - self.critic(drawn).mean()
        penalty = gradient_penalty(self.critic, images, drawn, generator)
        loss: Tensor = _PENALTY * penalty - distance
        return loss

    def _encoder_loss(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of the encoder (the paper, equations 3 to 5)."""
        if self.encoder_training == "ziz":
            codes = self.random_codes(len(images), generator)
            return feature_distance(codes, self.encoder(self.decoder(codes)))
        drawn = self.draw(images)
        loss = feature_distance(images, drawn)
        if self.encoder_training == "izi":
            return loss
        return loss + feature_distance(self.critic.features(images), self.critic.features(drawn))

    def scores(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return A_R + A_D (the paper, equation 6, kappa 1)."""
        of_pixels = (images - drawn).square().mean(dim=(1, 2, 3))
        difference = self.critic.features(images) - self.critic.features(drawn)
        return of_pixels + difference.square().mean(dim=1)
