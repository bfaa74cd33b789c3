"""ALAE: an adversarial autoencoder whose codes, not images, are held against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from knnspect.constraints import Positive
from knnspect.detectors.reconstruction.base import ReconstructionDetector
from knnspect.parameters import parameter

if TYPE_CHECKING:
    from knnspect.detectors.reconstruction.networks.alae import ALAENetwork

__all__ = ["ALAE"]


class ALAE(ReconstructionDetector):
    """Learn to draw normal images by codes, and the codes of images; score what differs.

    F makes latent codes of noise, G draws images by codes, E gives the codes of images, and D tells
    codes of real images from those of drawn ones.

    - map: at each pixel, the absolute difference of the image x and G(E(x));
    - image score: the root mean square of that difference, and `latent_weight` times that of
      E(x) and E(G(E(x))), the latter in standard deviations of the codes of normal images.

    Both are ours: the paper is not about anomalies.

    Parameters
    ----------
    gamma : float, default 10
        Twice the weight of the squared norm of the discriminator's gradient at real images.
    image_weight : float, default 10
        Of the absolute difference of normal images x and G(E(x)) in training; 0: as in the paper.
    latent_weight : float, default 0.1
        Of the distance of codes in the score.
    max_epochs : int, default 80
        Passes through all images.
    patience : int or None, default 20
        Stop after so many epochs without a smaller residual of the images held out, and keep the
        weights of the best; None: never stop, and keep the last.
    learning_rate : float, default 1e-3
        Of Adam, for all weights.

    Source
    ------
    Pidhorskyi, Adjeroh and Doretto, "Adversarial Latent Autoencoders" (2020), section 4 and
    algorithm 1. Deviations:

    - the paper trains reciprocity on drawn images alone: E(x) of a real image draws x only as far
      as drawn images are like real ones, which needs many more than some hundred of them. E and G
      therefore learn to draw real images again, too, with `image_weight`;
    - convolutions of the DCGAN kind, without a style and without growing images;
    - a learning rate of 1e-3 instead of 2e-3, as weights are not brought to one scale by layer;
    - the weights are those of the epoch that is best on normal images held out, not their moving
      average.

    Examples
    --------
    >>> import numpy as np
    >>> from knnspect import Pixels
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (12, 32, 32), np.uint8)
    >>> odd = normal[:1].copy()
    >>> odd[0, 10:20, 15:25] = 255
    >>> detector = ALAE(Pixels(32, color="grey", device="cpu"), max_epochs=5).fit(normal[1:])
    >>> good, bad = detector.predict(np.concatenate([normal[:1], odd]))
    >>> bool(good.map.max() < bad.map.max()), bad.map.shape
    (True, (32, 32))
    """

    gamma: float = parameter(Positive(or_zero=True), default=10.0)
    image_weight: float = parameter(Positive(or_zero=True), default=10.0)
    latent_weight: float = parameter(Positive(or_zero=True), default=0.1)
    max_epochs: int = parameter(default=80)
    patience: int | None = parameter(default=20)
    learning_rate: float = parameter(default=1e-3)

    method: ClassVar[str] = "alae"

    def _network(self, shapes: list[tuple[int, int, int]]) -> ALAENetwork:
        from knnspect.detectors.reconstruction.networks.alae import ALAENetwork

        return ALAENetwork(
            shapes[0], self._settings(), self.gamma, self.image_weight, self.latent_weight
        )
