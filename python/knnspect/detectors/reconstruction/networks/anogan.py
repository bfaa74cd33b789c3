"""The networks of AnoGAN: a DCGAN, searched for the code of each image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from knnspect.detectors.reconstruction.networks.base import Settings
from knnspect.detectors.reconstruction.networks.blocks import (
    Decoder,
    Discriminator,
    dcgan_weights_,
)
from knnspect.detectors.reconstruction.networks.latent import CodedNetwork, frozen, search
from knnspect.detectors.reconstruction.networks.losses import as_fake, as_real
from knnspect.pyramid import FeaturePyramid
from knnspect.training.network import Step

__all__ = ["AnoGANNetwork"]

#: Images that are drawn anew after each epoch, to see how near they come to those held out.
_N_DRAWN = 128
#: Codes are filled up with zeros to a multiple of it. Of products with less than 12 columns PyTorch
#: rounds some rows otherwise than others, so that an image's place among others would matter.
_COLUMNS = 16


class AnoGANNetwork(CodedNetwork):
    """Generator G and discriminator D with features f.

    Parameters
    ----------
    shape, settings
        As `ReconstructionNetwork` takes them.
    search_steps : int
        Steps of the search for an image's code.
    search_rate : float
        Adam's learning rate in it.
    feature_share : float
        The share of the score that is the discriminator's: lambda.
    """

    n_parts = 2
    part_names: Sequence[str] = ("generator", "discriminator")
    judged_at_once: ClassVar[int] = 16

    def __init__(
        self,
        shape: tuple[int, int, int],
        settings: Settings,
        search_steps: int,
        search_rate: float,
        feature_share: float,
    ) -> None:
        super().__init__(shape, settings)
        self.search_steps, self.search_rate = search_steps, search_rate
        self.feature_share = feature_share
        self.n_missing = -settings.latent_size % _COLUMNS
        self.decoder = Decoder(shape, settings.latent_size + self.n_missing, settings.width)
        self.discriminator = Discriminator(shape, settings.width)
        dcgan_weights_(self)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return Adam for the generator, and for the discriminator."""
        rate, betas = self.settings.learning_rate, (0.5, 0.999)
        parts = (self.decoder, self.discriminator)
        return [torch.optim.Adam(part.parameters(), rate, betas) for part in parts]

    def learn(self, images: Tensor, generator: torch.Generator) -> Iterator[Step]:
        """Let the discriminator tell images from drawn ones, then the generator deceive it."""
        codes = self.random_codes(len(images), generator)
        drawn = self._drawn(codes)
        loss = as_real(self.discriminator(images)) + as_fake(self.discriminator(drawn.detach()))
        yield self.step(loss, images, 1)
        with frozen(self.discriminator):
            loss = as_real(self.discriminator(drawn))
        yield self.step(loss, images, 0)

    def draw(self, images: Tensor) -> Tensor:
        """Return what is drawn by the code that a search finds."""
        features = self.discriminator.features(images)

        def losses(codes: Tensor) -> Tensor:
            return self._losses(images, features, self._drawn(codes))

        size = self.settings.latent_size
        codes = search(
            losses, len(images), size, self.search_steps, self.search_rate, images.device
        )
        return self._drawn(codes)

    def _drawn(self, codes: Tensor) -> Tensor:
        """Return G(z)."""
        drawn: Tensor = self.decoder(pad(codes, (0, self.n_missing)))
        return drawn

    def _losses(self, images: Tensor, features: Tensor, drawn: Tensor) -> Tensor:
        """Return (1 - lambda) R + lambda D of each image (the paper, equations 3 to 7)."""
        of_pixels = (images - drawn).abs().sum(dim=(1, 2, 3))
        of_features = (features - self.discriminator.features(drawn)).abs().sum(dim=1)
        return (1 - self.feature_share) * of_pixels + self.feature_share * of_features

    def scores(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the loss where the search ended."""
        return self._losses(images, self.discriminator.features(images), drawn)

    def held_out_losses(self, batch: FeaturePyramid) -> list[tuple[float, int]]:
        """Return the mean absolute residual of the nearest of some drawn images.

        A search for the code of each would take much longer than an epoch.
        """
        images = self.images_of(batch)
        with torch.no_grad():
            if self._prepared is None:
                generator = torch.Generator(images.device).manual_seed(0)
                self._prepared = self._drawn(self.random_codes(_N_DRAWN, generator))
            nearest = [
                float((self._prepared - image).abs().mean(dim=(1, 2, 3)).min()) for image in images
            ]
        return [(float(np.sum(nearest)), len(nearest))]
