"""Deep SVDD: a network that draws normal features to one point; what stays far is a defect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from numpy.typing import NDArray

from knnspect.constraints import Choice, Count, Positive
from knnspect.detectors.heads.scorers.deep_svdd import DeepSvddScorer
from knnspect.detectors.labelled import LabelledHeadDetector
from knnspect.errors import ParameterError
from knnspect.features import Backbone
from knnspect.normal_features import Run
from knnspect.parameters import parameter

if TYPE_CHECKING:
    from knnspect.detectors.heads.networks.deep_svdd import DeepSvddNetwork

__all__ = ["DeepSvdd"]


class DeepSvdd(LabelledHeadDetector):
    """Learn to take normal features to one point; a feature that lands far from it is a defect.

    - map: the squared distance of what the network makes of each cell's upsampled, concatenated,
      standardized feature to the centre ``c``; upsampled bilinearly and blurred;
    - image score: the largest of these distances (not blurred).

    ``c`` is the mean of what the untrained network makes of normal cells, and stays as it is. No
    layer has a bias, and no activation is bounded, lest all be taken to ``c``. Given images with
    defects (`defects`), the network also takes some of their cells away from ``c``: Deep SAD.

    Parameters
    ----------
    backbone : Backbone, optional
        The network; ``Backbone(levels=(2, 3), patch_size=3)`` by default.
    hidden : int, default 256
        Width between the two layers.
    outputs : int, default 64
        Numbers that the network makes of each cell.
    objective : {"one_class", "soft_boundary"}, default "one_class"
        Lower the mean squared distance (equation 4), or ``R^2 + mean(max(0, d^2 - R^2)) / nu``
        (equation 3), with ``R`` the 1 - nu quantile of the distances ``d`` of a step's cells.
    nu : float, default 0.1
        With the soft boundary, the share of normal cells that may lie beyond it; at most 1.
    eta : float, default 1.0
        Weight of defective cells; each adds eta over its squared distance.
    weight_decay : float, default 1e-6
        The paper's lambda, by which Adam lowers weights.
    max_epochs : int, default 12
        Passes through all images.
    upsample : {"bilinear", "block"}, default "bilinear"
        How coarse levels are brought to the resolution of the finest one.

    Source
    ------
    Ruff et al., "Deep One-Class Classification" (2018), section 3; with defects Ruff et al., "Deep
    Semi-Supervised Anomaly Detection" (2020), equation 8. Deviations:

    - two layers over the cells of a frozen network, not a network over images that an autoencoder
      begins; features are standardized, which adds nothing that could be learnt;
    - the centre is the mean over about 64 cells of each of up to 1,024 images;
    - of an image with defects, the cells that are farthest from their nearest normal cells (1 %, at
      least one) are taken for defective, as most of its cells are normal;
    - with the soft boundary, R is 0 for a fifth of the training, and no defects are taken;
    - the score is the squared distance for both objectives (less the square of R in the paper);
    - 12 epochs of steps of 1024 cells, with the learning rate falling along a cosine.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (6, 64, 64, 3)).astype("u1")
    >>> odd = normal[:1].copy()
    >>> odd[0, 20:30, 30:40] = 255
    >>> svdd = DeepSvdd(Backbone(levels=(2, 3), image_size=64, patch_size=3)).fit(normal[1:])
    >>> good, bad = svdd.predict(np.concatenate([normal[:1], odd]))
    >>> good.score < bad.score, bad.map.shape
    (True, (64, 64))
    """

    backbone: Backbone = parameter(
        default_factory=lambda: Backbone(levels=(2, 3), patch_size=3), kw_only=False
    )
    hidden: int = parameter(Count(), default=256)
    outputs: int = parameter(Count(), default=64)
    objective: Literal["one_class", "soft_boundary"] = parameter(
        Choice("one_class", "soft_boundary"), default="one_class"
    )
    nu: float = parameter(Positive(at_most=1), default=0.1)
    eta: float = parameter(Positive(at_most=1e6), default=1.0)
    weight_decay: float = parameter(Positive(or_zero=True, at_most=1e6), default=1e-6)
    upsample: Literal["bilinear", "block"] = parameter(
        Choice("bilinear", "block"), default="bilinear"
    )
    max_epochs: int = parameter(default=12)

    method: ClassVar[str] = "deep_svdd"

    def _prepare(self, run: Run) -> None:
        if self.defects is not None and self.objective == "soft_boundary":
            text = 'objective: expected "one_class" with defects, got "soft_boundary"'
            raise ParameterError(text, parameter="objective")
        super()._prepare(run)

    def _network(self, shapes: list[tuple[int, int, int]]) -> DeepSvddNetwork:
        from knnspect.detectors.heads.networks.deep_svdd import DeepSvddNetwork, Objective

        rates = self.learning_rate, self.weight_decay
        objective = Objective(self.objective, self.nu, self.eta, *rates)
        network = DeepSvddNetwork(shapes, self.upsample, self.hidden, self.outputs, objective)
        network.defects = None if self._defective is None else self._defective[0]
        return network

    def _scorer(self, arrays: dict[str, NDArray[Any]]) -> DeepSvddScorer:
        return DeepSvddScorer(self._shapes, self.upsample, self.hidden, self.outputs, arrays)
