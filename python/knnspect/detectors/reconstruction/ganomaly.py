"""GANomaly: an image, and what is drawn in its place, are to have the same latent code."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from knnspect.constraints import Positive
from knnspect.detectors.reconstruction.base import ReconstructionDetector
from knnspect.parameters import parameter

if TYPE_CHECKING:
    from knnspect.detectors.reconstruction.networks.ganomaly import GANomalyNetwork

__all__ = ["GANomaly"]


class GANomaly(ReconstructionDetector):
    """Learn to draw normal images and to encode what is drawn; score where the codes differ.

    - map: at each pixel, the absolute difference of the image and what is drawn;
    - image score: the L1 distance of the image's latent code and that of what is drawn.

    Parameters
    ----------
    adversarial_weight : float, default 1
        Of the difference of the discriminator's features.
    contextual_weight : float, default 50
        Of the absolute difference of pixels.
    encoder_weight : float, default 1
        Of the squared difference of latent codes.
    max_epochs : int, default 120
        Passes through all images.
    patience : int or None, default 30
        Stop after so many epochs without a smaller residual of the images held out, and keep the
        weights of the best; None: never stop, and keep the last.
    learning_rate : float, default 2e-4
        Of Adam, for all weights.

    Source
    ------
    Akcay, Atapour-Abarghouei and Breckon, "GANomaly: Semi-Supervised Anomaly Detection via
    Adversarial Training" (2018), equations 1 to 5. Deviations:

    - losses are means over pixels, features and numbers of a code, as in the published code, so
      that their weights mean the same at any size of image;
    - the learning rate is that of the published code, a tenth of the paper's;
    - scores are not brought to [0, 1] by the least and the largest of the test images (equation
      6), which would make a score depend on other images;
    - networks judge with the statistics of training, where the published code takes those of each
      batch of the test; and the epoch that is kept is the best on normal images held out, not on
      the test;
    - the discriminator is not given new weights when its loss is almost zero, as the published
      code does;
    - the latent code is a linear layer's, so that images need not be square.

    The paper judges images alone; the map is ours.

    Examples
    --------
    >>> import numpy as np
    >>> from knnspect import Pixels
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (12, 32, 32), np.uint8)
    >>> odd = normal[:1].copy()
    >>> odd[0, 10:20, 15:25] = 255
    >>> detector = GANomaly(Pixels(32, color="grey", device="cpu"), max_epochs=5).fit(normal[1:])
    >>> prediction = detector.predict(odd)[0]
    >>> prediction.score > 0, prediction.map.shape
    (True, (32, 32))
    >>> row, column = np.unravel_index(prediction.map.argmax(), (32, 32))
    >>> bool(8 <= row < 22 and 13 <= column < 27)
    True
    """

    adversarial_weight: float = parameter(Positive(or_zero=True), default=1.0)
    contextual_weight: float = parameter(Positive(), default=50.0)
    encoder_weight: float = parameter(Positive(), default=1.0)
    max_epochs: int = parameter(default=120)
    patience: int | None = parameter(default=30)
    learning_rate: float = parameter(default=2e-4)

    method: ClassVar[str] = "ganomaly"

    def _network(self, shapes: list[tuple[int, int, int]]) -> GANomalyNetwork:
        from knnspect.detectors.reconstruction.networks.ganomaly import GANomalyNetwork

        weights = (self.adversarial_weight, self.contextual_weight, self.encoder_weight)
        return GANomalyNetwork(shapes[0], self._settings(), weights)
