"""The constrained adversarial autoencoder: an image and what is drawn of it have one code."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from knnspect.constraints import Count, Positive
from knnspect.detectors.reconstruction.base import ReconstructionDetector
from knnspect.parameters import parameter

if TYPE_CHECKING:
    from knnspect.detectors.reconstruction.networks.aae import AAENetwork

__all__ = ["AAE"]


class AAE(ReconstructionDetector):
    """Learn codes that are distributed like noise; score where what is drawn by them differs.

    The autoencoder lowers ||x - x'||^2 - w C(E(x)) + c ||E(x) - E(x')||^2, where x' is what it
    draws of x: C, a critic, tells codes from Gaussian noise, and the constraint, the last term,
    brings the code of a defective image near that of the normal image that is drawn.

    - map: the absolute difference of the image and what is drawn;
    - image score: its mean. With ``score="top"``, of its largest values alone.

    Parameters
    ----------
    adversarial_weight : float, default 1.0
        Of the critic in the loss of the autoencoder: w.
    constraint_weight : float, default 0.5
        Of the constraint: c. With 0 it is an adversarial autoencoder.
    critic_steps : int, default 5
        Steps of the critic for one of the autoencoder.
    latent_size : int, default 32
        Numbers of a code. With more, defects are drawn, too.
    width : int, default 16
        Channels of the first block; deeper ones have up to four times as many.
    max_epochs : int, default 100
        Passes through all images.
    patience : int or None, default 20
        Stop after so many epochs without a smaller residual of the images held out, and keep the
        weights of the best; None: never stop, and keep the last.
    learning_rate : float, default 1e-3
        Of Adam, for autoencoder and critic.

    Source
    ------
    Chen and Konukoglu, "Unsupervised Detection of Lesions in Brain MRI using Constrained
    Adversarial Auto-encoders" (2018), section 2. Deviations:

    - codes of 32 numbers instead of 128, residual blocks with 16 channels at first, and early
      stopping, for small sets of images;
    - the critic is one of Gulrajani et al., "Improved Training of Wasserstein GANs" (2017), with
      five steps for one, of two layers of 128 numbers, and sees codes alone.

    The paper judges pixels alone, by a quantile of the residuals of normal images: the image score
    is ours, and thresholds come from calibration.

    Examples
    --------
    >>> import numpy as np
    >>> from knnspect import Pixels
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (12, 32, 32), np.uint8)
    >>> odd = normal[:1].copy()
    >>> odd[0, 10:20, 15:25] = 255
    >>> detector = AAE(Pixels(32, color="grey", device="cpu"), max_epochs=5).fit(normal[1:])
    >>> good, bad = detector.predict(np.concatenate([normal[:1], odd]))
    >>> good.score < bad.score, bad.map.shape
    (True, (32, 32))
    """

    adversarial_weight: float = parameter(Positive(or_zero=True, at_most=1e6), default=1.0)
    constraint_weight: float = parameter(Positive(or_zero=True, at_most=1e6), default=0.5)
    critic_steps: int = parameter(Count(maximum=100), default=5)
    latent_size: int = parameter(default=32)
    width: int = parameter(default=16)
    max_epochs: int = parameter(default=100)
    patience: int | None = parameter(default=20)
    learning_rate: float = parameter(default=1e-3)

    method: ClassVar[str] = "aae"

    def _network(self, shapes: list[tuple[int, int, int]]) -> AAENetwork:
        from knnspect.detectors.reconstruction.networks.aae import AAENetwork

        return AAENetwork(
            shapes[0],
            self._settings(),
            self.adversarial_weight,
            self.constraint_weight,
            self.critic_steps,
        )
