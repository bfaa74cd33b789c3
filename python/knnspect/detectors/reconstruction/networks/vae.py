"""The network of the VAE: a Gaussian for the code of an image, and one for each pixel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor

from knnspect.detectors.reconstruction.networks.base import ReconstructionNetwork, Settings
from knnspect.detectors.reconstruction.networks.blocks import Decoder, Encoder
from knnspect.detectors.reconstruction.networks.losses import kl_to_standard_normal
from knnspect.pyramid import FeaturePyramid
from knnspect.training.network import Step

__all__ = ["Term", "VAENetwork", "log_mean_exp"]

Term = Literal["sum", "bound", "kl", "reconstruction"]

#: The smallest variance of a pixel that is learnt, one grey level of 255; the share of the present
#: batch in the variance while training; samples of a code that the variance is taken of.
_LEAST, _MOMENTUM, _SAMPLES = 1 / 255**2, 0.1, 4
#: Decides the samples of codes when images are judged: the same for each image.
_SEED = 0


class VAENetwork(ReconstructionNetwork):
    """A variational autoencoder whose pixels have one variance.

    Parameters
    ----------
    shape, settings
        As `ReconstructionNetwork` takes them.
    term : {"sum", "bound", "kl", "reconstruction"}
        What it scores by.
    samples : int
        Codes that are drawn for an image when it is judged.
    variance : float or None
        Of a pixel given its code; None: learnt.
    """

    black: ClassVar[float] = 0.0

    def __init__(
        self,
        shape: tuple[int, int, int],
        settings: Settings,
        term: Term,
        samples: int,
        variance: float | None,
    ) -> None:
        super().__init__(shape, settings)
        self.term, self.samples = term, samples
        self.learns_variance = variance is None
        self.encoder = Encoder(shape, 2 * settings.latent_size, settings.width)
        self.decoder = Decoder(shape, settings.latent_size, settings.width, output="sigmoid")
        self.register_buffer("variance", torch.tensor(0.1 if variance is None else variance))
        self.variance: Tensor

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one for all."""
        return [torch.optim.Adam(self.parameters(), self.settings.learning_rate)]

    def learn(self, images: Tensor, generator: torch.Generator) -> Iterator[Step]:
        """Raise the lower bound of the evidence, with one sample of each code."""
        mean, log_variance = self.posterior(images)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        drawn = self.decoder(mean + noise * (0.5 * log_variance).exp())
        variance = self.variance
        if self.learns_variance:
            # The variance with the highest likelihood is that of the residuals.
            variance = (drawn.detach() - images).square().mean().clamp(min=_LEAST)
            self.variance.lerp_(variance.to(self.variance), _MOMENTUM)
        likelihood = log_likelihood(images, drawn, variance)
        loss = (kl_to_standard_normal(mean, log_variance) - likelihood).mean()
        yield self.step(loss, images)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the variance of codes, shape (n_images, latent_size)."""
        mean, log_variance = self.encoder(images).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)

    def draw(self, images: Tensor) -> Tensor:
        """Return what is drawn by the mean of the code."""
        drawn: Tensor = self.decoder(self.posterior(images)[0])
        return drawn

    def log_weights(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(z)/q(z|x) and log p(x|z), shape (n_images, samples), float64."""
        mean, log_variance = self.posterior(images)
        noise = self._noise(self.samples, images)
        codes = mean[:, None] + noise * (0.5 * log_variance[:, None]).exp()
        drawn = self.decoder(codes.flatten(0, 1)).unflatten(0, codes.shape[:2])
        ratio = 0.5 * (log_variance[:, None] + noise.square() - codes.square()).double().sum(dim=2)
        likelihood = log_likelihood(
            images.double().repeat_interleave(self.samples, dim=0),
            drawn.double().flatten(0, 1),
            self.variance.double(),
        )
        return ratio, likelihood.reshape(ratio.shape)

    def scores(self, images: Tensor, drawn: Tensor) -> Tensor:  # noqa: ARG002 - codes are sampled
        """Return the scores of the term (the paper, section 2.2)."""
        ratio, likelihood = self.log_weights(images)
        # Relative to that of an image drawn without any residual, so that scores begin at 0.
        likelihood = likelihood - log_likelihood(images, images, self.variance.double())[:, None]
        if self.term == "bound":
            return -log_mean_exp(ratio + likelihood)
        if self.term == "kl":
            return -log_mean_exp(ratio)
        if self.term == "reconstruction":
            return -log_mean_exp(likelihood)
        return -log_mean_exp(ratio) - log_mean_exp(likelihood)

    def held_out_losses(self, batch: FeaturePyramid) -> list[tuple[float, int]]:
        """Return the negative importance-weighted bound, and the number of images."""
        total = 0.0
        for images, n_images in self._some(batch):
            ratio, likelihood = self.log_weights(images)
            total -= float(log_mean_exp(ratio + likelihood)[:n_images].sum())
        return [(total, batch.n_images)]

    def calibrate(self, batches: Iterator[FeaturePyramid]) -> None:
        """Take the variance of a pixel from the images that were trained on."""
        if not self.learns_variance:
            return
        total, n_images = 0.0, 0
        for batch in batches:
            for images, n in self._some(batch):
                mean, log_variance = self.posterior(images)
                for noise in self._noise(_SAMPLES, images):
                    drawn = self.decoder(mean + noise * (0.5 * log_variance).exp())
                    squares = (drawn - images).double().square().mean(dim=(1, 2, 3))
                    total += float(squares[:n].sum()) / _SAMPLES
                n_images += n
        self.variance.fill_(max(total / n_images, _LEAST))

    def _noise(self, samples: int, images: Tensor) -> Tensor:
        generator = torch.Generator(images.device).manual_seed(_SEED)
        size = (samples, self.settings.latent_size)
        return torch.randn(size, generator=generator, device=images.device)


def log_likelihood(images: Tensor, drawn: Tensor, variance: Tensor) -> Tensor:
    """Return log p(x|z) of images whose pixels are those drawn, plus noise, shape (n_images,)."""
    squares = (images - drawn).square().flatten(1)
    each = (2 * math.pi * variance).log() * squares.shape[1]
    return -0.5 * (squares.sum(dim=1) / variance + each)


def log_mean_exp(logarithms: Tensor) -> Tensor:
    """Return the logarithm of the mean over the last axis of what these are logarithms of.

    >>> log_mean_exp(torch.tensor([[-2000.0, -2000.0]]))
    tensor([-2000.])
    """
    return logarithms.logsumexp(dim=-1) - math.log(logarithms.shape[-1])
