"""ALAD: a generator and an encoder that are each other's inverse, as discriminators see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from knnspect.constraints import Choice
from knnspect.detectors.reconstruction.base import ReconstructionDetector
from knnspect.parameters import parameter

if TYPE_CHECKING:
    from knnspect.detectors.reconstruction.networks.alad import ALADNetwork

__all__ = ["ALAD"]


class ALAD(ReconstructionDetector):
    """Draw images by codes and find codes of images, against discriminators of pairs of both.

    - map: at each pixel, how far the image is from what is drawn by its code;
    - image score: how different the discriminator of pairs of images finds an image beside itself,
      and beside what is drawn.

    Parameters
    ----------
    judged_by : {"features", "l1", "l2", "logits"}, default "features"
        What the image score is: the L1 distance of that discriminator's features; the L1 or L2
        distance of pixels; or the cross-entropy of its answer.
    width : int, default 16
        Channels of the first convolution; deeper ones have up to four times as many.
    max_epochs : int, default 160
        Passes through all images.
    patience : int or None, default None
        Stop after so many epochs without a smaller residual of the images held out, and keep the
        weights of the best; None: never stop, and keep the last.
    learning_rate : float, default 5e-4
        Of Adam, for all networks.

    Source
    ------
    Zenati, Romain, Foo, Lecouat and Chandrasekhar, "Adversarially Learned Anomaly Detection"
    (2018). Encoder E and generator G play against three discriminators of pairs: D_xz tells
    (x, E(x)) from (G(z), z), D_xx tells (x, x) from (x, G(E(x))), D_zz tells (z, z) from
    (z, E(G(z))), each by cross-entropy. With the features f_xx before the last layer of D_xx the
    score is the L1 norm of f_xx(x, x) - f_xx(x, G(E(x))). The weights that judge are an average
    of those that learn, with a decay of 0.999. Deviations:

    - E and G deceive the discriminators by the other label, not by the negated loss, as the
      authors' code does and as gradients need;
    - the discriminators have a spectral norm alone, without batch normalization and dropout; the
      encoder has batch normalization alone, without a spectral norm, which would bound its codes;
    - D_xx has both images side by side as channels, where the authors' code puts one below the
      other, so that only its last layers see pixels of the same place;
    - of few steps, the average forgets the first weights sooner;
    - a learning rate of 5e-4 instead of 2e-4, and smaller networks, for small sets of images;
    - with `patience`, the residual of images held out decides: D_xx's features, and so the scores,
      have another scale in every epoch.

    Of the score "logits" the sign is such that larger is more anomalous: -log D_xx(x, G(E(x))). The
    paper judges no pixels; the map is ours.

    Examples
    --------
    >>> import numpy as np
    >>> from knnspect import Pixels
    >>> normal = np.random.default_rng(0).integers(100, 120, (12, 32, 32), np.uint8)
    >>> pixels = Pixels(32, color="grey", device="cpu")
    >>> detector = ALAD(pixels, width=4, latent_size=8, max_epochs=2).fit(normal)
    >>> detector.predict(normal[:1])[0].map.shape
    (32, 32)
    """

    judged_by: Literal["features", "l1", "l2", "logits"] = parameter(
        Choice("features", "l1", "l2", "logits"), default="features", changes_training=False
    )
    width: int = parameter(default=16)
    max_epochs: int = parameter(default=160)
    patience: int | None = parameter(default=None)
    learning_rate: float = parameter(default=5e-4)

    method: ClassVar[str] = "alad"
    _judging: ClassVar[tuple[str, ...]] = ("judged_by",)

    def _network(self, shapes: list[tuple[int, int, int]]) -> ALADNetwork:
        from knnspect.detectors.reconstruction.networks.alad import ALADNetwork

        return ALADNetwork(shapes[0], self._settings(), self.judged_by)
