"""The network of the SSIM autoencoder: an encoder, a decoder, and a loss that sees structure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor

from knnspect.detectors.reconstruction.networks.base import ReconstructionNetwork, Settings
from knnspect.detectors.reconstruction.networks.blocks import Decoder, Encoder
from knnspect.detectors.reconstruction.networks.losses import ssim
from knnspect.training.network import Step

__all__ = ["SSIMAENetwork"]


class SSIMAENetwork(ReconstructionNetwork):
    """An autoencoder.

    Parameters
    ----------
    shape, settings
        As `ReconstructionNetwork` takes them.
    loss : {"ssim", "l2", "l1"}
        What it learns by, and scores by.
    """

    black: ClassVar[float] = 0.0

    def __init__(
        self,
        shape: tuple[int, int, int],
        settings: Settings,
        loss: Literal["ssim", "l2", "l1"],
    ) -> None:
        super().__init__(shape, settings)
        self.loss = loss
        self.encoder = Encoder(shape, settings.latent_size, settings.width)
        self.decoder = Decoder(shape, settings.latent_size, settings.width, output="sigmoid")

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one for all (the paper, section 4.2)."""
        return [torch.optim.Adam(self.parameters(), self.settings.learning_rate, weight_decay=1e-5)]

    def learn(
        self,
        images: Tensor,
        generator: torch.Generator,  # noqa: ARG002 - nothing is drawn at random
    ) -> Iterator[Step]:
        """Draw images as they are."""
        yield self.step(self.residuals(images, self.draw(images)).mean(), images)

    def draw(self, images: Tensor) -> Tensor:
        """Return what the autoencoder makes of images."""
        drawn: Tensor = self.decoder(self.encoder(images))
        return drawn

    def scores(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the mean residual."""
        return self.residuals(images, drawn).mean(dim=(1, 2))

    def residuals(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the residual of the loss (the paper, equations 2 to 6)."""
        if self.loss == "ssim":
            # From 0 to 1, where the paper's loss of a pixel, 1 - SSIM, goes from 0 to 2.
            return (1 - ssim(images, drawn).mean(dim=1)) / 2
        difference = images - drawn
        return (difference.square() if self.loss == "l2" else difference.abs()).mean(dim=1)
