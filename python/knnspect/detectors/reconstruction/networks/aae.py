"""The network of the AAE: an autoencoder, and a critic of its codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from knnspect.detectors.reconstruction.networks.base import ReconstructionNetwork, Settings
from knnspect.detectors.reconstruction.networks.blocks import Decoder, Encoder, Kind, mlp
from knnspect.detectors.reconstruction.networks.losses import gradient_penalty
from knnspect.training.network import Step

__all__ = ["AAENetwork"]

_AUTOENCODER, _CRITIC = 0, 1
#: The weight of the gradient penalty, and the critic's hidden numbers.
_PENALTY, _HIDDEN = 10.0, 128


class AAENetwork(ReconstructionNetwork):
    """An autoencoder whose codes are distributed like Gaussian noise.

    Parameters
    ----------
    shape, settings
        As `ReconstructionNetwork` takes them.
    adversarial_weight : float
        Of the critic in the loss of the autoencoder.
    constraint_weight : float
        Of the squared distance of the codes of an image and of what is drawn.
    critic_steps : int
        Steps of the critic for one of the autoencoder.
    """

    black: ClassVar[float] = 0.0
    n_parts = 2
    part_names = ("autoencoder", "critic")

    def __init__(
        self,
        shape: tuple[int, int, int],
        settings: Settings,
        adversarial_weight: float,
        constraint_weight: float,
        critic_steps: int,
    ) -> None:
        super().__init__(shape, settings)
        self.adversarial_weight = adversarial_weight
        self.constraint_weight = constraint_weight
        self.critic_steps = critic_steps
        n_codes, width, kind = settings.latent_size, settings.width, Kind(is_residual=True)
        self.encoder = Encoder(shape, n_codes, width, kind)
        self.decoder = Decoder(shape, n_codes, width, kind, output="sigmoid")
        # Only differences of what it gives count, so that a bias would have no gradient.
        last = nn.Linear(_HIDDEN, 1, bias=False)
        self.critic = nn.Sequential(mlp(n_codes, _HIDDEN, _HIDDEN), nn.LeakyReLU(0.2), last)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one for the autoencoder, and one for the critic."""
        rate = self.settings.learning_rate
        autoencoder = [*self.encoder.parameters(), *self.decoder.parameters()]
        return [
            torch.optim.Adam(autoencoder, rate, betas=(0.5, 0.9)),
            torch.optim.Adam(self.critic.parameters(), rate, betas=(0.5, 0.9)),
        ]

    def learn(self, images: Tensor, generator: torch.Generator) -> Iterator[Step]:
        """Have the critic tell codes from noise; draw images by codes that it cannot tell."""
        codes = self.encoder(images)
        for _ in range(self.critic_steps):
            loss = self.critic_loss(codes.detach().float(), generator)
            yield self.step(loss, images, _CRITIC)
        drawn = self.decoder(codes)
        loss = squared_distance(images, drawn)
        loss = loss - self.adversarial_weight * self.critic(codes).mean()
        loss = loss + self.constraint_weight * squared_distance(codes, self.encoder(drawn))
        yield self.step(loss, images, _AUTOENCODER)

    def critic_loss(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Return how badly the critic tells codes from noise, with the penalty of its gradient."""
        noise = torch.randn(codes.shape, generator=generator, device=codes.device)
        penalty = gradient_penalty(self.critic, noise, codes, generator)
        loss: Tensor = self.critic(codes).mean() - self.critic(noise).mean() + _PENALTY * penalty
        return loss

    def draw(self, images: Tensor) -> Tensor:
        """Return what the autoencoder makes of images."""
        drawn: Tensor = self.decoder(self.encoder(images))
        return drawn

    def scores(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the mean absolute difference."""
        return self.residuals(images, drawn).mean(dim=(1, 2))


def squared_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the squared distance of images or codes, the mean over these.

    >>> squared_distance(torch.zeros(2, 3), torch.ones(2, 3))
    tensor(3.)
    """
    return (ours - theirs).square().flatten(1).sum(dim=1).mean()
