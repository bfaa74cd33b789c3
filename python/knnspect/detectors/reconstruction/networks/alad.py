"""The networks of ALAD: encoder, generator, and three discriminators of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from knnspect.detectors.reconstruction.networks.base import Settings
from knnspect.detectors.reconstruction.networks.blocks import (
    Decoder,
    Discriminator,
    Encoder,
    JointDiscriminator,
    Kind,
    mlp,
)
from knnspect.detectors.reconstruction.networks.latent import CodedNetwork, average_of, frozen
from knnspect.detectors.reconstruction.networks.losses import as_fake, as_real
from knnspect.training.network import Step

__all__ = ["ALADNetwork"]

#: How slowly the weights that judge follow those that learn (the paper, section V).
_DECAY = 0.999


class _Judges(nn.Module):
    """What judges: of its weights an average is kept."""

    def __init__(self, shape: tuple[int, int, int], settings: Settings) -> None:
        super().__init__()
        height, breadth, channels = shape
        width, size = settings.width, settings.latent_size
        spectral = Kind("none", is_spectral=True)
        self.encoder = Encoder(shape, size, width)
        self.decoder = Decoder(shape, size, width)
        self.of_images = Discriminator((height, breadth, 2 * channels), width, spectral)


class ALADNetwork(CodedNetwork):
    """Encoder E, generator G, and the discriminators D_xz, D_xx and D_zz.

    Parameters
    ----------
    shape, settings
        As `ReconstructionNetwork` takes them.
    judged_by : {"features", "l1", "l2", "logits"}
        What the score of an image is.
    """

    n_parts = 2
    part_names: Sequence[str] = ("generator", "discriminator")

    def __init__(
        self,
        shape: tuple[int, int, int],
        settings: Settings,
        judged_by: Literal["features", "l1", "l2", "logits"],
    ) -> None:
        super().__init__(shape, settings)
        self.judged_by = judged_by
        spectral = Kind("none", is_spectral=True)
        size = settings.latent_size
        self.learning = _Judges(shape, settings)
        self.of_both = JointDiscriminator(shape, size, settings.width, kind=spectral)
        self.of_codes = mlp(2 * size, 64, 32, 1, kind=spectral)
        self.average = average_of(self.learning, _DECAY)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return Adam for encoder and generator, and for the discriminators."""
        parts: list[list[nn.Module]] = [
            [self.learning.encoder, self.learning.decoder],
            [self.of_both, self.learning.of_images, self.of_codes],
        ]
        return [
            torch.optim.Adam(
                [value for module in part for value in module.parameters()],
                self.settings.learning_rate,
                betas=(0.5, 0.999),
            )
            for part in parts
        ]

    def learn(self, images: Tensor, generator: torch.Generator) -> Iterator[Step]:
        """Let the discriminators tell pairs apart, then encoder and generator deceive them."""
        codes = self.random_codes(len(images), generator)
        made = self._made(images, codes)
        judged = [each.detach() for each in made]
        yield self.step(self._told_apart(images, codes, *judged), images, 1)
        # Encoder and generator are as they were, so what they made is, too.
        with frozen(self.of_both, self.learning.of_images, self.of_codes):
            loss = self._deceived(images, codes, *made)
        yield self.step(loss, images, 0)
        self.average.update_parameters(self.learning)

    def _made(self, images: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return E(x), G(z), G(E(x)) and E(G(z))."""
        encoded, drawn = self.learning.encoder(images), self.learning.decoder(codes)
        return encoded, drawn, self.learning.decoder(encoded), self.learning.encoder(drawn)

    def _told_apart(
        self,
        images: Tensor,
        codes: Tensor,
        encoded: Tensor,
        drawn: Tensor,
        redrawn: Tensor,
        reencoded: Tensor,
    ) -> Tensor:
        """Return the loss of the discriminators (the paper, equations 1, 3 and 4)."""
        return (
            as_real(self.of_both(images, encoded))
            + as_fake(self.of_both(drawn, codes))
            + as_real(self.learning.of_images(_pair(images, images)))
            + as_fake(self.learning.of_images(_pair(images, redrawn)))
            + as_real(self.of_codes(_pair(codes, codes)))
            + as_fake(self.of_codes(_pair(codes, reencoded)))
        )

    def _deceived(
        self,
        images: Tensor,
        codes: Tensor,
        encoded: Tensor,
        drawn: Tensor,
        redrawn: Tensor,
        reencoded: Tensor,
    ) -> Tensor:
        """Return the loss of encoder and generator: the same pairs, the other way round."""
        return (
            as_fake(self.of_both(images, encoded))
            + as_real(self.of_both(drawn, codes))
            + as_real(self.learning.of_images(_pair(images, redrawn)))
            + as_real(self.of_codes(_pair(codes, reencoded)))
        )

    def draw(self, images: Tensor) -> Tensor:
        """Return G(E(x)), by the averaged weights."""
        drawn: Tensor = self._judges.decoder(self._judges.encoder(images))
        return drawn

    @property
    def _judges(self) -> _Judges:
        return cast(_Judges, self.average.module)

    def scores(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the score that was chosen (the paper, equation 6 and table VI)."""
        if self.judged_by == "l1":
            return (images - drawn).abs().sum(dim=(1, 2, 3))
        if self.judged_by == "l2":
            return (images - drawn).square().sum(dim=(1, 2, 3)).sqrt()
        of_images = self._judges.of_images
        if self.judged_by == "logits":
            return softplus(-of_images(_pair(images, drawn)))
        same = of_images.features(_pair(images, images))
        return (same - of_images.features(_pair(images, drawn))).abs().sum(dim=1)


def _pair(first: Tensor, second: Tensor) -> Tensor:
    """Put images side by side as channels, or codes one after the other."""
    return torch.cat([first, second], dim=1)
