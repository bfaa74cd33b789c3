"""Terms of losses that several papers have."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad, softplus

__all__ = [
    "as_fake",
    "as_real",
    "feature_distance",
    "gradient_penalty",
    "kl_to_standard_normal",
    "r1_penalty",
    "ssim",
]

#: Constants of SSIM for values whose range is 1, and its window.
_C1, _C2, _WINDOW, _SIGMA = 0.01**2, 0.03**2, 11, 1.5


def as_real(logits: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits that are to be told as real.

    >>> as_real(torch.zeros(3))
    tensor(0.6931)
    """
    return softplus(-logits).mean()


def as_fake(logits: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits that are to be told as fake."""
    return softplus(logits).mean()


def feature_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the mean squared difference of features."""
    return (ours - theirs).square().mean()


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, generator: torch.Generator
) -> Tensor:
    """Return how far the norm of the critic's gradient is from 1 between real and fake, squared.

    Parameters
    ----------
    critic : callable
        Gives one number for each.
    real, fake : Tensor, shape (n, ...)
        Images or codes.
    generator : torch.Generator
        Decides where between them.

    Source
    ------
    Gulrajani et al., "Improved Training of Wasserstein GANs" (2017), equation 3, without its
    weight (10).
    """
    shares = torch.rand(len(real), generator=generator, device=real.device)
    shares = shares.reshape(-1, *[1] * (real.dim() - 1))
    between = (shares * real + (1 - shares) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norms: Tensor = gradient.flatten(1).norm(dim=1)
    return (norms - 1).square().mean()


def r1_penalty(critic: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Return the mean squared norm of the critic's gradient at real images.

    Source
    ------
    Mescheder, Geiger and Nowozin, "Which Training Methods for GANs do actually Converge?" (2018),
    equation 9, without its weight (gamma / 2).
    """
    real = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(real).sum(), real, create_graph=True)
    return gradient.flatten(1).square().sum(dim=1).mean()


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the divergence of a diagonal Gaussian from the standard normal one, shape (n,).

    >>> kl_to_standard_normal(torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2))
    tensor([0.5000])
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def ssim(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the structural similarity around each pixel, from -1 to 1; equal images have 1.

    Parameters
    ----------
    ours, theirs : Tensor, shape (n, channels, height, width)
        Images, with values in [0, 1].

    Returns
    -------
    Tensor, shape (n, channels, height, width)
        Beyond the border images go on with their outermost pixels.

    Source
    ------
    Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment: From Error Visibility to
    Structural Similarity" (2004), equation 13: a Gaussian window of 11x11, sigma 1.5.
    """
    # Variances are small differences of large means: bfloat16 leaves nothing of them.
    with torch.autocast(ours.device.type, enabled=False):
        precise = torch.promote_types(ours.dtype, torch.float32)
        return _ssim(ours.to(precise), theirs.to(precise))


def _ssim(ours: Tensor, theirs: Tensor) -> Tensor:
    channels = ours.shape[1]
    row = _window().to(ours)

    def blurred(images: Tensor) -> Tensor:
        half = _WINDOW // 2
        padded = pad(images, (half, half, half, half), mode="replicate")
        rows = conv2d(padded, row.expand(channels, 1, 1, -1), groups=channels)
        return conv2d(rows, row[:, None].expand(channels, 1, -1, 1), groups=channels)

    our_mean, their_mean = blurred(ours), blurred(theirs)
    our_variance = blurred(ours.square()) - our_mean.square()
    their_variance = blurred(theirs.square()) - their_mean.square()
    covariance = blurred(ours * theirs) - our_mean * their_mean
    luminance = (2 * our_mean * their_mean + _C1) / (our_mean.square() + their_mean.square() + _C1)
    return luminance * (2 * covariance + _C2) / (our_variance + their_variance + _C2)


@lru_cache(maxsize=1)
def _window() -> Tensor:
    """Return the weights of a row of the window, shape (11,)."""
    away = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    weights = (-away.square() / (2 * _SIGMA**2)).exp()
    return (weights / weights.sum()).float()
