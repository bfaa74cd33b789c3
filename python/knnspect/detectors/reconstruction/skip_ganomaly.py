"""Skip-GANomaly: a U-Net draws images, and a discriminator describes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from knnspect.constraints import Positive
from knnspect.detectors.reconstruction.base import ReconstructionDetector
from knnspect.parameters import parameter

if TYPE_CHECKING:
    from knnspect.detectors.reconstruction.networks.skip_ganomaly import SkipGANomalyNetwork

__all__ = ["SkipGANomaly"]

#: Of noise, where white is 1: float32 holds what comes of it.
_LARGEST_NOISE = 1e3


class SkipGANomaly(ReconstructionDetector):
    """Learn to draw normal images by a U-Net; score where pixels and features differ.

    - map: at each pixel, the absolute difference of the image and what is drawn;
    - image score: `residual_share` of their mean absolute difference, and the rest to 1 of the
      root mean square of the difference of the discriminator's features.

    Skip connections hand on detail, that of defects included: the network draws well what it has
    never seen, and scores say little where what is odd is the shape of a thing. Noise on the image
    takes the detail away that they could copy. `GANomaly` and `SSIMAE` have no skip connections.

    Parameters
    ----------
    adversarial_weight : float, default 1
        Of the discriminator's cross-entropy.
    contextual_weight : float, default 40
        Of the absolute difference of pixels.
    latent_weight : float, default 1
        Of the squared difference of the discriminator's features.
    residual_share : float, default 0.9
        The weight of pixels in the score (lambda in the paper).
    noise : float, default 0.5
        Standard deviation of the noise on images that are drawn, in training and in judging, where
        black is 0 and white 1. It is the same for every image that is judged.
    max_epochs : int, default 120
        Passes through all images.
    patience : int or None, default 30
        Stop after so many epochs without a smaller residual of the images held out, and keep the
        weights of the best; None: never stop, and keep the last.
    learning_rate : float, default 2e-4
        Of Adam, for all weights.

    Source
    ------
    Akcay, Atapour-Abarghouei and Breckon, "Skip-GANomaly: Skip Connected and Adversarially Trained
    Encoder-Decoder Anomaly Detection" (2019), equations 1 to 6. Deviations:

    - losses and scores are means over pixels and features, as in the published code, so that their
      weights mean the same at any size of image;
    - the score has absolute differences of pixels and a norm of features, as the paper has, where
      the published code has squares of both;
    - noise, which the paper does not have: the published code adds a tensor for it and never fills
      it. Without noise the skip connections learn to copy; how much was chosen by pictures of
      clothes and of solar cells;
    - scores are not brought to [0, 1] by the least and the largest of the test images (equation
      7), which would make a score depend on other images; the epoch that is kept is the best on
      normal images held out, not on the test;
    - the middle has two linear layers, so that images need not be square.

    Examples
    --------
    >>> import numpy as np
    >>> from knnspect import Pixels
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (12, 32, 32), np.uint8)
    >>> pixels = Pixels(32, color="grey", device="cpu")
    >>> detector = SkipGANomaly(pixels, max_epochs=5, width=8).fit(normal[1:])
    >>> prediction = detector.predict(normal[:1])[0]
    >>> prediction.score > 0, prediction.map.shape
    (True, (32, 32))
    """

    adversarial_weight: float = parameter(Positive(or_zero=True), default=1.0)
    contextual_weight: float = parameter(Positive(), default=40.0)
    latent_weight: float = parameter(Positive(or_zero=True), default=1.0)
    residual_share: float = parameter(Positive(or_zero=True, at_most=1), default=0.9)
    noise: float = parameter(Positive(or_zero=True, at_most=_LARGEST_NOISE), default=0.5)
    max_epochs: int = parameter(default=120)
    patience: int | None = parameter(default=30)
    learning_rate: float = parameter(default=2e-4)

    method: ClassVar[str] = "skip_ganomaly"

    def _network(self, shapes: list[tuple[int, int, int]]) -> SkipGANomalyNetwork:
        from knnspect.detectors.reconstruction.networks.skip_ganomaly import SkipGANomalyNetwork

        return SkipGANomalyNetwork(
            shapes[0],
            self._settings(),
            (self.adversarial_weight, self.contextual_weight, self.latent_weight),
            self.residual_share,
            self.noise,
        )
