"""One-class SVM: a plane in a kernel's space that keeps normal features on one side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from numpy.typing import NDArray

from knnspect.constraints import Choice, Count, Flag, Positive
from knnspect.detectors.estimated import EstimatedDetector
from knnspect.detectors.heads.scorers.one_class import (
    Kernel,
    OneClassScorer,
)
from knnspect.errors import ParameterError
from knnspect.extras import require
from knnspect.features import Backbone
from knnspect.gallery.reading import ReadOnlyGallery
from knnspect.normal_features import Run
from knnspect.parameters import parameter

__all__ = ["OneClassSvm"]


class OneClassSvm(EstimatedDetector):
    """Learn a plane that keeps normal features on one side; what is on the other is a defect.

    All cells of all normal images share one plane, wherever they are. To learn it needs
    scikit-learn; a model judges without it.

    - map: how far a cell is from the normal cell farthest inside, along the plane's normal;
      upsampled bilinearly and blurred;
    - image score: the mean of the largest 1 % of the map.

    Parameters
    ----------
    backbone : Backbone, optional
        The network; ``Backbone(patch_size=3)`` by default.
    kernel : {"rbf", "linear"}, default "rbf"
        How alike two features are: a Gaussian of the distance of whitened ones, or the cosine.
    nu : float, default 0.1
        The share of normal features that may lie on the wrong side, at most.
    landmarks : int, default 128
        Normal cells that others are compared with: what the kernel is approximated by.
    max_epochs : int, default 1
        Passes through all cells; through pooled features 50 times as many.
    score : {"top", "map", "image"}, default "top"
        The mean of the largest values of the map, its maximum, or ("image") that of the cells.
    pooled_score : bool, default False
        With ``score="image"``, judge an image by the means of its levels, by a plane of their own.
    upsample : {"bilinear", "block"}, default "bilinear"
        How coarse levels are brought to the resolution of the finest one.
    seed : int, default 0
        Draws the landmarks, and the order of cells.

    Attributes
    ----------
    seconds_ : dict of str to float
        Time taken by each stage of the last `fit` or `predict`: "decode" (waiting for images),
        "features", "gallery" (keeping them), "estimation", "calibration", "matching", "maps".

    Source
    ------
    Schölkopf, Platt, Shawe-Taylor, Smola and Williamson, "Estimating the Support of a
    High-Dimensional Distribution" (2001), equations 3 and 4, by scikit-learn's `SGDOneClassSVM`
    over `Nystroem`. Deviations:

    - the kernel is approximated by some features (Williams and Seeger 2001), and the plane found by
      stochastic gradient descent, so that time grows with the number of images and memory does not;
    - features are whitened by the covariance of cells, with a hundredth of the mean variance added;
      the kernel falls to 1 / e at six times their root mean square length;
    - scores begin at the normal feature farthest inside, not at the plane: maps are not negative.

    Normal images are judged in five parts for the calibration, each by the rest.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (6, 64, 64, 3)).astype("u1")
    >>> odd = normal[:1].copy()
    >>> odd[0, 20:30, 30:40] = 255
    >>> svm = OneClassSvm(Backbone(image_size=64, patch_size=3)).fit(normal[1:])
    >>> good, bad = svm.predict(np.concatenate([normal[:1], odd]))
    >>> good.score < bad.score, bad.map.shape
    (True, (64, 64))
    """

    backbone: Backbone = parameter(default_factory=lambda: Backbone(patch_size=3), kw_only=False)
    kernel: Literal["rbf", "linear"] = parameter(Choice("rbf", "linear"), default="rbf")
    nu: float = parameter(Positive(at_most=1.0), default=0.1)
    landmarks: int = parameter(Count(), default=128)
    max_epochs: int = parameter(Count(), default=1)
    pooled_score: bool = parameter(Flag(), default=False)
    upsample: Literal["bilinear", "block"] = parameter(
        Choice("bilinear", "block"), default="bilinear"
    )
    seed: int = parameter(Count(minimum=0, maximum=2**32 - 1), default=0)

    score: Literal["image", "map", "top"] = parameter(default="top")

    method: ClassVar[str] = "one_class_svm"

    def _prepare(self, run: Run) -> None:
        require("sklearn", for_=type(self).__name__)
        if self.pooled_score and self.score != "image":
            text = f'score: expected "image" with pooled_score, got "{self.score}"'
            raise ParameterError(text, parameter="score")
        super()._prepare(run)

    def _estimate(self, gallery: ReadOnlyGallery, ids: Sequence[str], *_: object) -> OneClassScorer:
        from knnspect.detectors.heads.estimates.one_class import arrays_of_images

        how = Kernel(self.kernel), self.nu, self.landmarks, self.max_epochs, self.seed
        return self._rebuilt(arrays_of_images(gallery, ids, self.upsample, self.pooled_score, *how))

    def _rebuilt(self, arrays: dict[str, NDArray[Any]]) -> OneClassScorer:
        kernel = Kernel(self.kernel)
        return OneClassScorer(self._shapes, self.upsample, kernel, self.pooled_score, arrays)
