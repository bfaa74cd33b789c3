"""CFLOW-AD: how likely features are where they are, by a conditional normalizing flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from numpy.typing import NDArray

from knnspect.constraints import Count
from knnspect.detectors.heads.base import HeadDetector
from knnspect.detectors.heads.scorers.cflow import CFlowScorer
from knnspect.features import Backbone
from knnspect.parameters import parameter

if TYPE_CHECKING:
    from knnspect.detectors.heads.networks.cflow import CFlowNetwork

__all__ = ["CFlow"]


class CFlow(HeadDetector):
    """Learn how likely a feature is at its place; what is unlikely there is a defect.

    Each level has a flow: an invertible network, told by sines and cosines which cell it looks at,
    that takes the features of normal images to a normal distribution.

    - map: with ``p`` the likelihood of a cell (per channel), relative to that of the most likely
      cell of its level in the normal images: minus the logarithm of the mean of ``p`` over the
      levels; upsampled bilinearly and blurred;
    - image score: the maximum of the map, or that of the cells.

    Parameters
    ----------
    backbone : Backbone, optional
        The network; ``Backbone(patch_size=3)`` by default.
    coupling_blocks : int, default 4
        Blocks of each flow; 8, as in the paper, describe features better and take twice as long.
    max_epochs : int, default 6
        Passes through all images.
    patience : int or None, default 3
        Epochs without a lower loss of the images held out, after which training stops.
    learning_rate : float, default 2e-3
        Adam's, at its highest.
    score : {"map", "top", "image"}, default "map"
        Maximum of the map, as in the paper, the mean of its largest values, or the maximum of the
        cells before they are upsampled and blurred.

    Attributes
    ----------
    seconds_ : dict of str to float
        Time taken by each stage of the last `fit` or `predict`: "decode" (waiting for images),
        "features", "gallery" (keeping them), "training", "calibration", "matching" (the flows),
        "maps".

    Source
    ------
    Gudovskiy, Ishizaka and Kozuka, "CFLOW-AD: Real-Time Unsupervised Anomaly Detection with
    Localization via Conditional Normalizing Flows" (2022), section 4. Deviations:

    - features are standardized, by the normal images, and averaged over 3x3 cells, which suits the
      fine levels of light networks; the paper's deep levels need neither;
    - 6 epochs at ten times the learning rate instead of 200, as standardized features are learnt
      faster; the schedule (warm-up, cosine) is the paper's;
    - 4 coupling blocks instead of 8, with thinner hidden layers on thin levels: levels
      have tens of channels here instead of hundreds, and a prediction is to take little more than
      its features;
    - hard permutations and an affine map for each channel between blocks, instead of soft ones;
    - the largest likelihoods come from normal images, where published code takes them from the
      test images; the logarithm of the mean over levels replaces a sum that is subtracted from its
      largest value: the order is the same, and values neither vanish nor end;
    - the map is blurred (``sigma=0``, the paper, is noisier).

    There is no augmentation, so features are extracted once and kept while the flows are trained.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (6, 64, 64, 3)).astype("u1")
    >>> odd = normal[:1].copy()
    >>> odd[0, 20:30, 30:40] = 255
    >>> cflow = CFlow(Backbone(image_size=64, patch_size=3)).fit(normal[1:])
    >>> good, bad = cflow.predict(np.concatenate([normal[:1], odd]))
    >>> good.score < bad.score, bad.map.shape
    (True, (64, 64))
    >>> row, column = np.unravel_index(bad.map.argmax(), bad.map.shape)
    >>> bool(16 <= row <= 34 and 26 <= column <= 44)
    True
    """

    backbone: Backbone = parameter(default_factory=lambda: Backbone(patch_size=3), kw_only=False)
    coupling_blocks: int = parameter(Count(), default=4)
    max_epochs: int = parameter(default=6)
    patience: int | None = parameter(default=3)
    learning_rate: float = parameter(default=2e-3)
    score: Literal["image", "map", "top"] = parameter(default="map")

    method: ClassVar[str] = "cflow"
    _needs: ClassVar[tuple[str, ...]] = ("torch", "zuko")

    def _network(self, shapes: list[tuple[int, int, int]]) -> CFlowNetwork:
        from knnspect.detectors.heads.networks.cflow import CFlowNetwork

        return CFlowNetwork(shapes, self.coupling_blocks, self.learning_rate)

    def _scorer(self, arrays: dict[str, NDArray[Any]]) -> CFlowScorer:
        return CFlowScorer(self._shapes, self.coupling_blocks, arrays)

    @property
    def _n_blocks(self) -> int:
        return self.coupling_blocks
