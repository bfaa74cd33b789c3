"""What methods have in common that compare every cell, with all normal cells or with a coreset."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from knnspect.constraints import Count, Optional, ShareOrCount
from knnspect.detectors.leave_one_out import LeaveOneOut
from knnspect.detectors.nearest.compared import Compared, Counts
from knnspect.detectors.nearest.dropping import DroppingDetector
from knnspect.errors import ParameterError
from knnspect.features import Features
from knnspect.gallery import Coreset, Gallery, LateFusion
from knnspect.gallery.leaving_out import nearest_without
from knnspect.gallery.picking import all_rows, pick_coreset
from knnspect.gallery.reading import ReadOnlyGallery
from knnspect.normal_features import NormalFeatures, Run
from knnspect.normal_features.checks import naming_images
from knnspect.parameters import parameter
from knnspect.progress import Stopwatch
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Neighbors
from knnspect.search.window import refuse_window

__all__ = ["CoresetDetector", "Searched"]

#: Normal images that are compared with the others at a time.
_AT_ONCE = 8

#: What is searched.
Searched: TypeAlias = ReadOnlyGallery | Coreset | LateFusion


class CoresetDetector(DroppingDetector):
    """Compares every cell with the cells of all normal images, or with a coreset of them.

    Parameters
    ----------
    coreset : float, int or None, default None
        How many rows are kept, as a share of all cells of all normal images or as a number; see
        `Gallery.coreset`. None: all of them, searched level by level.
    projection : int, optional
        Pick the coreset by distances after a random projection to so many dimensions; by default
        they are exact, which takes no longer.
    gallery_dtype : {"float32", "float16", "int8"}, default "float32"
        How features are kept while the coreset is picked from them, or for good where there is
        none; see `Gallery`. The rows of a coreset are float32.
    seed : int, default 0
        Chooses the first row of the coreset, and the projection.
    """

    coreset: float | int | None = parameter(Optional(ShareOrCount()), default=None)
    projection: int | None = parameter(Optional(Count()), default=None)
    seed: int = parameter(Count(minimum=0), default=0)

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
        self._check_fusion(self.coreset is not None or self.mask is not None)

    def _learn(self, normal: NormalFeatures, run: Run) -> None:
        others = LeaveOneOut(normal, run.blocks)
        kept = self._learn_kept(normal, others, run)
        with run.watch.stage("coreset"):
            self._keep(self._pick(normal.gallery, kept, run), self.variants)
        with run.watch.stage("gallery"):
            self._calibrate(normal, others, run)

    def _pick(
        self, gallery: Gallery, kept: NDArray[np.bool_] | None, run: Run
    ) -> Gallery | Coreset:
        if self.coreset is None:
            return gallery if kept is None else all_rows(gallery, kept)
        n_rows = gallery.n_rows if kept is None else int(kept.sum())
        if not isinstance(self.coreset, (float, np.floating)) and self.coreset > n_rows:
            of_what = "of all images" if kept is None else "that count in all images"
            raise ParameterError(
                f"coreset: expected at most the {n_rows} cells {of_what}, got {self.coreset}",
                parameter="coreset",
            )
        how = (self.seed, self.projection, self.threads, run.progress)
        return pick_coreset(gallery, self.coreset, *how, kept, run.cluster)

    def _compare_normals(
        self, indices: Sequence[int], normal: NormalFeatures, others: LeaveOneOut
    ) -> Iterator[Compared | None]:
        searched = self._searcher
        if not isinstance(searched, Coreset) or self.score == "image":
            yield from super()._compare_normals(indices, normal, others)
            return
        for start in range(0, len(indices), _AT_ONCE):
            part = indices[start : start + _AT_ONCE]
            ids = [others.ids[index] for index in part]
            query = normal.gallery.pyramid(ids)
            left_out = [others.left_out(index) for index in part]
            each = nearest_without(searched, query, left_out, **self._how)
            for place, (id_, found) in enumerate(zip(ids, each, strict=True)):
                if found is None:
                    yield None
                else:
                    counts = self._counts_of_normal(normal, id_)
                    yield self._compared(found, query[place], counts, searched)

    def _compare_normal(
        self, index: int, normal: NormalFeatures, left_out: Collection[str]
    ) -> Compared | None:
        id_ = normal.gallery.ids[index]
        query = normal.gallery.pyramid([id_])
        counts = self._counts_of_normal(normal, id_)
        searched = self._searcher
        if isinstance(searched, Coreset) and self.score != "image":
            (found,) = nearest_without(searched, query, [left_out], **self._how)
            return None if found is None else self._compared(found, query, counts, searched)
        others = searched.without(list(left_out))
        if not others.n_rows:
            return None
        return self._compared(others.search(query, **self._how), query, counts, others)

    def _compare(self, features: Features, watch: Stopwatch) -> Iterator[Compared]:
        query = features.pyramid
        with watch.stage("matching"), naming_images(features):
            neighbors = self._searcher.search(query, **self._how)
            counts = self._counts_of(features)
        for index in range(len(features.ids)):
            yield self._compared(neighbors[index], query[index], counts[index], self._searcher)

    def _compared(
        self,
        found: Neighbors,
        query: FeaturePyramid,
        counts: Counts,
        searched: Searched,
    ) -> Compared:
        """Return the scores of an image by what was found for it in `searched`."""
        cells = self._evened_out(found, counts)
        own = self._own_score(cells, query, found, searched) if self.score == "image" else np.nan
        return Compared(found, cells, own, is_part=counts)

    def _cell_scores(self, neighbors: Neighbors) -> NDArray[Any]:
        return np.sqrt(neighbors.sq_distances[0, ..., 0].astype(np.float64))

    def _sq_distance_of(self, score: float) -> float:
        return score * score

    def _own_score(
        self,
        cells: NDArray[Any],
        query: FeaturePyramid,  # noqa: ARG002 - for those that look closer
        neighbors: Neighbors,  # noqa: ARG002
        searched: Searched,  # noqa: ARG002
    ) -> float:
        """Return the image score of the only image of `query`, by the scores of its cells."""
        return float(cells.max())
