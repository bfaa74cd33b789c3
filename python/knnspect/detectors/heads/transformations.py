"""Transformations: features whose shifts cannot be told apart as those of normal ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from numpy.typing import NDArray

from knnspect.constraints import Choice, Count, Positive
from knnspect.detectors.heads.base import HeadDetector
from knnspect.detectors.heads.scorers.transformations import TransformationsScorer
from knnspect.features import Backbone
from knnspect.parameters import parameter

if TYPE_CHECKING:
    from knnspect.detectors.heads.networks.transformations import TransformationsNetwork

__all__ = ["Transformations"]


class Transformations(HeadDetector):
    """Learn to tell which of some random shifts a normal feature had; for defects that fails.

    Each cell's upsampled, concatenated, standardized feature ``x`` is shifted by each of M random
    vectors ``b_m``. A linear map ``f`` learns to take shifted normal features near centres
    ``c_m = f(b_m)``, apart from each other: ``P(m | z) ~ exp(-|f(z) - c_m|^2)``.

    - map: ``-sum_m log P(m | x + b_m)`` of each cell; upsampled bilinearly and blurred;
    - image score: the mean of the largest values of the map, the maximum of the map, or of the
      cells.

    Parameters
    ----------
    backbone : Backbone, optional
        The network; ``Backbone(levels=(2, 3), patch_size=3)`` by default.
    transformations : int, default 32
        How many shifts there are, at least two; time and memory grow with its square.
    shift : float, default 0.1
        Standard deviation of the shifts, in units of the standard deviation of each channel. If
        they are large, any map tells them, and nothing is learnt.
    outputs : int, default 32
        Numbers that the map makes of a feature.
    max_epochs : int, default 4
        Passes through all images.
    learning_rate : float, default 1e-2
        Adam's, at its highest.
    score : {"image", "map", "top"}, default "top"
        Maximum of the cells, or of the map, or the mean of its largest values.
    upsample : {"bilinear", "block"}, default "bilinear"
        How coarse levels are brought to the resolution of the finest one.

    Source
    ------
    Bergman and Hoshen, "Classification-Based Anomaly Detection for General Data" (2020), whose
    affine transformations are for data of any kind; after Golan and El-Yaniv, "Deep Anomaly
    Detection Using Geometric Transformations" (2018). Deviations:

    - the cells of a frozen network are transformed, not images, which would each go through it
      many times; its features of turned textures are as those of textures that are not;
    - of the affine transformations ``W x + b`` only those with ``W = 1``: with random ``W``, told
      by a network of two layers, defects of welds were hardly found;
    - ``f`` is linear and has 32 outputs, so that the centres are exact;
    - the likelihood that is the score is trained itself, not a triplet loss over distances;
    - 4 epochs of steps of 512 cells, with the learning rate falling along a cosine.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (6, 64, 64, 3)).astype("u1")
    >>> odd = normal[:1].copy()
    >>> odd[0, 20:30, 30:40] = 255
    >>> told = Transformations(Backbone(levels=(2, 3), image_size=64)).fit(normal[1:])
    >>> good, bad = told.predict(np.concatenate([normal[:1], odd]))
    >>> good.score < bad.score, bad.map.shape
    (True, (64, 64))
    """

    backbone: Backbone = parameter(
        default_factory=lambda: Backbone(levels=(2, 3), patch_size=3), kw_only=False
    )
    transformations: int = parameter(Count(minimum=2, maximum=2**10), default=32)
    shift: float = parameter(Positive(at_most=1e6), default=0.1)
    outputs: int = parameter(Count(), default=32)
    upsample: Literal["bilinear", "block"] = parameter(
        Choice("bilinear", "block"), default="bilinear"
    )
    max_epochs: int = parameter(default=4)
    learning_rate: float = parameter(default=1e-2)
    score: Literal["image", "map", "top"] = parameter(default="top")

    method: ClassVar[str] = "transformations"

    def _network(self, shapes: list[tuple[int, int, int]]) -> TransformationsNetwork:
        from knnspect.detectors.heads.networks.transformations import TransformationsNetwork

        sizes = self.transformations, self.shift, self.outputs
        return TransformationsNetwork(shapes, self.upsample, *sizes, self.learning_rate)

    def _scorer(self, arrays: dict[str, NDArray[Any]]) -> TransformationsScorer:
        sizes = self.transformations, self.outputs
        return TransformationsScorer(self._shapes, self.upsample, *sizes, arrays)
