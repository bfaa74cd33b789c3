"""PatchCore: the nearest of all normal cells, or of a coreset of them."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from knnspect.constraints import Count
from knnspect.detectors.base import Presets
from knnspect.detectors.nearest.base import PAPER
from knnspect.detectors.nearest.coreset import CoresetDetector, Searched
from knnspect.errors import ParameterError
from knnspect.gallery import Coreset
from knnspect.gallery.reading import ReadOnlyGallery
from knnspect.parameters import parameter
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Neighbors

__all__ = ["PatchCore"]


class PatchCore(CoresetDetector):
    """Compare every cell of an image with the cells of all normal images, or with a coreset.

    - map: L2 distance (not squared) of each cell's upsampled, concatenated feature to the nearest
      normal one, near the border divided by how much larger those of normal images are there;
      upsampled bilinearly and blurred;
    - image score: the maximum of the map; the paper's, with ``score="image"``, is the largest of
      these distances (not blurred), ``s*``, of the cell ``p*``, times ``1 - exp(d(p*, m*)) / sum of
      exp(d(p*, m))``, where ``m*`` is its nearest normal feature, ``m`` runs through the
      `neighbors` nearest of ``m*``, itself included, and ``d`` is the L2 distance. What is nearest
      to a normal feature that lies apart from the others scores higher.

    Parameters
    ----------
    coreset : float, int or None, default 0.02
        How many rows are kept, as a share of all cells of all normal images or as a number; see
        `Gallery.coreset`. None: all of them, searched level by level.
    neighbors : int, default 9
        b of the image score; more than there are normal features means all (with a `window`: as
        many as lie within it everywhere). 1: no weight.

    Attributes
    ----------
    seconds_ : dict of str to float
        Time taken by each stage of the last `fit` or `predict`: "decode" (waiting for images),
        "features", "gallery" (filling it, and calibration), "coreset", "matching", "maps".

    Source
    ------
    Roth et al., "Towards Total Recall in Industrial Anomaly Detection" (2022), section 3, equations
    6 and 7. Deviations (those in settings are undone by ``PatchCore.from_preset("paper")``, but for
    the network, a WideResNet50): the score is the map's; 2 % of the rows are kept; features are
    averaged over patches before they are upsampled and are not pooled to a common number of
    channels; the coreset is picked without a projection. As in anomalib and in the authors' code
    the map is not weighted; weights are 1 where there is one normal feature only. Normal images say
    how much larger distances are at the border, and the map goes on beyond it with its median (see
    `BorderFactors`, `pixel_map`).

    Examples
    --------
    >>> import numpy as np
    >>> from knnspect import Backbone
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (6, 64, 64, 3)).astype("u1")
    >>> odd = normal[:1].copy()
    >>> odd[0, 20:30, 30:40] = 255
    >>> patchcore = PatchCore(Backbone(image_size=64, patch_size=3), coreset=0.1).fit(normal[1:])
    >>> patchcore.coreset_
    Coreset(n_rows=128, n_features=176, n_images=5, upsample='bilinear')
    >>> good, bad = patchcore.predict(np.concatenate([normal[:1], odd]))
    >>> good.score < bad.score, bad.map.shape
    (True, (64, 64))
    >>> row, column = np.unravel_index(bad.map.argmax(), bad.map.shape)
    >>> bool(16 <= row <= 34 and 26 <= column <= 44)
    True
    """

    coreset: float | int | None = parameter(default=0.02)
    neighbors: int = parameter(Count(), default=9)

    method: ClassVar[str] = "patchcore"
    presets: ClassVar[Presets] = {"paper": {**PAPER, "backbone__levels": (2, 3), "coreset": 0.01}}

    def _check_fusion(self, keeps_rows: bool) -> None:
        super()._check_fusion(keeps_rows)
        if self.fusion == "levels" and self.score == "image":
            raise ParameterError(
                'fusion: expected "concatenated" with score="image", which weighs by the features '
                'of all levels together: use "map" or "top"',
                parameter="fusion",
            )

    def _own_score(
        self, cells: NDArray[Any], query: FeaturePyramid, neighbors: Neighbors, searched: Searched
    ) -> float:
        """Return the score of equation 7."""
        row, column = map(int, np.unravel_index(cells.argmax(), cells.shape))
        score = float(cells[row, column])
        of_all = cast("ReadOnlyGallery | Coreset", searched)  # late fusion was refused
        is_coreset = isinstance(of_all, Coreset)
        n_rows = of_all.n_rows if is_coreset else self._n_comparable(of_all.n_images)
        n_neighbors = min(self.neighbors, n_rows)
        if n_neighbors == 1:
            return score
        at = (0, row, column, 0)
        image = neighbors.image_ids[int(neighbors.image_index[at])]
        cell = (int(neighbors.cells[at][0]), int(neighbors.cells[at][1]))
        nearest, support = of_all.around(image, cell, n_neighbors, **self._how)
        farthest: NDArray[np.float32] = query.concatenated(self.upsample)[0, row, column]
        return score * _weight(farthest, nearest, support)


def _weight(query: NDArray[Any], nearest: NDArray[Any], support: NDArray[Any]) -> float:
    """Weight of equation 7: a softmax over distances, less its largest exponent, in float64."""
    query = query.astype(np.float64)
    d_nearest = np.sqrt(np.square(query - nearest).sum())
    d_support = np.sqrt(np.square(query - support).sum(axis=1))
    largest = max(d_nearest, d_support.max())
    return float(1 - np.exp(d_nearest - largest) / np.exp(d_support - largest).sum())
