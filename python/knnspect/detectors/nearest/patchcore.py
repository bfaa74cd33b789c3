"""PatchCore: the nearest of all normal cells, or of a coreset of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from knnspect.constraints import Count, Optional, ShareOrCount
from knnspect.detectors.base import Presets
from knnspect.detectors.nearest.base import PAPER, NearestDetector
from knnspect.detectors.prediction import Prediction
from knnspect.errors import ParameterError
from knnspect.features import Features
from knnspect.gallery import Coreset, Gallery
from knnspect.normal_features import NormalFeatures, Run
from knnspect.normal_features.checks import naming_images
from knnspect.parameters import parameter
from knnspect.progress import Stopwatch
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Neighbors
from knnspect.search.window import refuse_window

__all__ = ["PatchCore"]


class PatchCore(NearestDetector):
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
    projection : int, optional
        Pick the coreset by distances after a random projection to so many dimensions; by default
        they are exact, which takes no longer.
    neighbors : int, default 9
        b of the image score; more than there are normal features means all (with a `window`: as
        many as lie within it everywhere). 1: no weight.
    gallery_dtype : {"float32", "float16", "int8"}, default "float32"
        How features are kept while the coreset is picked from them, or for good where there is
        none; see `Gallery`. The rows of a coreset are float32.
    seed : int, default 0
        Chooses the first row of the coreset, and the projection.

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

    coreset: float | int | None = parameter(Optional(ShareOrCount()), default=0.02)
    projection: int | None = parameter(Optional(Count()), default=None)
    neighbors: int = parameter(Count(), default=9)
    seed: int = parameter(Count(minimum=0), default=0)

    method: ClassVar[str] = "patchcore"
    presets: ClassVar[Presets] = {"paper": {**PAPER, "backbone__levels": (2, 3), "coreset": 0.01}}

    @property
    def coreset_(self) -> Coreset | None:
        """The rows that are kept, and which cells of which normal images they are."""
        self._check_fitted()
        return self.searched_ if isinstance(self.searched_, Coreset) else None

    @property
    def gallery_(self) -> Gallery | None:
        """The pyramids of all normal images, where there is no coreset."""
        self._check_fitted()
        return None if isinstance(self.searched_, Coreset) else self.searched_

    def _prepare(self, run: Run) -> None:
        super()._prepare(run)
        if self.coreset is not None:
            refuse_window(self.window, len(self.backbone.levels))

    def _learn(self, normal: NormalFeatures, run: Run) -> None:
        with run.watch.stage("coreset"):
            self._keep(self._pick(normal.gallery, run.progress), self.variants)
        with run.watch.stage("gallery"):
            self._calibrate(normal)

    def _pick(self, gallery: Gallery, progress: bool) -> Gallery | Coreset:
        if self.coreset is None:
            return gallery
        n_rows = gallery.n_rows
        if not isinstance(self.coreset, (float, np.floating)) and self.coreset > n_rows:
            raise ParameterError(
                f"coreset: expected at most the {n_rows} cells of all images, got {self.coreset}",
                parameter="coreset",
            )
        return gallery.coreset(self.coreset, self.seed, self.projection, self.threads, progress)

    def _normal_cells(
        self, index: int, normal: NormalFeatures, left_out: Collection[str]
    ) -> NDArray[Any] | None:
        others = self.searched_.without(list(left_out))
        if not others.n_rows:
            return None
        query = normal.gallery.pyramid([normal.gallery.ids[index]])
        return _cell_distances(others.search(query, **self._how))

    def _judge(self, features: Features, watch: Stopwatch) -> Iterator[Prediction]:
        query = features.pyramid
        with watch.stage("matching"), naming_images(features):
            neighbors = self.searched_.search(query, **self._how)
        for index, id_ in enumerate(features.ids):
            found = neighbors[index]
            with watch.stage("maps"):
                map_ = self._map(_cell_distances(found), features.placements[index])
            with watch.stage("matching"):
                score = self._score_of_map(map_)
                if score is None:
                    score = self._score(query[index], found)
            yield Prediction(id_, score, map_, found)

    def _score(self, query: FeaturePyramid, neighbors: Neighbors) -> float:
        """Image score of the only image of `query`: equation 7."""
        cells = self.border_.divide(_cell_distances(neighbors))
        row, column = map(int, np.unravel_index(cells.argmax(), cells.shape))
        score = float(cells[row, column])
        n_rows = self.searched_.n_rows
        if self.coreset_ is None:
            n_rows = self._n_comparable(self.searched_.n_images)
        n_neighbors = min(self.neighbors, n_rows)
        if n_neighbors == 1:
            return score
        at = (0, row, column, 0)
        image = neighbors.image_ids[int(neighbors.image_index[at])]
        cell = (int(neighbors.cells[at][0]), int(neighbors.cells[at][1]))
        nearest, support = self.searched_.around(image, cell, n_neighbors, **self._how)
        farthest: NDArray[np.float32] = query.concatenated(self.upsample)[0, row, column]
        return score * _weight(farthest, nearest, support)


def _cell_distances(neighbors: Neighbors) -> NDArray[np.float64]:
    """Return the L2 distances of the only image of `neighbors`, shape (height, width)."""
    return np.sqrt(neighbors.sq_distances[0, ..., 0].astype(np.float64))


def _weight(query: NDArray[Any], nearest: NDArray[Any], support: NDArray[Any]) -> float:
    """Weight of equation 7: a softmax over distances, less its largest exponent, in float64."""
    query = query.astype(np.float64)
    d_nearest = np.sqrt(np.square(query - nearest).sum())
    d_support = np.sqrt(np.square(query - support).sum(axis=1))
    largest = max(d_nearest, d_support.max())
    return float(1 - np.exp(d_nearest - largest) / np.exp(d_support - largest).sum())
