"""What the networks have in common that learn to draw normal images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from knnspect.pyramid import FeaturePyramid
from knnspect.training.network import Step, TrainableNetwork

__all__ = ["ReconstructionNetwork", "Settings", "augmented", "variance"]

#: Largest angle and shift of images that are shown turned and shifted: radians, share of the side.
_ANGLE, _SHIFT = 0.087, 0.04


@dataclass(frozen=True)
class Settings:
    """What every network depends on; see `ReconstructionDetector`."""

    latent_size: int
    width: int
    learning_rate: float
    augment: bool = False


class ReconstructionNetwork(TrainableNetwork[FeaturePyramid]):
    """A network that draws images.

    A subclass says how it learns (`learn`), what it draws (`draw`), and how it judges (`scores`).

    Parameters
    ----------
    shape : (int, int, int)
        Height, width and channels of the images.
    settings : Settings
        See there.
    """

    schedule: Literal["cosine", "constant"] = "constant"
    #: The value of black in the network; white is 1.
    black: ClassVar[float] = -1.0
    #: Images that are judged together on the CPU. PyTorch chooses its kernels, with other rounding,
    #: by the size of the batch, so fewer are filled up with black ones.
    judged_at_once: ClassVar[int] = 1

    def __init__(self, shape: tuple[int, int, int], settings: Settings) -> None:
        super().__init__()
        self.shape, self.settings = shape, settings

    @abstractmethod
    def learn(self, images: Tensor, generator: torch.Generator) -> Iterator[Step]:
        """Go once through some images, shape (n_images, channels, height, width)."""

    @abstractmethod
    def draw(self, images: Tensor) -> Tensor:
        """Return what is drawn in place of images, of the same shape."""

    @abstractmethod
    def scores(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the scores of images, shape (n_images,), by what is drawn in their place."""

    def residuals(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return how far each pixel is from what is drawn, shape (n_images, height, width)."""
        return (images - drawn).abs().mean(dim=1)

    def prepare(self, batches: Iterator[FeaturePyramid]) -> None:
        """Learn nothing: pixels have their scale."""

    def calibrate(self, batches: Iterator[FeaturePyramid]) -> None:
        """Learn nothing: scores are what the paper says."""

    def steps(self, batch: FeaturePyramid, generator: torch.Generator) -> Iterator[Step]:
        """Go once through some images."""
        images = self.images_of(batch)
        if self.settings.augment:
            images = augmented(images, generator)
        yield from self.learn(images, generator)

    def step(self, loss: Tensor, images: Tensor, part: int = 0) -> Step:
        """Return a step of one part, which has an optimizer of the same number."""
        return Step(loss, len(images), [part], part, 1.0)

    def held_out_losses(self, batch: FeaturePyramid) -> list[tuple[float, int]]:
        """Return the mean absolute residual, and the number of images."""
        _, residuals = self.judge(batch)
        return [(float(residuals.mean(dtype=np.float64)) * len(residuals), len(residuals))]

    def images_of(self, batch: FeaturePyramid) -> Tensor:
        """Return images on the network's device, with values from `black` to 1."""
        pixels = torch.from_numpy(np.asarray(batch.levels[0], np.float32))
        pixels = pixels.to(next(self.parameters()).device).permute(0, 3, 1, 2).contiguous()
        return pixels * (1 - self.black) + self.black

    def judge(self, batch: FeaturePyramid) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return the scores of images and the residuals of their pixels.

        Neither depends on the images that are judged together, on the CPU not even by rounding.
        """
        parts = []
        for images, n_images in self._some(batch):
            drawn = self.draw(images)
            scores, residuals = self.scores(images, drawn), self.residuals(images, drawn)
            parts.append((scores[:n_images].detach(), residuals[:n_images].detach()))
        scores_of, residuals_of = zip(*parts, strict=True)
        return (
            torch.cat(scores_of).double().cpu().numpy(),
            torch.cat(residuals_of).float().cpu().numpy(),
        )

    def reconstruct(self, batch: FeaturePyramid) -> NDArray[np.float32]:
        """Return what is drawn in place of images, shape (n, height, width, channels) in [0, 1]."""
        parts = [self.draw(images)[:n_images].detach() for images, n_images in self._some(batch)]
        drawn = (torch.cat(parts) - self.black) / (1 - self.black)
        found: NDArray[np.float32] = drawn.clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()
        return found

    def _some(self, batch: FeaturePyramid) -> Iterator[tuple[Tensor, int]]:
        """Yield images that are judged together, and how many of them are not there to fill up."""
        images = self.images_of(batch)
        is_cuda = images.device.type == "cuda"
        flags = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with flags, torch.no_grad():
            for part in torch.split(images, len(images) if is_cuda else self.judged_at_once):
                n_missing = 0 if is_cuda else self.judged_at_once - len(part)
                filling = part.new_full((n_missing, *part.shape[1:]), self.black)
                yield torch.cat([part, filling]), len(part)


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images turned and shifted a little, each in its own way; border pixels go on.

    Examples
    --------
    >>> images = torch.zeros(2, 1, 8, 8)
    >>> augmented(images, torch.Generator()).shape
    torch.Size([2, 1, 8, 8])
    """
    drawn = torch.rand(len(images), 3, generator=generator, device=images.device) * 2 - 1
    angle = drawn[:, 0] * _ANGLE
    # Coordinates go from -1 to 1: the side has a length of 2.
    shift = drawn[:, 1:] * 2 * _SHIFT
    aspect = images.shape[-1] / images.shape[-2]
    rows = [
        torch.stack([angle.cos(), -angle.sin() / aspect, shift[:, 0]], dim=1),
        torch.stack([angle.sin() * aspect, angle.cos(), shift[:, 1]], dim=1),
    ]
    grid = affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return grid_sample(images, grid, padding_mode="border", align_corners=False)


def variance(batches: Iterable[Tensor]) -> Tensor:
    """Return the variance of images around their mean, as the mean over pixels; shape ().

    >>> variance([torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)])
    tensor(0.2500)
    """
    n_images, sums, squares = 0, torch.zeros(()), torch.zeros(())
    for images in batches:
        values = images.double()
        sums, squares = values.sum(dim=0) + sums, values.square().sum(dim=0) + squares
        n_images += len(images)
    spread: Tensor = (squares / n_images - (sums / n_images).square()).mean()
    return spread.clamp_min(0).float()
