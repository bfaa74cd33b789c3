"""ADAE: two autoencoders against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from knnspect.constraints import Positive
from knnspect.detectors.reconstruction.base import ReconstructionDetector
from knnspect.parameters import parameter

if TYPE_CHECKING:
    from knnspect.detectors.reconstruction.networks.adae import ADAENetwork

__all__ = ["ADAE"]


class ADAE(ReconstructionDetector):
    """Learn to draw normal images twice; score where what is drawn differs.

    One autoencoder, the generator G, draws images such that another, the discriminator D, can draw
    them again; D learns to draw real images well and drawn ones badly.

    - map: at each pixel, the absolute difference of the image x and D(G(x));
    - image score: the L2 distance of x and D(G(x)).

    Parameters
    ----------
    margin : float, default 0.1
        The discriminator is rewarded for drawing drawn images badly up to this mean absolute
        difference, in standard deviations of the normal images.
    max_epochs : int, default 100
        Passes through all images.
    patience : int or None, default 20
        Stop after so many epochs without a smaller residual of the images held out, and keep the
        weights of the best; None: never stop, and keep the last.
    learning_rate : float, default 1e-3
        Of Adam, for all weights.

    Source
    ------
    Vu, Ueta, Hashimoto, Maeno, Pranata and Shen, "Anomaly Detection with Adversarial Dual
    Autoencoders" (2019). With the mean absolute difference d, the discriminator's loss is
    d(x, D(x)) - d(G(x), D(G(x))), the generator's d(x, G(x)) + d(G(x), D(G(x))). Deviations:

    - the discriminator's loss has no lower bound, so that drawing drawn images ever worse would
      pay more than drawing real ones well: its second term stops at `margin`, as in energy-based
      GANs;
    - encoders and decoders have one convolution for each halving, and a linear layer between them;
    - activations are normalized image by image in the decoders, and not at all in the encoders:
      the statistics of a batch of real images are not those of drawn ones;
    - early stopping, for small sets of images.

    The paper's own networks, learning rates and figures were not checked.

    Examples
    --------
    >>> import numpy as np
    >>> from knnspect import Pixels
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (12, 32, 32), np.uint8)
    >>> odd = normal[:1].copy()
    >>> odd[0, 10:20, 15:25] = 255
    >>> detector = ADAE(Pixels(32, color="grey", device="cpu"), max_epochs=5).fit(normal[1:])
    >>> good, bad = detector.predict(np.concatenate([normal[:1], odd]))
    >>> good.score < bad.score, bad.map.shape
    (True, (32, 32))
    """

    margin: float = parameter(Positive(), default=0.1)
    max_epochs: int = parameter(default=100)
    patience: int | None = parameter(default=20)
    learning_rate: float = parameter(default=1e-3)

    method: ClassVar[str] = "adae"

    def _network(self, shapes: list[tuple[int, int, int]]) -> ADAENetwork:
        from knnspect.detectors.reconstruction.networks.adae import ADAENetwork

        return ADAENetwork(shapes[0], self._settings(), self.margin)
