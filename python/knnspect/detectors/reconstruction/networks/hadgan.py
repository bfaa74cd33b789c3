"""The network of HADGAN: an autoencoder of spectra, with two discriminators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from knnspect.detectors.reconstruction.networks.base import ReconstructionNetwork, Settings
from knnspect.detectors.reconstruction.networks.blocks import mlp
from knnspect.detectors.reconstruction.networks.joint import MOST_VALUES, JointDetector
from knnspect.detectors.reconstruction.networks.losses import as_fake, as_real
from knnspect.pyramid import FeaturePyramid
from knnspect.training.network import Step

__all__ = ["HADGANNetwork", "Weights"]

#: Spectra of a step, and of a scene in an epoch.
_AT_ONCE, _AN_EPOCH = 256, 2**14


@dataclass(frozen=True)
class Weights:
    """What terms count, beside the reconstruction, which counts one; see `HADGAN`."""

    consistency: float
    shrink: float
    adversarial: float
    spatial: float
    contamination: float


class HADGANNetwork(ReconstructionNetwork):
    """An autoencoder of spectra, with a discriminator of codes and one of spectra.

    Parameters
    ----------
    shape, settings
        As `ReconstructionNetwork` takes them; height and width do not matter.
    weights : Weights
        Of the terms of the loss and of the map.
    """

    n_parts, part_names = 2, ("autoencoder", "discriminators")
    images_at_once = 4
    #: Materials differ by less than bfloat16 resolves.
    allows_bfloat16 = False
    black: ClassVar[float] = 0.0
    mean: Tensor
    deviation: Tensor

    def __init__(self, shape: tuple[int, int, int], settings: Settings, weights: Weights) -> None:
        super().__init__(shape, settings)
        self.weights = weights
        n_bands, n_codes, width = shape[2], settings.latent_size, settings.width
        self.encoder = mlp(n_bands, 2 * width, width, n_codes)
        self.decoder = mlp(n_codes, width, 2 * width, n_bands)
        self.of_codes = mlp(n_codes, width, width, 1)
        self.of_spectra = mlp(n_bands, 2 * width, width, 1)
        self.joint = JointDetector(n_bands, weights.contamination)
        self.spatial_weight = weights.spatial
        # The scale of each band.
        self.register_buffer("mean", torch.zeros(n_bands))
        self.register_buffer("deviation", torch.ones(n_bands))

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one for the autoencoder and one for both discriminators."""
        parts = [self.encoder, self.decoder], [self.of_codes, self.of_spectra]
        return [
            torch.optim.Adam(
                [value for module in part for value in module.parameters()],
                self.settings.learning_rate,
                betas=(0.5, 0.999),
            )
            for part in parts
        ]

    def prepare(self, batches: Iterator[FeaturePyramid]) -> None:
        """Learn mean and standard deviation of each band."""
        n_pixels, sums, squares = 0, np.zeros(self.shape[2]), np.zeros(self.shape[2])
        for batch in batches:
            spectra = batch.levels[0].reshape(-1, self.shape[2]).astype(np.float64)
            n_pixels += len(spectra)
            sums, squares = sums + spectra.sum(axis=0), squares + (spectra**2).sum(axis=0)
        mean = sums / n_pixels
        deviation = np.sqrt((squares / n_pixels - mean**2).clip(0))
        # A band that is the same everywhere says nothing, and stays so.
        deviation[deviation <= 1e-6 * np.abs(mean)] = max(1.0, float(deviation.max()))
        self.mean.copy_(torch.from_numpy(mean))
        self.deviation.copy_(torch.from_numpy(deviation))

    def learn(self, images: Tensor, generator: torch.Generator) -> Iterator[Step]:
        """Go once through the spectra of each scene, or 16,384 of them, in random order."""
        for scene, image in enumerate(images):
            spectra = self._spectra(image)
            order = torch.randperm(len(spectra), generator=generator, device=spectra.device)
            order = order[:_AN_EPOCH]
            for start in range(0, len(order), _AT_ONCE):
                some = spectra[order[start : start + _AT_ONCE]]
                done = (scene + (start + len(some)) / len(order)) / len(images)
                yield Step(self._of_discriminators(some, generator), len(some), [1], 1, done)
                yield Step(self._of_autoencoder(some), len(some), [0], 0, done)

    def _of_discriminators(self, spectra: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of both: of codes against N(0, 1), of spectra against what is drawn."""
        with torch.no_grad():
            codes = self.encoder(spectra)
            drawn = self.decoder(codes)
        noise = torch.randn(codes.shape, generator=generator, device=codes.device)
        latent = as_real(self.of_codes(noise)) + as_fake(self.of_codes(codes))
        return latent + as_real(self.of_spectra(spectra)) + as_fake(self.of_spectra(drawn))

    def _of_autoencoder(self, spectra: Tensor) -> Tensor:
        """Return the loss of the autoencoder, of all its terms."""
        codes = self.encoder(spectra)
        drawn = self.decoder(codes)
        residual = (spectra - drawn).square().mean(dim=1)
        # What is hardest to reconstruct may be an anomaly, which is not to be learnt.
        n_learnt = max(1, round((1 - self.weights.contamination) * len(residual)))
        fooled = as_real(self.of_codes(codes)) + as_real(self.of_spectra(drawn))
        loss: Tensor = (
            residual.sort().values[:n_learnt].mean()
            + self.weights.consistency * (codes - self.encoder(drawn)).square().mean()
            + self.weights.shrink * codes.abs().mean()
            + self.weights.adversarial * fooled
        )
        return loss

    def draw(self, images: Tensor) -> Tensor:
        """Return the reconstructed scenes, in their own unit."""
        spectra = self._spectra(images.movedim(1, 0)).reshape(-1, self.shape[2])
        drawn: Tensor = self.decoder(self.encoder(spectra)) * self.deviation + self.mean
        return drawn.T.reshape(-1, len(images), *images.shape[2:]).movedim(0, 1)

    def held_out_losses(self, batch: FeaturePyramid) -> list[tuple[float, int]]:
        """Return the mean squared residual of each part's loss, and the number of scenes."""
        losses = [float((self._residual(image) ** 2).mean()) for image in self._scenes(batch)]
        return [(sum(losses), len(losses))] * self.n_parts

    def calibrate(self, batches: Iterator[FeaturePyramid]) -> None:
        """Learn what residuals are usual, of the first scenes with 2^24 values."""
        residuals: list[NDArray[np.float32]] = []
        for batch in batches:
            for image in self._scenes(batch):
                if sum(each.size for each in residuals) < MOST_VALUES:
                    residuals.append(self._residual(image))
        self.joint.learn(residuals)

    def judge(self, batch: FeaturePyramid) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return the largest value of each scene's map, and the maps."""
        maps = np.stack(
            [
                self.joint.map(self._residual(image), self.spatial_weight)
                for image in self._scenes(batch)
            ]
        )
        return maps.max(axis=(1, 2)).astype(np.float64), maps

    def scores(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the largest value of each map."""
        return self.residuals(images, drawn).amax(dim=(1, 2))

    def residuals(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the maps of scenes (the paper's D_SS), by what is drawn."""
        scaled = (images - drawn) / self.deviation[:, None, None]
        return torch.stack(
            [
                torch.from_numpy(self.joint.map(each.cpu().numpy(), self.spatial_weight))
                for each in scaled
            ]
        )

    def reconstruct(self, batch: FeaturePyramid) -> NDArray[np.float32]:
        """Return the reconstructed scenes, shape (n, height, width, n_bands), in their own unit."""
        drawn = torch.stack([self.draw(image[None])[0] for image in self._scenes(batch)])
        found: NDArray[np.float32] = drawn.detach().permute(0, 2, 3, 1).cpu().numpy()
        return found

    def _scenes(self, batch: FeaturePyramid) -> Iterator[Tensor]:
        """Yield one scene after the other, so that none depends on others by rounding."""
        with torch.no_grad():
            yield from self.images_of(batch)

    def _spectra(self, image: Tensor) -> Tensor:
        """Return the scaled spectra of a scene, shape (n_pixels, n_bands)."""
        return (image.flatten(1).T - self.mean) / self.deviation

    def _residual(self, image: Tensor) -> NDArray[np.float32]:
        """Return what is not reconstructed of a scene, scaled, shape (n_bands, height, width)."""
        spectra = self._spectra(image)
        residual = spectra - self.decoder(self.encoder(spectra))
        found: NDArray[np.float32] = residual.T.reshape(image.shape).cpu().numpy()
        return found
