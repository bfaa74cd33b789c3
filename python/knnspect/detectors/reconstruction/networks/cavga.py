"""The network of CAVGA: codes that keep rows and columns, and where they pay attention."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, interpolate

from knnspect.detectors.reconstruction.networks.base import ReconstructionNetwork, Settings
from knnspect.detectors.reconstruction.networks.blocks import Discriminator, Kind, Trunk, n_halvings
from knnspect.detectors.reconstruction.networks.losses import (
    as_fake,
    as_real,
    kl_to_standard_normal,
)
from knnspect.pyramid import FeaturePyramid
from knnspect.training.network import Step

__all__ = ["CAVGANetwork", "Weights", "attention"]

_GENERATOR, _DISCRIMINATOR = 0, 1
#: Codes have at least so many rows and columns, where images allow it.
_SMALLEST_GRID = 7
#: Convolutions on the grid of the code, before it and after it.
_CONTEXT = 3
#: The slope of leaky ReLUs below zero.
_SLOPE = 0.2
#: What the classifier tells apart.
NORMAL, DEFECTIVE = 0, 1


@dataclass(frozen=True)
class Weights:
    """Of the terms of the loss, beside the one of the VAE."""

    adversarial: float
    attention: float
    classifier: float


class CAVGANetwork(ReconstructionNetwork):
    """A VAE with a convolutional code, a discriminator, and an attention that is to be everywhere.

    Parameters
    ----------
    shape, settings
        As `ReconstructionNetwork` takes them; `latent_size` channels of the code.
    weights : Weights
        See there.
    map_of : {"attention", "residual"}
        What maps show.
    is_weak : bool
        Whether a classifier tells normal images from `defects`, and attention is its.
    """

    black: ClassVar[float] = 0.0
    n_parts = 2
    part_names = ("generator", "discriminator")
    #: The loss has gradients of gradients.
    allows_bfloat16 = False
    #: Defective images, shape (n, channels, height, width), while it is trained with some.
    defects: Tensor | None = None

    def __init__(
        self,
        shape: tuple[int, int, int],
        settings: Settings,
        weights: Weights,
        map_of: Literal["attention", "residual"],
        is_weak: bool,
    ) -> None:
        super().__init__(shape, settings)
        self.weights, self.map_of = weights, map_of
        height, width, channels = shape
        halvings = n_halvings(height, width, _SMALLEST_GRID)
        self.trunk = Trunk(shape, settings.width, halvings=halvings)
        n, n_codes = self.trunk.channels, settings.latent_size
        # Nothing is normalized after the features: attention is each image's own, and a code that
        # is the same for features of any scale has, by Euler's theorem, none.
        self.head = nn.Sequential(*context(n, Kind(norm="none")), nn.Conv2d(n, 2 * n_codes, 1))
        for layer in self.head:
            if isinstance(layer, nn.Conv2d):
                # Attention is a gradient through all of them, which would begin near 0.
                nn.init.kaiming_normal_(layer.weight, a=_SLOPE)
        self.decoder = decoder(n_codes, n, channels, settings.width, halvings)
        self.discriminator = Discriminator(
            shape, settings.width, Kind(norm="none", is_spectral=True)
        )
        self.classifier = nn.Linear(n_codes * math.prod(self.trunk.grid), 2) if is_weak else None

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one for the discriminator and one for all else."""
        rate = self.settings.learning_rate
        theirs = list(self.discriminator.parameters())
        ours = [p for name, p in self.named_parameters() if not name.startswith("discriminator.")]
        return [
            torch.optim.Adam(ours, rate, betas=(0.5, 0.999)),
            torch.optim.Adam(theirs, rate, betas=(0.5, 0.999)),
        ]

    def learn(self, images: Tensor, generator: torch.Generator) -> Iterator[Step]:
        """Tell images from drawn ones; draw images, and pay attention to all of them."""
        n_images = len(images)
        others = [] if self.classifier is None else [self.some_defects(images, generator)]
        features = self.trunk(torch.cat([images, *others]))
        codes, log_variances = self.code(features)
        mean, log_variance = codes[:n_images], log_variances[:n_images]
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        logits = self.decoder(mean + noise * (0.5 * log_variance).exp())
        drawn = logits.sigmoid()
        discriminator = self.discriminator
        told = as_real(discriminator(images)) + as_fake(discriminator(drawn.detach()))
        yield self.step(told, images, _DISCRIMINATOR)
        loss = vae_loss(images, logits, mean, log_variance)
        loss = loss + self.weights.adversarial * as_real(discriminator(drawn))
        if self.classifier is None:
            loss = loss + self.weights.attention * (1 - attention(features, codes)).mean()
        else:
            loss = loss + self.weak_loss(features, codes, n_images)
        yield self.step(loss, images, _GENERATOR)

    def code(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the variance, shape (n_images, latent_size, *grid)."""
        mean, log_variance = self.head(features).chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)

    def some_defects(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return as many defective images as there are others, drawn with replacement."""
        if self.defects is None:
            raise RuntimeError("weak supervision without images of defects")
        defects = self.defects.to(images)
        size = (len(images),)
        return defects[torch.randint(len(defects), size, generator=generator, device=images.device)]

    def weak_loss(self, features: Tensor, codes: Tensor, n_normal: int) -> Tensor:
        """Return the loss of the classifier, and of its attention on normal images.

        The first images are normal. Attention counts where they are told to be (the paper, section
        3.2).
        """
        logits = self.classify(codes)
        labels = torch.full((len(codes),), DEFECTIVE, device=codes.device)
        labels[:n_normal] = NORMAL
        is_right = (logits[:n_normal].argmax(dim=1) == NORMAL).to(codes)
        normal = attention(features, logits[:n_normal, NORMAL])[:n_normal]
        defective = attention(features, logits[:n_normal, DEFECTIVE])[:n_normal]
        complementary = (defective + 1 - normal).mean(dim=(1, 2)) * is_right
        return (
            self.weights.classifier * cross_entropy(logits, labels)
            + self.weights.attention * complementary.mean()
        )

    def classify(self, codes: Tensor) -> Tensor:
        """Return logits of normal and defective, shape (n_images, 2)."""
        if self.classifier is None:
            raise RuntimeError("no classifier without weak supervision")
        logits: Tensor = self.classifier(codes.flatten(1))
        return logits

    def attention(self, images: Tensor) -> Tensor:
        """Return the attention to each pixel, shape (n_images, height, width), in (0, 1)."""
        with torch.enable_grad():
            features = self.trunk(images)
            # Its gradient is asked for also where no parameter has one.
            features = features if features.requires_grad else features.requires_grad_()
            mean, _ = self.code(features)
            target = mean if self.classifier is None else self.classify(mean)[:, NORMAL]
            maps = attention(features, target, is_learnt=False).detach()[:, None]
        return interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]

    def draw(self, images: Tensor) -> Tensor:
        """Return what is drawn by the mean of the code."""
        mean, _ = self.code(self.trunk(images))
        drawn: Tensor = self.decoder(mean).sigmoid()
        return drawn

    def scores(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the mean absolute difference."""
        return (images - drawn).abs().mean(dim=(1, 2, 3))

    def residuals(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return what maps show."""
        if self.map_of == "attention":
            return 1 - self.attention(images)
        return super().residuals(images, drawn)

    def held_out_losses(self, batch: FeaturePyramid) -> list[tuple[float, int]]:
        """Return the mean absolute difference, and the number of images."""
        total = sum(
            float(self.scores(images, self.draw(images))[:n].sum())
            for images, n in self._some(batch)
        )
        return [(total, batch.n_images)]

    def calibrate(self, batches: Iterator[FeaturePyramid]) -> None:  # noqa: ARG002 - none is needed
        """Forget images of defects."""
        self.defects = None


def attention(features: Tensor, target: Tensor, is_learnt: bool = True) -> Tensor:
    """Return where features matter for a target, shape (n_images, height, width), in (0, 1).

    Parameters
    ----------
    features : Tensor, shape (n_images, channels, height, width)
        In the graph of `target`.
    target : Tensor, shape (n_images, ...)
        Each image's depends on its own features alone.
    is_learnt : bool, default True
        Whether the attention is to have a gradient itself.

    Source
    ------
    Selvaraju et al., "Grad-CAM" (2017), equations 1 and 2, with a logistic function instead of the
    rectifier, as CAVGA has it.
    """
    (gradient,) = torch.autograd.grad(
        target.sum(), features, create_graph=is_learnt, retain_graph=True
    )
    importance = gradient.mean(dim=(2, 3), keepdim=True)
    return (importance * features).sum(dim=1).sigmoid()


def vae_loss(images: Tensor, logits: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the cross-entropy of pixels and the divergence of codes, for each value of a pixel."""
    entropy = binary_cross_entropy_with_logits(logits, images)
    divergence = kl_to_standard_normal(mean.flatten(1), log_variance.flatten(1)).mean()
    return entropy + divergence / images[0].numel()


def context(channels: int, kind: Kind) -> list[nn.Module]:
    """Return layers by which each place of a code knows of all others.

    Without them a code is made of pieces of images, which are drawn whatever lies beside them.
    """
    layers: list[nn.Module] = []
    for _ in range(_CONTEXT):
        layers.append(nn.Conv2d(channels, channels, 3, padding=1))
        layers += [kind.normalization(channels), nn.LeakyReLU(_SLOPE)]
    return layers


def decoder(
    n_codes: int, n_features: int, channels: int, width: int, halvings: int
) -> nn.Sequential:
    """Return what draws the logits of images by codes with rows and columns."""
    kind = Kind()
    layers = [nn.Conv2d(n_codes, n_features, 1), *context(n_features, kind)]
    now = n_features
    for place in reversed(range(halvings)):
        narrower = width * min(2**place, 4)
        layers += [nn.ConvTranspose2d(now, narrower, 4, 2, 1), kind.normalization(narrower)]
        layers.append(nn.ReLU())
        now = narrower
    layers.append(nn.Conv2d(now, channels, 3, padding=1))
    return nn.Sequential(*layers)
