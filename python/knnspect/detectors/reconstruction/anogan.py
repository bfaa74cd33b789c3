"""AnoGAN: a GAN of normal images, searched for the nearest that it can draw."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from knnspect.constraints import Count, Positive
from knnspect.detectors.reconstruction.base import ReconstructionDetector
from knnspect.parameters import parameter

if TYPE_CHECKING:
    from knnspect.detectors.reconstruction.networks.anogan import AnoGANNetwork

__all__ = ["AnoGAN"]

#: Codes are normally distributed: longer steps leave them at once.
_LARGEST_RATE = 10.0


class AnoGAN(ReconstructionDetector):
    """Learn to draw normal images by codes; search for the code that draws an image best.

    - map: at each pixel, how far the image is from what is drawn by the code found;
    - image score: the sum of these differences, and of those of the discriminator's features,
      weighted.

    Parameters
    ----------
    search_steps : int, default 500
        Steps of the search for an image's code.
    search_rate : float, default 0.05
        Adam's learning rate in the search.
    feature_share : float, default 0.1
        The share of the score that the discriminator's features have (the paper's lambda); the
        rest is that of pixels.
    width : int, default 16
        Channels of the first convolution; deeper ones have up to four times as many. The search
        goes 500 times through both networks.
    max_epochs : int, default 250
        Passes through all images.
    patience : int or None, default None
        Stop after so many epochs in which no drawn image comes nearer to the images held out, and
        keep the weights of the best; None: never stop, and keep the last.
    learning_rate : float, default 5e-4
        Of Adam, for both networks.

    Source
    ------
    Schlegl, Seeböck, Waldstein, Schmidt-Erfurth and Langs, "Unsupervised Anomaly Detection with
    Generative Adversarial Networks to Guide Marker Discovery" (2017), with the networks of Radford,
    Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative
    Adversarial Networks" (2016). With the generator G and the features f before the
    discriminator's last layer, a search by gradients lowers, for each image x, the loss
    (1 - lambda) R + lambda D over codes z, where R is the L1 norm of x - G(z) and D that of
    f(x) - f(G(z)), both sums. Where it ends, this is the score. Deviations:

    - the search is Adam's, which the paper does not say; each image has the same first code, so
      that its score depends on nothing else;
    - both networks judge with the statistics of training: batch normalization of the images that
      are searched together would let scores depend on each other;
    - a learning rate of 5e-4 instead of DCGAN's 2e-4, and smaller networks, for small sets of
      images, and as the search goes through them hundreds of times.

    Notes
    -----
    Judging takes seconds: on the CPU 16 images are searched together, as fast as one. Give
    `predict` many at a time.

    Examples
    --------
    >>> import numpy as np
    >>> from knnspect import Pixels
    >>> normal = np.random.default_rng(0).integers(100, 120, (12, 32, 32), np.uint8)
    >>> pixels = Pixels(32, color="grey", device="cpu")
    >>> detector = AnoGAN(pixels, width=4, latent_size=8, max_epochs=2, search_steps=5)
    >>> detector.fit(normal).predict(normal[:1])[0].map.shape
    (32, 32)
    """

    search_steps: int = parameter(Count(), default=500, changes_training=False)
    search_rate: float = parameter(
        Positive(at_most=_LARGEST_RATE), default=0.05, changes_training=False
    )
    feature_share: float = parameter(
        Positive(or_zero=True, at_most=1), default=0.1, changes_training=False
    )
    width: int = parameter(default=16)
    max_epochs: int = parameter(default=250)
    patience: int | None = parameter(default=None)
    learning_rate: float = parameter(default=5e-4)

    method: ClassVar[str] = "anogan"
    _judging: ClassVar[tuple[str, ...]] = ("search_steps", "search_rate", "feature_share")

    def _network(self, shapes: list[tuple[int, int, int]]) -> AnoGANNetwork:
        from knnspect.detectors.reconstruction.networks.anogan import AnoGANNetwork

        return AnoGANNetwork(
            shapes[0],
            self._settings(),
            self.search_steps,
            self.search_rate,
            self.feature_share,
        )
