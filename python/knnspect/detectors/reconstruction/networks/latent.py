"""Codes of images: what draws by them, finds them by search, and averages over steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from knnspect.detectors.reconstruction.networks.base import ReconstructionNetwork, Settings

__all__ = ["CodedNetwork", "average_of", "frozen", "search"]

#: Seed of the code where a search begins, the same for every image.
_SEED = 0


class CodedNetwork(ReconstructionNetwork):
    """A network whose generator draws by codes that are normally distributed.

    Parameters
    ----------
    shape, settings
        As `ReconstructionNetwork` takes them.

    Attributes
    ----------
    decoder : nn.Module
        Draws images by codes: G, the generator of the papers.
    encoder : nn.Module
        Finds the codes of images: E. A subclass that has none overrides `draw`.
    """

    def __init__(self, shape: tuple[int, int, int], settings: Settings) -> None:
        super().__init__(shape, settings)
        self.decoder: nn.Module
        self.encoder: nn.Module

    def random_codes(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw codes from the standard normal distribution, shape (n, latent_size)."""
        size = (n, self.settings.latent_size)
        return torch.randn(size, generator=generator, device=generator.device)

    def draw(self, images: Tensor) -> Tensor:
        """Return what the generator draws by the encoder's codes."""
        drawn: Tensor = self.decoder(self.encoder(images))
        return drawn


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Let no gradient reach the parameters of modules by what is computed meanwhile."""
    parameters = [value for module in modules for value in module.parameters()]
    trained = [value for value in parameters if value.requires_grad]
    for value in trained:
        value.requires_grad_(False)
    try:
        yield
    finally:
        for value in trained:
            value.requires_grad_(True)


def search(
    losses: Callable[[Tensor], Tensor],
    n_images: int,
    size: int,
    n_steps: int,
    rate: float,
    device: torch.device,
) -> Tensor:
    """Return codes for images at which their losses are small, by Adam.

    Every image has the same first code, drawn from the standard normal distribution, and its own
    moments: what is found for it depends on no other image.

    Parameters
    ----------
    losses : callable
        Gives, by codes of shape (n_images, size), the loss of each image, shape (n_images,).
    n_images, size : int
        How many codes, and how many numbers each has.
    n_steps : int
        Steps that are taken.
    rate : float
        Adam's learning rate.
    device : torch.device
        Where codes lie.

    Returns
    -------
    Tensor, shape (n_images, size)
        Without a gradient.

    Examples
    --------
    >>> where = torch.tensor([[1.0], [-2.0]])
    >>> found = search(
    ...     lambda codes: (codes - where).square().sum(dim=1), 2, 1, 500, 0.05, where.device
    ... )
    >>> (found - where).abs().max() < 0.01
    tensor(True)
    """
    # Drawn on the CPU, so that it is the same everywhere.
    first = torch.randn(1, size, generator=torch.Generator().manual_seed(_SEED)).to(device)
    with torch.enable_grad():
        codes = first.repeat(n_images, 1).requires_grad_()
        optimizer = torch.optim.Adam([codes], rate)
        for _ in range(n_steps):
            (codes.grad,) = torch.autograd.grad(losses(codes).sum(), codes)
            optimizer.step()
    return codes.detach()


def average_of(module: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of a module that `update_parameters` lets follow it slowly.

    At the beginning it follows faster, as TensorFlow's moving averages do: an average of few steps
    would else be the random weights from before the first.
    """

    def averaged(average: Tensor, now: Tensor, n_steps: Tensor | int) -> Tensor:
        share = min(decay, (1 + int(n_steps)) / (10 + int(n_steps)))
        return torch.lerp(now, average, share)

    return AveragedModel(module, avg_fn=averaged)
