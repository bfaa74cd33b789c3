"""What methods have in common that compare every cell, with all normal cells or with a coreset."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from knnspect.constraints import Choice, Count, Optional, ShareOrCount
from knnspect.detectors.nearest.base import NearestDetector
from knnspect.detectors.nearest.compared import Compared
from knnspect.detectors.state import State
from knnspect.errors import ParameterError
from knnspect.features import Features
from knnspect.gallery import Coreset, Gallery, LateFusion
from knnspect.gallery.picking import all_rows, pick_coreset
from knnspect.gallery.reading import ReadOnlyGallery
from knnspect.model_files import StoredModel
from knnspect.normal_features import NormalFeatures, Run
from knnspect.normal_features.checks import naming_images
from knnspect.parameters import learnt, parameter
from knnspect.progress import Stopwatch
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Neighbors
from knnspect.search.window import refuse_window
from knnspect.views.foreground import Foreground

__all__ = ["CoresetDetector", "Searched"]

#: What is searched.
Searched: TypeAlias = ReadOnlyGallery | Coreset | LateFusion


class CoresetDetector(NearestDetector):
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
    mask : {"pca"}, optional
        What of an image counts: with ``"pca"`` the part alone, told from the background by the
        first principal component of the cells of normal images (`Foreground`); cells of the
        background are neither kept nor scored. For parts on a background; not for textures, of
        which it hides a half. None: all.

    Attributes
    ----------
    foreground_ : Foreground or None
        What tells the part from the background, with a `mask`.
    """

    mask: Literal["pca"] | None = parameter(Optional(Choice("pca")), default=None)
    coreset: float | int | None = parameter(Optional(ShareOrCount()), default=None)
    projection: int | None = parameter(Optional(Count()), default=None)
    seed: int = parameter(Count(minimum=0), default=0)
    foreground_: Foreground | None = learnt()

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
        if self._keeps_rows:
            refuse_window(self.window, len(self.backbone.levels))
        self._check_fusion(self._keeps_rows)

    @property
    def _keeps_rows(self) -> bool:
        """Whether `fit` keeps rows: some of them, or those of the part."""
        return self.coreset is not None or self.mask is not None

    def _check_against_learnt(self) -> None:
        self._check_fusion(self.coreset_ is not None)

    def _check_fusion(self, has_coreset: bool) -> None:
        """Raise a ParameterError if levels are to be fused late that cannot be."""
        if self.fusion == "levels" and has_coreset:
            raise ParameterError(
                'fusion: expected "concatenated" with a coreset or a mask, which keep rows of all '
                "levels together: use coreset=None, mask=None",
                parameter="fusion",
            )

    def _learn(self, normal: NormalFeatures, run: Run) -> None:
        with run.watch.stage("coreset"):
            self._keep(self._pick(normal.gallery, run.progress), self.variants)
        with run.watch.stage("gallery"):
            self._calibrate(normal, run)

    def _pick(self, gallery: Gallery, progress: bool) -> Gallery | Coreset:
        self.foreground_, kept, n_rows = None, None, gallery.n_rows
        if self.mask is not None:
            # One image at a time: a gallery in a folder may be larger than memory.
            ids = gallery.ids
            features = (self._concatenated(gallery.pyramid([id_])) for id_ in ids)
            self.foreground_ = Foreground.learn(features, len(ids))
            kept = self._masks((id_, gallery.pyramid([id_])) for id_ in ids)
            n_rows = int(kept.sum())
        if self.coreset is None:
            return gallery if kept is None else all_rows(gallery, kept)
        if not isinstance(self.coreset, (float, np.floating)) and self.coreset > n_rows:
            of_what = "of all images" if kept is None else "of the part in all images"
            raise ParameterError(
                f"coreset: expected at most the {n_rows} cells {of_what}, got {self.coreset}",
                parameter="coreset",
            )
        how = (self.seed, self.projection, self.threads, progress)
        return pick_coreset(gallery, self.coreset, *how, kept)

    def _concatenated(self, image: FeaturePyramid) -> NDArray[Any]:
        return np.asarray(image.concatenated(self.upsample)[0])

    def _masks(self, images: Iterable[tuple[str, FeaturePyramid]]) -> NDArray[np.bool_]:
        """Return which cells of images are the part's, shape (n_images, height, width)."""
        part = cast("Foreground", self.foreground_)
        return part.masks((id_, self._concatenated(one)) for id_, one in images)

    def _state(self) -> State:
        state = super()._state()
        return (
            state if self.foreground_ is None else replace(state, arrays=self.foreground_.arrays())
        )

    def _set_state(self, stored: StoredModel) -> None:
        super()._set_state(stored)
        self.foreground_ = None
        if (array := stored.tensors("").get("foreground")) is not None:
            n_features = sum(channels for _, _, channels in self.searched_.shapes)
            self.foreground_ = Foreground.from_arrays(array, n_features)

    def _compare_normal(
        self, index: int, normal: NormalFeatures, left_out: Collection[str]
    ) -> Compared | None:
        others = self._searcher.without(list(left_out))
        if not others.n_rows:
            return None
        id_ = normal.gallery.ids[index]
        query = normal.gallery.pyramid([id_])
        kept = None if self.foreground_ is None else self._masks([(id_, query)])[0]
        return self._compared(others.search(query, **self._how), query, kept, others)

    def _compare(self, features: Features, watch: Stopwatch) -> Iterator[Compared]:
        query = features.pyramid
        with watch.stage("matching"), naming_images(features):
            neighbors = self._searcher.search(query, **self._how)
            kept = None
            if self.foreground_ is not None:
                kept = self._masks((id_, query[i]) for i, id_ in enumerate(features.ids))
        for index in range(len(features.ids)):
            part = None if kept is None else kept[index]
            yield self._compared(neighbors[index], query[index], part, self._searcher)

    def _compared(
        self,
        found: Neighbors,
        query: FeaturePyramid,
        kept: NDArray[np.bool_] | None,
        searched: Searched,
    ) -> Compared:
        """Return the scores of an image by what was found for it in `searched`."""
        cells = self._cell_scores(found) if kept is None else self._cell_scores(found) * kept
        cells = self.border_.divide(cells)
        own = self._own_score(cells, query, found, searched) if self.score == "image" else np.nan
        return Compared(found, cells, own, is_part=kept)

    def _cell_scores(self, neighbors: Neighbors) -> NDArray[Any]:
        return np.sqrt(neighbors.sq_distances[0, ..., 0].astype(np.float64))

    def _own_score(
        self,
        cells: NDArray[Any],
        query: FeaturePyramid,  # noqa: ARG002 - for those that look closer
        neighbors: Neighbors,  # noqa: ARG002
        searched: Searched,  # noqa: ARG002
    ) -> float:
        """Return the image score of the only image of `query`, by the scores of its cells."""
        return float(cells.max())
