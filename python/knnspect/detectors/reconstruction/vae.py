"""The VAE: a likelihood for images, by importance-weighted samples of their codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from knnspect.constraints import Choice, Count, Optional, Positive
from knnspect.detectors.reconstruction.base import ReconstructionDetector
from knnspect.parameters import parameter

if TYPE_CHECKING:
    from knnspect.detectors.reconstruction.networks.vae import VAENetwork

__all__ = ["VAE"]


class VAE(ReconstructionDetector):
    """Learn how likely images are; score by how unlikely an image is, and its code.

    With L samples z of q(z|x), the code of an image x, the score is

    - "kl": -log(1/L sum p(z) / q(z|x)), how far the code is from those of normal images;
    - "reconstruction": -log(1/L sum p(x|z)), how badly the image is drawn;
    - "sum": the sum of both;
    - "bound": -log(1/L sum p(x|z) p(z) / q(z|x)), which with growing L falls to -log p(x).

    Of p(x|z) a factor is left out that all images have in common, so that it is 1 for an image that
    is drawn as it is. The map is the absolute difference of the image and what the mean code draws.

    Parameters
    ----------
    term : {"sum", "bound", "kl", "reconstruction"}, default "sum"
        Which score; it may be changed after `fit`.
    samples : int, default 16
        Codes that are sampled for an image: L. It may be changed after `fit`.
    variance : float or None, default None
        The variance of a pixel, in [0, 1], given its code: the smaller, the more the reconstruction
        counts beside the code. None: the mean squared residual of the images trained on.
    latent_size : int, default 32
        Numbers of a code. With more, defects are drawn, too.
    max_epochs : int, default 200
        Passes through all images.
    patience : int or None, default 30
        Stop after so many epochs without a smaller "bound" of the images held out, and keep the
        weights of the best; None: never stop, and keep the last.
    learning_rate : float, default 1e-3
        Of Adam, for all weights.

    Source
    ------
    Lu and Xu, "Anomaly Detection for Skin Disease Images Using Variational Autoencoder" (2018),
    section 2. Deviations:

    - p(x|z) sums over all pixels, so that its variance decides how "kl" and "reconstruction" are
      balanced. It is not chosen, but learnt from normal images, as the one of highest likelihood
      (Rybkin, Daniilidis and Levine, "Simple and Effective VAE Training with Calibrated Decoders",
      2021, section 3.2);
    - samples have the same noise for every image, so that a score is the same each time;
    - encoder and decoder of the family's size, and early stopping, for small sets of images.

    The paper judges images alone; the map is ours.

    Examples
    --------
    >>> import numpy as np
    >>> from knnspect import Pixels
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (12, 32, 32), np.uint8)
    >>> odd = normal[:1].copy()
    >>> odd[0, 10:20, 15:25] = 255
    >>> detector = VAE(Pixels(32, color="grey", device="cpu"), max_epochs=5).fit(normal[1:])
    >>> good, bad = detector.predict(np.concatenate([normal[:1], odd]))
    >>> good.score < bad.score, bad.map.shape
    (True, (32, 32))
    """

    term: Literal["sum", "bound", "kl", "reconstruction"] = parameter(
        Choice("sum", "bound", "kl", "reconstruction"), default="sum", changes_training=False
    )
    samples: int = parameter(Count(maximum=2**12), default=16)
    variance: float | None = parameter(Optional(Positive(at_most=1e6)), default=None)
    latent_size: int = parameter(default=32)
    max_epochs: int = parameter(default=200)
    patience: int | None = parameter(default=30)
    learning_rate: float = parameter(default=1e-3)

    method: ClassVar[str] = "vae"
    _judging: ClassVar[tuple[str, ...]] = ("term", "samples")

    def _network(self, shapes: list[tuple[int, int, int]]) -> VAENetwork:
        from knnspect.detectors.reconstruction.networks.vae import VAENetwork

        return VAENetwork(shapes[0], self._settings(), self.term, self.samples, self.variance)
