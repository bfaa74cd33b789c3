"""The SSIM autoencoder: the sane baseline of methods that draw normal images."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from knnspect.constraints import Choice
from knnspect.detectors.reconstruction.base import ReconstructionDetector
from knnspect.parameters import parameter

if TYPE_CHECKING:
    from knnspect.detectors.reconstruction.networks.ssim_ae import SSIMAENetwork

__all__ = ["SSIMAE"]


class SSIMAE(ReconstructionDetector):
    """Learn to draw normal images through a bottleneck; score where what is drawn differs.

    - map: at each pixel, one minus the structural similarity of the image and what is drawn,
      halved; or their squared or absolute difference;
    - image score: the mean of these values.

    Parameters
    ----------
    loss : {"ssim", "l2", "l1"}, default "ssim"
        What the network learns by, and images are judged by.
    max_epochs : int, default 200
        Passes through all images.
    patience : int or None, default 30
        Stop after so many epochs without a smaller residual of the images held out, and keep the
        weights of the best; None: never stop, and keep the last.
    learning_rate : float, default 1e-3
        Of Adam, for all weights.

    Source
    ------
    Bergmann, Löwe, Fauser, Sattlegger and Steger, "Improving Unsupervised Defect Segmentation by
    Applying Structural Similarity to Autoencoders" (2019), equations 2 to 6. Deviations:

    - whole images instead of random patches of 128 px, so that one pass judges an image;
    - encoder and decoder have one convolution for each halving of the image, where the paper has
      nine for 128 px;
    - SSIM has the Gaussian window of its own paper, 11x11, which is the paper's size;
    - a learning rate of 1e-3 instead of 2e-4, and early stopping, for small sets of images.

    The paper judges pixels alone; the image score is ours.

    Examples
    --------
    >>> import numpy as np
    >>> from knnspect import Pixels
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (12, 32, 32), np.uint8)
    >>> odd = normal[:1].copy()
    >>> odd[0, 10:20, 15:25] = 255
    >>> detector = SSIMAE(Pixels(32, color="grey", device="cpu"), max_epochs=5).fit(normal[1:])
    >>> good, bad = detector.predict(np.concatenate([normal[:1], odd]))
    >>> good.score < bad.score, bad.map.shape
    (True, (32, 32))
    """

    loss: Literal["ssim", "l2", "l1"] = parameter(Choice("ssim", "l2", "l1"), default="ssim")
    max_epochs: int = parameter(default=200)
    patience: int | None = parameter(default=30)
    learning_rate: float = parameter(default=1e-3)

    method: ClassVar[str] = "ssim_ae"

    def _network(self, shapes: list[tuple[int, int, int]]) -> SSIMAENetwork:
        from knnspect.detectors.reconstruction.networks.ssim_ae import SSIMAENetwork

        return SSIMAENetwork(shapes[0], self._settings(), self.loss)
