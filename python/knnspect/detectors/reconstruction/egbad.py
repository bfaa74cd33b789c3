"""EGBAD: a bidirectional GAN, whose encoder finds the code of an image at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from knnspect.constraints import Choice, Positive
from knnspect.detectors.reconstruction.base import ReconstructionDetector
from knnspect.parameters import parameter

if TYPE_CHECKING:
    from knnspect.detectors.reconstruction.networks.egbad import EGBADNetwork

__all__ = ["EGBAD"]


class EGBAD(ReconstructionDetector):
    """Draw images by codes and find codes of images, against one discriminator of both.

    - map: at each pixel, how far the image is from what is drawn by its code;
    - image score: the sum of these differences, and what the discriminator makes of image and
      code, weighted.

    Parameters
    ----------
    discriminator_score : {"features", "cross_entropy"}, default "features"
        The discriminator's share of the score: the L1 distance of its features of the image and of
        what is drawn, each with the code; or the cross-entropy of its answer to image and code.
    pixel_share : float, default 0.9
        The share of the score that pixels have (the paper's alpha); the rest is the
        discriminator's.
    latent_size : int, default 16
        Numbers that an image is described by between encoder and decoder.
    width : int, default 16
        Channels of the first convolution; deeper ones have up to four times as many.
    max_epochs : int, default 200
        Passes through all images.
    patience : int or None, default None
        Stop after so many epochs without a smaller residual of the images held out, and keep the
        weights of the best; None: never stop, and keep the last.
    learning_rate : float, default 5e-4
        Of Adam, for all networks.

    Source
    ------
    Zenati, Foo, Lecouat, Manek and Chandrasekhar, "Efficient GAN-Based Anomaly Detection" (2018).
    Encoder E, generator G and discriminator D are a BiGAN (Donahue, Krähenbühl and Darrell,
    "Adversarial Feature Learning", 2017): D tells (x, E(x)) from (G(z), z), the others deceive it.
    The score is alpha L_G + (1 - alpha) L_D with L_G the L1 norm of x - G(E(x)), and L_D either
    the cross-entropy of D(x, E(x)) to be 1, or, with the features f_D before D's last layer, the L1
    norm of f_D(x, E(x)) - f_D(G(E(x)), E(x)). As in the paper, both norms are sums, and values of
    pixels go from -1 to 1: the share of pixels grows with their number, so that of larger images
    the discriminator says less at the same alpha. The weights that judge are an average of those
    that learn, with a decay of 0.999, as in the authors' code. Deviations:

    - E and G deceive D by the other label, not by the negated loss;
    - D has neither batch normalization nor dropout, as random numbers of a layer are not resumed;
    - codes of 16 numbers by default, for small sets of images;
    - of few steps, the average forgets the first weights sooner;
    - a learning rate of 5e-4 instead of 1e-5, for small sets of images;
    - the share of features, not of cross-entropy, is the default: the cross-entropy is the same
      whatever is drawn.

    The paper judges no pixels; the map is ours.

    Examples
    --------
    >>> import numpy as np
    >>> from knnspect import Pixels
    >>> normal = np.random.default_rng(0).integers(100, 120, (12, 32, 32), np.uint8)
    >>> pixels = Pixels(32, color="grey", device="cpu")
    >>> detector = EGBAD(pixels, width=4, latent_size=8, max_epochs=2).fit(normal)
    >>> detector.predict(normal[:1])[0].map.shape
    (32, 32)
    """

    discriminator_score: Literal["features", "cross_entropy"] = parameter(
        Choice("features", "cross_entropy"), default="features", changes_training=False
    )
    pixel_share: float = parameter(
        Positive(or_zero=True, at_most=1), default=0.9, changes_training=False
    )
    latent_size: int = parameter(default=16)
    width: int = parameter(default=16)
    max_epochs: int = parameter(default=200)
    patience: int | None = parameter(default=None)
    learning_rate: float = parameter(default=5e-4)

    method: ClassVar[str] = "egbad"
    _judging: ClassVar[tuple[str, ...]] = ("discriminator_score", "pixel_share")

    def _network(self, shapes: list[tuple[int, int, int]]) -> EGBADNetwork:
        from knnspect.detectors.reconstruction.networks.egbad import EGBADNetwork

        return EGBADNetwork(shapes[0], self._settings(), self.discriminator_score, self.pixel_share)
