"""SimpleNet: a discriminator that tells normal features from noisy ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from numpy.typing import NDArray

from knnspect.constraints import Choice, Count, Positive
from knnspect.detectors.heads.base import HeadDetector
from knnspect.detectors.heads.scorers.simplenet import SimpleNetScorer
from knnspect.features import Backbone
from knnspect.parameters import parameter

if TYPE_CHECKING:
    from knnspect.detectors.heads.networks.simplenet import SimpleNetNetwork

__all__ = ["SimpleNet"]

#: In standard deviations of the features; float32 holds what comes of it.
_LARGEST_NOISE = 1e6


class SimpleNet(HeadDetector):
    """Learn to tell normal features from the same with noise; what is taken for noise is a defect.

    - map: minus what the discriminator says of each cell's upsampled, concatenated feature, less
      the lowest such value of the normal images; upsampled bilinearly and blurred;
    - image score: the largest of these values (not blurred).

    Parameters
    ----------
    backbone : Backbone, optional
        The network; ``Backbone(patch_size=5)`` by default.
    hidden : int, default 256
        Width of the discriminator.
    noise : float, default 0.5
        Standard deviation of the noise, in units of the standard deviation of each channel.
    margin : float, default 0.5
        Of the hinge loss: what the discriminator says of normal features is to be above it, and of
        noisy ones below its negative.
    max_epochs : int, default 12
        Passes through all images.
    learning_rate : float, default 5e-4
        The discriminator's, by Adam, at its highest; that of the adaptor is a fiftieth of it.
    upsample : {"bilinear", "block"}, default "bilinear"
        How coarse levels are brought to the resolution of the finest one.

    Attributes
    ----------
    seconds_ : dict of str to float
        Time taken by each stage of the last `fit` or `predict`: "decode" (waiting for images),
        "features", "gallery" (keeping them), "training", "calibration", "matching" (the
        discriminator), "maps".

    Source
    ------
    Liu, Zhou, Xu and Wang, "SimpleNet: A Simple Network for Image Anomaly Detection and
    Localization" (2023), section 3. Deviations:

    - features are averaged over 5x5 cells instead of 3x3, as the finest level has twice the
      resolution of the paper's; they are not pooled to a common number of channels;
    - features are standardized, by the normal images, and the noise is given in these units, since
      backbones differ in scale;
    - the adaptor begins near the identity and learns slowly: from random weights it learns to put
      normal features into few directions, so that noise is told by the others and defects are not;
    - the discriminator's last layer begins small, lest what it says of defects come from random
      weights;
    - a discriminator of 256 instead of 1024, for features of hundreds instead of 1536 channels;
    - 12 epochs of small steps, with the learning rate falling along a cosine, instead of 160;
    - the weights that are kept are the last, where published figures come from the epoch that is
      best on the test images;
    - the lowest value of normal images is subtracted, so that scores begin at zero.

    There is no augmentation, so features are extracted once and kept while the network is trained.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (6, 64, 64, 3)).astype("u1")
    >>> odd = normal[:1].copy()
    >>> odd[0, 20:30, 30:40] = 255
    >>> simplenet = SimpleNet(Backbone(image_size=64, patch_size=5)).fit(normal[1:])
    >>> good, bad = simplenet.predict(np.concatenate([normal[:1], odd]))
    >>> good.score < bad.score, bad.map.shape
    (True, (64, 64))
    >>> row, column = np.unravel_index(bad.map.argmax(), bad.map.shape)
    >>> bool(16 <= row <= 34 and 26 <= column <= 44)
    True
    """

    backbone: Backbone = parameter(default_factory=lambda: Backbone(patch_size=5), kw_only=False)
    hidden: int = parameter(Count(), default=256)
    noise: float = parameter(Positive(at_most=_LARGEST_NOISE), default=0.5)
    margin: float = parameter(Positive(), default=0.5)
    upsample: Literal["bilinear", "block"] = parameter(
        Choice("bilinear", "block"), default="bilinear"
    )
    max_epochs: int = parameter(default=12)
    learning_rate: float = parameter(default=5e-4)

    method: ClassVar[str] = "simplenet"

    def _network(self, shapes: list[tuple[int, int, int]]) -> SimpleNetNetwork:
        from knnspect.detectors.heads.networks.simplenet import SimpleNetNetwork

        return SimpleNetNetwork(
            shapes, self.upsample, self.hidden, self.noise, self.margin, self.learning_rate
        )

    def _scorer(self, arrays: dict[str, NDArray[Any]]) -> SimpleNetScorer:
        return SimpleNetScorer(self._shapes, self.upsample, self.hidden, arrays)
