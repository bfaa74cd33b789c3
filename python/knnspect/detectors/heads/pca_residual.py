"""PCA residual: the part of a feature that the leading directions of normal ones do not explain."""

from __future__ import annotations

from typing import ClassVar, Literal

from knnspect.constraints import Positive
from knnspect.detectors.heads.estimates.learning import GaussianSettings
from knnspect.detectors.heads.estimates.metrics import Residual
from knnspect.detectors.heads.gaussian import GaussianDetector
from knnspect.features import Backbone
from knnspect.parameters import parameter

__all__ = ["PcaResidual"]


class PcaResidual(GaussianDetector):
    """Learn the directions in which normal features vary; what lies outside of them is a defect.

    All cells of all normal images share one mean and one set of directions, wherever they are.

    - map: the length of what is left of a cell's feature, less the mean, without its part in the
      leading directions: the root of the sum over levels of squares; upsampled and blurred;
    - image score: the mean of the largest 1 % of the map.

    Parameters
    ----------
    backbone : Backbone, optional
        The network; ``Backbone(patch_size=3)`` by default.
    explained : float, default 0.95
        The share of the variance that the leading directions have at least.
    score : {"top", "map", "image"}, default "top"
        "top": the mean of the largest values of the map; "map": its maximum; "image": the method's
        own, from cells.

    Attributes
    ----------
    seconds_ : dict of str to float
        Time taken by each stage of the last `fit` or `predict`: "decode" (waiting for images),
        "features", "gallery" (keeping them), "estimation", "calibration", "matching", "maps".

    Source
    ------
    Lendering, Akdağ and Bondarev, "SubspaceAD: Training-Free Few-Shot Anomaly Detection via
    Subspace Modeling" (2026), section 3. Deviations:

    - features are those of the backbone's levels, each with directions of its own, in place of the
      mean over layers of a vision transformer;
    - normal images are not shown turned.

    Normal images are judged without themselves: the sums that mean and directions come from are
    taken back exactly.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (6, 64, 64, 3)).astype("u1")
    >>> odd = normal[:1].copy()
    >>> odd[0, 20:30, 30:40] = 255
    >>> residual = PcaResidual(Backbone(image_size=64, patch_size=3)).fit(normal[1:])
    >>> good, bad = residual.predict(np.concatenate([normal[:1], odd]))
    >>> good.score < bad.score, bad.map.shape
    (True, (64, 64))
    """

    backbone: Backbone = parameter(default_factory=lambda: Backbone(patch_size=3), kw_only=False)
    explained: float = parameter(Positive(below=1.0), default=0.95)
    score: Literal["image", "map", "top"] = parameter(default="top")

    method: ClassVar[str] = "pca_residual"

    @property
    def _settings(self) -> GaussianSettings:
        return GaussianSettings(
            self.by_level, False, self.upsample, None, "leading", 0, Residual(self.explained)
        )
