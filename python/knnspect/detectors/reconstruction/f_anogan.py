"""f-AnoGAN: a Wasserstein GAN of normal images, and an encoder that finds their codes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from knnspect.constraints import Choice, Count
from knnspect.detectors.reconstruction.base import ReconstructionDetector
from knnspect.parameters import parameter

if TYPE_CHECKING:
    from knnspect.detectors.reconstruction.networks.f_anogan import FAnoGANNetwork

__all__ = ["FAnoGAN"]


class FAnoGAN(ReconstructionDetector):
    """Learn to draw normal images by codes, then to find the code of an image.

    - map: at each pixel, how far the image is from what is drawn by its code;
    - image score: the mean squared difference of pixels, plus that of the critic's features.

    Parameters
    ----------
    encoder_training : {"izif", "izi", "ziz"}, default "izif"
        What the encoder learns by: pixels and the critic's features of images and what is drawn
        by their codes; pixels alone; or the codes of images that are drawn by random ones.
    width : int, default 16
        Channels of the first convolution; deeper ones have up to four times as many.
    max_epochs : int, default 120
        Passes through all images: generator and critic learn in the first half, the encoder in the
        second.
    patience : int or None, default None
        Stop after so many epochs of the second half without a smaller residual of the images held
        out, and keep the weights of the best; None: never stop, and keep the last.
    learning_rate : float, default 5e-4
        Of Adam, for generator and critic, and of RMSprop, for the encoder.

    Source
    ------
    Schlegl, Seeböck, Waldstein, Langs and Schmidt-Erfurth, "f-AnoGAN: Fast Unsupervised Anomaly
    Detection with Generative Adversarial Networks" (2019). Generator G and critic D are a
    Wasserstein GAN with gradient penalty (Gulrajani et al., "Improved Training of Wasserstein
    GANs", 2017): five steps of the critic for one of the generator, a penalty of weight 10. Then
    they stay as they are, and the encoder E learns to lower, of images x, codes z and the features
    f before the critic's last layer,

    - izi: the mean of (x - G(E(x)))^2;
    - ziz: the mean of (z - E(G(z)))^2;
    - izif: that of izi, plus the mean of (f(x) - f(G(E(x))))^2, with a weight of 1.

    The score is the loss of izif. Deviations:

    - DCGAN's blocks instead of residual ones, which take several times as long; the critic has
      layer normalization;
    - the codes that the encoder finds are unbounded, as the generator learnt by codes from a normal
      distribution; the authors' code has a tanh there;
    - the critic's five steps see the same images, each with newly drawn ones and at new places
      between them;
    - learning rates of 5e-4 instead of 1e-4 and 5e-5, for small sets of images.

    Examples
    --------
    >>> import numpy as np
    >>> from knnspect import Pixels
    >>> normal = np.random.default_rng(0).integers(100, 120, (12, 32, 32), np.uint8)
    >>> pixels = Pixels(32, color="grey", device="cpu")
    >>> detector = FAnoGAN(pixels, width=4, latent_size=8, max_epochs=2).fit(normal)
    >>> detector.predict(normal[:1])[0].map.shape
    (32, 32)
    """

    encoder_training: Literal["izif", "izi", "ziz"] = parameter(
        Choice("izif", "izi", "ziz"), default="izif"
    )
    width: int = parameter(default=16)
    max_epochs: int = parameter(Count(minimum=2), default=120)
    patience: int | None = parameter(default=None)
    learning_rate: float = parameter(default=5e-4)

    method: ClassVar[str] = "f_anogan"

    def _network(self, shapes: list[tuple[int, int, int]]) -> FAnoGANNetwork:
        from knnspect.detectors.reconstruction.networks.f_anogan import FAnoGANNetwork

        return FAnoGANNetwork(shapes[0], self._settings(), self.encoder_training)
