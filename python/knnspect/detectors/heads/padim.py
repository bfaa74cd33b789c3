"""PaDiM: how far features are from the mean of normal ones, by their covariance."""

from __future__ import annotations

from typing import ClassVar, Literal

from knnspect.constraints import Choice, Count, Flag, Optional, Positive
from knnspect.detectors.base import Presets
from knnspect.detectors.heads.estimates.learning import GaussianSettings
from knnspect.detectors.heads.estimates.metrics import Mahalanobis
from knnspect.detectors.heads.gaussian import GaussianDetector
from knnspect.features import Backbone
from knnspect.parameters import parameter

__all__ = ["Padim"]


class Padim(GaussianDetector):
    """Learn mean and covariance of each position's features; what is far from both is a defect.

    - map: the Mahalanobis distance of each cell: the root of the sum over its levels of squared
      distances, each divided by the root of its number of channels, relative to the finest one;
      upsampled bilinearly and blurred;
    - image score: the mean of the largest 1 % of the map.

    Parameters
    ----------
    backbone : Backbone, optional
        The network; ``Backbone()`` by default.
    by_position : bool, default True
        Whether each position has a Gaussian of its own, for parts that lie alike in all images, or
        all positions have one.
    channels : int or None, default None
        How many channels are kept, of each level or of all concatenated; None: all.
    selection : {"random", "leading"}, default "random"
        Which: drawn by `seed`, or those that vary most over all cells of normal images.
    shrinkage : float or None, default 0.0
        The weight of a multiple of the identity in each covariance, from 0 to 1; None: as much as
        the oracle approximating shrinkage says (Chen, Wiesel, Eldar and Hero 2010).
    ridge : float, default 0.1
        What is added to all variances after that, as a share of the mean variance of all positions.
    seed : int, default 0
        Draws the channels.
    score : {"top", "map", "image"}, default "top"
        "top": the mean of the largest values of the map; "map": its maximum; "image": the method's
        own, from cells.

    Attributes
    ----------
    seconds_ : dict of str to float
        Time taken by each stage of the last `fit` or `predict`: "decode" (waiting for images),
        "features", "gallery" (keeping them), "estimation", "calibration", "matching" (the
        distances), "maps".

    Source
    ------
    Defard, Setkov, Loesch and Audigier, "PaDiM: a Patch Distribution Modeling Framework for Anomaly
    Detection and Localization" (2021), section III. Deviations:

    - levels have Gaussians of their own, whose squared distances are added (as in Lee et al., "A
      Simple Unified Framework for Detecting Out-of-Distribution Samples", 2018, but weighted by
      what they vary by, not by what is learnt from anomalies), in place of one over random channels
      of all; ``from_preset("paper")`` has the latter, with a ridge of .01 and 100 channels;
    - the ridge is a share of the mean variance, as networks differ in scale; the paper adds .01.

    Normal images are judged without themselves in closed form, with the shrinkage that all have,
    which makes distances a little larger than a new estimate would.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (9, 64, 64, 3)).astype("u1")
    >>> odd = normal[:1].copy()
    >>> odd[0, 20:30, 30:40] = 255
    >>> padim = Padim(Backbone(image_size=64)).fit(normal[1:])
    >>> good, bad = padim.predict(np.concatenate([normal[:1], odd]))
    >>> good.score < bad.score, bad.map.shape
    (True, (64, 64))
    """

    backbone: Backbone = parameter(default_factory=Backbone, kw_only=False)
    by_position: bool = parameter(Flag(), default=True)
    channels: int | None = parameter(Optional(Count()), default=None)
    selection: Literal["random", "leading"] = parameter(
        Choice("random", "leading"), default="random"
    )
    shrinkage: float | None = parameter(Optional(Positive(or_zero=True, at_most=1.0)), default=0.0)
    ridge: float = parameter(Positive(or_zero=True), default=0.1)
    seed: int = parameter(Count(minimum=0), default=0)

    score: Literal["image", "map", "top"] = parameter(default="top")

    method: ClassVar[str] = "padim"
    presets: ClassVar[Presets] = {
        "paper": {
            "by_level": False,
            "channels": 100,
            "ridge": 0.01,
            "score": "map",
        }
    }

    @property
    def _settings(self) -> GaussianSettings:
        return GaussianSettings(
            self.by_level,
            self.by_position,
            self.upsample,
            self.channels,
            self.selection,
            self.seed,
            Mahalanobis(self.shrinkage, self.ridge),
        )
