"""SPADE: semantic pyramid anomaly detection."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from knnspect.constraints import Count, Optional
from knnspect.detectors.base import Presets
from knnspect.detectors.leave_one_out import LeaveOneOut
from knnspect.detectors.nearest.base import PAPER, NearestDetector
from knnspect.detectors.nearest.compared import Compared, Counts, Nearest
from knnspect.errors import ParameterError
from knnspect.features import Features
from knnspect.gallery import Gallery
from knnspect.model_files import StoredModel
from knnspect.normal_features import NormalFeatures, Run
from knnspect.normal_features.checks import check_pooled, naming_images, warn_of_too_many
from knnspect.parameters import parameter
from knnspect.progress import Stopwatch
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Neighbors

__all__ = ["Spade"]


class Spade(NearestDetector):
    """Compare an image with its nearest normal images, cell by cell.

    *Image stage*: the K normal images whose pooled features are nearest. *Pixel stage*: for each
    cell of the feature pyramid, the kappa nearest cells in those K images, wherever they lie.

    - image score: the maximum of the map; the paper's, with ``score="image"``, is the mean of the K
      (or `score_neighbors`) smallest squared distances between pooled features;
    - pixel score: mean of the kappa smallest squared distances between upsampled, concatenated
      features, near the border divided by how much larger those of normal images are there; the
      map of these is upsampled bilinearly and blurred.

    Parameters
    ----------
    image_neighbors : int, default 50
        K, normal images that an image is compared with. Larger than their number, it means all of
        them; with a warning, unless it is the default.
    pixel_neighbors : int, default 1
        kappa, nearest normal cells whose distances are averaged.
    score_neighbors : int, optional
        How many nearest normal images ``score="image"`` averages over: few, as one alike is enough,
        while cells find theirs in many. None: K. Larger than their number: all, with a warning.

    Attributes
    ----------
    pooled_ : ndarray of float32, shape (n_images, n_features)
        Their pooled features, in the order of ``searched_.image_ids``, variants included.
    seconds_ : dict of str to float
        Of the last `fit` or `predict`: "decode" (waiting for images), "features", "gallery" (with
        calibration), "retrieval" (the image stage), "matching" (the pixel stage), "maps".

    Source
    ------
    Cohen and Hoshen, "Sub-Image Anomaly Detection with Deep Pyramid Correspondences" (2020),
    sections 3.1 to 3.3. Deviations: features are averaged over 3x3 cells, the score
    is the map's (``Spade.from_preset("paper")`` has the paper's settings, but for the network, a
    WideResNet50); K and kappa are separate parameters; normal images say how much larger distances
    are at the border (`BorderFactors`), beyond which the map has its median (`pixel_map`).

    Examples
    --------
    >>> from knnspect import Backbone
    >>> images = np.random.default_rng(0).integers(100, 120, (7, 64, 64, 3)).astype("u1")
    >>> images[6, 20:30, 30:40] = 255
    >>> spade = Spade(Backbone(image_size=64), image_neighbors=5, score="map").fit(images[:5])
    >>> good, bad = spade.predict(images[5:])
    >>> good.score < bad.score, bad.map.shape
    (True, (64, 64))
    >>> row, column = np.unravel_index(bad.map.argmax(), bad.map.shape)
    >>> bool(18 <= row <= 32 and 28 <= column <= 42)
    True
    """

    image_neighbors: int = parameter(Count(), default=50)
    pixel_neighbors: int = parameter(Count(), default=1)
    score_neighbors: int | None = parameter(Optional(Count()), default=None)

    method: ClassVar[str] = "spade"
    presets: ClassVar[Presets] = {"paper": {**PAPER, "backbone__patch_size": 1}}
    _needs_pooled: ClassVar[bool] = True
    _own_score_sees_all: ClassVar[bool] = True

    @property
    def image_neighbors_(self) -> int:
        """K as it is used: at most the number of normal images."""
        self._check_fitted()
        return min(self.image_neighbors, self.n_images_)

    @property
    def gallery_(self) -> Gallery:
        """The pyramids of the normal images; with a mask there are rows, `searched_`, instead."""
        return self._pyramids

    @property
    def nbytes_(self) -> int:
        """Bytes of all that was learnt."""
        return super().nbytes_ + self.pooled_.nbytes

    def nearest_images(
        self, pooled: NDArray[np.float32], without: str | Collection[str] = ()
    ) -> Nearest:
        """Return the K normal images that an image is compared with: the image stage alone.

        Parameters
        ----------
        pooled : ndarray of float32, shape (n_features,)
            The image's pooled features, as `Backbone.extract` gives them.
        without : str or collection of str, default ()
            Ids of normal images to leave out.

        Returns
        -------
        list of (str, float)
            Ids and squared L2 distances (of the nearest variant), nearest first; ties by id.

        Raises
        ------
        NotFittedError, ShapeError
            Before `fit`; if `pooled` has another shape.
        """
        self._check_fitted()
        left_out = {without} if isinstance(without, str) else without
        return self._nearest(pooled, left_out)[: self.image_neighbors_]

    def _learn(self, normal: NormalFeatures, run: Run) -> None:
        self._keep(self._all_that_counts(normal), self.variants, normal.pooled)
        self._check_against_learnt()
        with run.watch.stage("gallery"):
            self._calibrate(normal, LeaveOneOut(normal, run.blocks), run)
        warn_of_too_many(self, ("image_neighbors", "score_neighbors"), self.n_images_)

    def _compare_normal(
        self, index: int, normal: NormalFeatures, left_out: Collection[str]
    ) -> Compared | None:
        nearest = self._nearest(normal.pooled[index], left_out)
        if not self._n_comparable(len(nearest)):
            return None
        query = normal.gallery.pyramid([id_ := normal.gallery.ids[index]])
        counts = self._counts_of_normal(normal, id_)
        return self._compared(self._search(query, [nearest]), nearest, counts)

    def _cell_scores(self, neighbors: Neighbors) -> NDArray[Any]:
        return np.asarray(neighbors.sq_distances[0].mean(axis=-1))

    def _compare(self, features: Features, watch: Stopwatch) -> Iterator[Compared]:
        with watch.stage("retrieval"):
            check_pooled(features)
            nearest = [self._nearest(row) for row in features.pooled]
        with watch.stage("matching"), naming_images(features):
            found, counts = self._search(features.pyramid, nearest), self._counts_of(features)
        yield from (self._compared(found[i], near, counts[i]) for i, near in enumerate(nearest))

    def _nearest(self, pooled: NDArray[np.float32], left_out: Collection[str] = ()) -> Nearest:
        n = max(self.image_neighbors_, self.score_neighbors or 0)  # searched, and scoring
        return self._stored.nearest(self.pooled_, pooled, n, left_out)

    def _search(self, query: FeaturePyramid, nearest: Sequence[Nearest]) -> Neighbors:
        n = self.image_neighbors_
        images = [self._stored.ids_of(id_ for id_, _ in near[:n]) for near in nearest]
        k = min(self.pixel_neighbors, self._n_comparable(min(map(len, images))))  # of fewer, all
        return self._by_images.search(query, k, images, **self._how)

    def _compared(self, found: Neighbors, nearest: Nearest, counts: Counts) -> Compared:
        scored = nearest[: self.score_neighbors or self.image_neighbors_]
        own = np.mean([far for _, far in scored]) if self.score == "image" else np.nan
        images = tuple(nearest[: self.image_neighbors_])
        return Compared(found, self._evened_out(found, counts), float(own), images, counts)

    def _set_state(self, stored: StoredModel) -> None:
        super()._set_state(stored)
        self.upsample = self.searched_.upsample  # type: ignore[assignment]
        if isinstance(self.searched_, Gallery):  # earlier versions kept no type besides its own
            self.gallery_dtype = self.searched_.dtype  # type: ignore[assignment]
        self._keep(self._all, self.variants, stored.pooled(self._all_ids))

    def _check_against_learnt(self) -> None:
        super()._check_against_learnt()
        n_images = min(self.image_neighbors_, max(1, self.n_images_ - 1))
        n_cells = self._n_comparable(n_images * self.searched_.n_images // self.n_images_)
        if self.pixel_neighbors > n_cells:
            raise ParameterError(
                f"pixel_neighbors: expected at most the {n_cells} {self._words_of_cells} of "
                f"{n_images} images, got {self.pixel_neighbors}",
                parameter="pixel_neighbors",
            )
