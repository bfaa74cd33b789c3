"""ALOCC: a discriminator judges what a denoising autoencoder makes of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from knnspect.constraints import Choice, Positive
from knnspect.detectors.reconstruction.base import ReconstructionDetector
from knnspect.parameters import parameter

if TYPE_CHECKING:
    from knnspect.detectors.reconstruction.networks.alocc import ALOCCNetwork

__all__ = ["ALOCC"]

#: Of noise, where white is 1: float32 holds what comes of it.
_LARGEST_NOISE = 1e3


class ALOCC(ReconstructionDetector):
    """Learn to draw normal images without noise; score what the discriminator takes for drawn.

    The reconstructor R draws noisy normal images such that the discriminator D takes them for real
    ones. Of a normal image it makes a better one; of others, what D knows to be drawn.

    - map: at each pixel, the absolute difference of the image x and R(x);
    - image score: 1 - D(R(x)), or 1 - D(x).

    Parameters
    ----------
    reconstruction_weight : float, default 0.4
        Of the squared difference of images and what is drawn (lambda in the paper).
    noise : float, default 0.155
        Standard deviation of the noise, where black is 0 and white 1; the number is that of the
        published code.
    judged : {"drawn", "image"}, default "drawn"
        What the discriminator judges: what is drawn, or the image itself; it may be changed after
        `fit`.
    enough : float, default 0.1
        Stop training as soon as what is drawn of images held out differs from them by less than
        this share of the variance of the normal images (around their mean image): the
        reconstructor is good enough, and the discriminator gets worse when training goes on.
    max_epochs : int, default 100
        Passes through all images.
    patience : int or None, default 20
        Stop after so many epochs without a smaller difference of images held out, and keep the
        weights of the best; None: only `enough` stops it, and the last are kept.
    learning_rate : float, default 2e-4
        Of Adam, for all weights.

    Source
    ------
    Sabokrou, Khalooei, Fathy and Adeli, "Adversarially Learned One-Class Classifier for Novelty
    Detection" (2018), equations 3 to 7. Deviations:

    - the squared difference is the mean over pixels, as a share of the variance of the images, so
      that its weight means the same at any size and contrast;
    - the paper stops when the squared difference of images is below a constant: `enough` is
      relative to the images, and taken of images held out;
    - where `enough` is never reached, `patience` ends training soon: the longer the discriminator
      learns, the less it says of images that it has not seen;
    - the reconstructor has a linear layer in the middle: without, it could copy any image;
    - reconstruction is compared with the image without noise by its squared difference, as in the
      paper, where the published code takes a cross-entropy with the noisy image.

    The paper judges images alone; the map is ours.

    Examples
    --------
    >>> import numpy as np
    >>> from knnspect import Pixels
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (12, 32, 32), np.uint8)
    >>> detector = ALOCC(Pixels(32, color="grey", device="cpu"), max_epochs=5).fit(normal[1:])
    >>> prediction = detector.predict(normal[:1])[0]
    >>> 0 <= prediction.score <= 1, prediction.map.shape
    (True, (32, 32))
    """

    reconstruction_weight: float = parameter(Positive(), default=0.4)
    noise: float = parameter(Positive(or_zero=True, at_most=_LARGEST_NOISE), default=0.155)
    judged: Literal["drawn", "image"] = parameter(
        Choice("drawn", "image"), default="drawn", changes_training=False
    )
    enough: float = parameter(Positive(or_zero=True), default=0.1)
    max_epochs: int = parameter(default=100)
    patience: int | None = parameter(default=20)
    learning_rate: float = parameter(default=2e-4)

    method: ClassVar[str] = "alocc"
    _judging: ClassVar[tuple[str, ...]] = ("judged",)

    def _network(self, shapes: list[tuple[int, int, int]]) -> ALOCCNetwork:
        from knnspect.detectors.reconstruction.networks.alocc import ALOCCNetwork

        return ALOCCNetwork(
            shapes[0],
            self._settings(),
            self.reconstruction_weight,
            self.noise,
            self.judged,
            self.enough,
        )
