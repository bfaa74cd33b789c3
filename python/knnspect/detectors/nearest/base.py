"""What methods have in common that compare with the nearest normal features."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from copy import copy
from dataclasses import replace
from itertools import chain
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.backends import Backend, get_backend
from knnspect.constraints import (
    Bad,
    Choice,
    Constraint,
    Count,
    Optional,
    PositionWindow,
)
from knnspect.detectors.base import Presets
from knnspect.detectors.border import BorderFactors
from knnspect.detectors.leave_one_out import LeaveOneOut
from knnspect.detectors.maps import pixel_map
from knnspect.detectors.nearest.compared import Compared, Counts, LeastOfVariants
from knnspect.detectors.nearest.correcting import CorrectableDetector
from knnspect.detectors.nearest.correcting.scores import Score
from knnspect.detectors.prediction import Prediction
from knnspect.detectors.state import State
from knnspect.errors import DTypeError, ParameterError
from knnspect.features import Backbone, Features
from knnspect.gallery import Coreset, Gallery, LateFusion
from knnspect.gallery.late_fusion import fewest_cells_of_levels
from knnspect.gallery.picking import all_rows
from knnspect.gallery.rows_of_images import RowsOfImages
from knnspect.model_files import StoredModel
from knnspect.normal_features import NormalFeatures, Run
from knnspect.normal_features.checks import evenly_spaced
from knnspect.parameters import learnt, parameter
from knnspect.progress import Stopwatch
from knnspect.search import Neighbors, Window
from knnspect.search.window import fewest_cells, radii_of
from knnspect.views import Placement, Variants
from knnspect.views.constraints import IsVariants
from knnspect.views.query_variants import QueryViews

__all__ = ["PAPER", "BackendWord", "NearestDetector"]

#: What both papers have otherwise than the defaults, but for the network.
PAPER = {"score": "image", "backbone__image_size": 224, "backbone__resize": "crop"}


class BackendWord(Constraint):
    """The word of a backend, or a backend."""

    def check(self, name: str, value: Any) -> None:  # noqa: ARG002
        """Check that there is such a backend, and that it can run here."""
        get_backend(value)

    def bad_values(self) -> Iterator[Bad]:
        """Yield another word, and what is no backend."""
        yield "abacus", ParameterError
        yield 3, DTypeError


class NearestDetector(CorrectableDetector):
    """Compares the cells of an image with those of normal images.

    Parameters
    ----------
    backbone : Backbone, optional
        The network; ``Backbone(image_size=256, patch_size=3)`` by default.
    score : {"image", "map", "top"}, default "map"
        The image score of the paper, the maximum of the map, or the mean of the largest values of
        the map, of which there are `top`.
    upsample : {"bilinear", "block"}, default "bilinear"
        How coarse levels are brought to the resolution of the finest one.
    fusion : {"concatenated", "levels"}, default "concatenated"
        How levels are compared: by their upsampled, concatenated features, or each on its own. The
        second is late fusion, as in RAD: each level is searched at its own resolution, and the
        squared distances are upsampled and averaged over levels, which are not weighted. A cell's
        neighbours are then those of the level that adds most. See `LateFusion`.
    window : int, or sequence of (int or None), optional
        How many rows and columns a normal cell may be away, at most, from a cell that is compared
        with it: in cells of the finest level, or one number for each level, finest first, in cells
        of that level. For parts that always lie in the same place. See `Search`, and `LateFusion`
        for ``fusion="levels"``.
    backend : str or Backend, default "auto"
        What searches the normal features. See `knnspect.backends`.
    threads : int, optional
        Threads of the search (by default all that the process may use).
    variants : Variants, optional
        In which variants normal images are learnt: turned, mirrored, brighter or darker. With few
        normal images, or parts that lie in any direction. None: each image as it is.
    query_variants : Variants, optional
        In which variants images are judged: the score of a cell is the least that it has in any of
        them, turned back, and the method's own image score the least of any. For parts that may lie
        in any direction, where `variants` would make the gallery too large; judging takes as many
        times longer as there are variants. `fit` judges normal images as they are: a minimum can
        only be lower, so `normal_map_max_` and the scores that calibrate are upper bounds, and
        fewer false alarms come than promised; `calibrate` judges held out images in variants, too.
        None: each image as it is.

    Attributes
    ----------
    searched_ : Gallery or Coreset
        The normal features; those of each variant under an id of its own, as
        ``a.png [rotated 45]``.
    variants_ : Variants or None
        In which variants the normal images were learnt.
    border_ : BorderFactors
        What the scores of cells near the border are divided by, as normal cells are farther from
        their nearest there.
    normal_map_max_ : float
        The largest map value of normal images, each compared with what came from the others only
        (at most 16 of them, evenly spaced): what a value of a map is to be held against. Near-
        duplicates of an image, such as the next frame of a video, are not compared with it, nor
        its own variants. NaN where no other image is left, as with one normal image; then maps are
        not evened out at the border either (`border_`).
    """

    upsample: Literal["bilinear", "block"] = parameter(
        Choice("bilinear", "block"), default="bilinear"
    )
    fusion: Literal["concatenated", "levels"] = parameter(
        Choice("concatenated", "levels"), default="concatenated"
    )
    window: Window = parameter(PositionWindow(), default=None)
    backend: str | Backend = parameter(BackendWord(), default="auto", is_saved=False)
    threads: int | None = parameter(Optional(Count()), default=None, is_saved=False)
    variants: Variants | None = parameter(Optional(IsVariants()), default=None)
    query_variants: Variants | None = parameter(
        Optional(IsVariants()), default=None, changes_training=False
    )

    backbone: Backbone = parameter(
        default_factory=lambda: Backbone(image_size=256, patch_size=3), kw_only=False
    )
    score: Literal["image", "map", "top"] = parameter(default="map")

    presets: ClassVar[Presets] = {"paper": PAPER}
    _mark_of_fitted: ClassVar[str] = "searched_"
    border_: BorderFactors = learnt()

    @property
    def n_images_(self) -> int:
        """Number of normal images that were learnt from; their variants are not counted."""
        self._check_fitted()
        n_stored = self.searched_.n_images
        return n_stored if self.variants_ is None else n_stored // len(self.variants_)

    @property
    def nbytes_(self) -> int:
        """Bytes of all that was learnt."""
        self._check_fitted()
        return self.searched_.nbytes

    @abstractmethod
    def _compare_normal(
        self, index: int, normal: NormalFeatures, left_out: Collection[str]
    ) -> Compared | None:
        """Compare a normal image with the others, but for some images.

        Return None if nothing is left. `index` is its place in the gallery, `left_out` are ids of
        the gallery: those of all variants.
        """

    def _compare_normals(
        self, indices: Sequence[int], normal: NormalFeatures, others: LeaveOneOut
    ) -> Iterator[Compared | None]:
        """Compare some normal images, by their places in ``others.ids``, in order."""
        for n in indices:
            yield self._compare_normal(int(normal.stored.places[n]), normal, others.left_out(n))

    @abstractmethod
    def _compare(self, features: Features, watch: Stopwatch) -> Iterator[Compared]:
        """Compare the images of a batch, in order, with the normal ones."""

    @abstractmethod
    def _cell_scores(self, neighbors: Neighbors) -> NDArray[Any]:
        """Return the scores of the cells of the only image of `neighbors`: (height, width)."""

    def _sq_distance_of(self, score: float) -> float:
        return score

    @property
    def _how(self) -> dict[str, Any]:
        """How all searches are made."""
        return {"threads": self.threads, "backend": self.backend, "window": self.window}

    @property
    def _searcher(self) -> Gallery | Coreset | LateFusion:
        """What is searched, in the way that `fusion` says."""
        searched = self.searched_
        return searched if isinstance(searched, Coreset) else self._by_fusion(searched)

    @property
    def _pyramids(self) -> Gallery:
        """The gallery of a method that always has one, but for masks."""
        self._check_fitted()
        if isinstance(self.searched_, Coreset):
            raise AttributeError("gallery_: with a mask only rows are kept, as searched_")
        return self.searched_

    @property
    def _by_images(self) -> Gallery | LateFusion | RowsOfImages:
        """The same, of which images may be chosen for each query image."""
        of_all = self.searched_
        return RowsOfImages(of_all) if isinstance(of_all, Coreset) else self._by_fusion(of_all)

    def _by_fusion(self, gallery: Gallery) -> Gallery | LateFusion:
        """Return `searched_`, if it is a gallery, as `fusion` says."""
        if self.fusion == "concatenated":
            return gallery
        if self._by_level is None:
            self._by_level = LateFusion(gallery)
        return self._by_level

    def _n_comparable(self, n_stored: int) -> int:
        """Return with how many cells of so many stored images every cell can be compared."""
        if isinstance(self.searched_, Coreset):
            n_rows = np.bincount(self.searched_.image_index, minlength=self.searched_.n_images)
            return int(np.sort(n_rows)[:n_stored].sum())
        fewest = fewest_cells if self.fusion == "concatenated" else fewest_cells_of_levels
        return n_stored * fewest(self.searched_.shapes, self.window)

    @property
    def _words_of_cells(self) -> str:
        if isinstance(self.searched_, Coreset):
            return "cells that count"
        return "cells" if self.window is None else "cells within the window"

    def _gallery(self) -> Gallery:
        return Gallery(self.upsample, self.gallery_dtype)

    def _prepare(self, run: Run) -> None:
        super()._prepare(run)
        radii = radii_of(self.window, len(self.backbone.levels))
        if self.mask is not None and radii is not None:
            raise ParameterError(
                "window: expected None with a mask, which leaves single rows, and maybe none near "
                "a place: use window=None, or mask=None",
                parameter="window",
            )
        self._check_fusion(self.mask is not None)
        self._check_score(self.mask is not None)
        run.variants = self.variants

    def _check_against_learnt(self) -> None:
        super()._check_against_learnt()
        self._check_fusion(isinstance(self.searched_, Coreset))
        self._check_score(self._cell_mask is not None)

    def _check_fusion(self, keeps_rows: bool) -> None:
        """Raise a ParameterError if levels are to be fused late that cannot be."""
        if self.fusion == "levels" and keeps_rows:
            raise ParameterError(
                'fusion: expected "concatenated" with a coreset, a mask or outliers, which keep '
                "rows of all levels together: use coreset=None, mask=None, outliers=None",
                parameter="fusion",
            )

    def _all_that_counts(self, normal: NormalFeatures) -> Gallery | Coreset:
        """Return the gallery; with a mask, the rows of all cells that count."""
        counts = self._learn_mask(normal)
        return normal.gallery if counts is None else all_rows(normal.gallery, counts)

    def _evened_out(self, neighbors: Neighbors, counts: Counts) -> NDArray[Any]:
        """Return the scores of an image's cells, 0 where they do not count, as its map has them."""
        cells = self._cell_scores(neighbors)
        return self.border_.divide(cells if counts is None else cells * counts)

    def _calibrate(self, normal: NormalFeatures, others: LeaveOneOut, run: Run) -> None:
        """Compare normal images with the others: for the border, and for decisions."""
        few = evenly_spaced(len(others.ids))
        self.border_ = BorderFactors()
        near = zip(few, self._compare_normals(few, normal, others), strict=True)
        first = {index: found for index, found in near if found is not None}
        cells = [each.counted for each in first.values()]
        self.border_ = border = BorderFactors.of(cells, normal.gallery.shapes)
        chosen = others.sample(self.false_alarm_rate) if run.calibrates else []
        evened: dict[int, Compared] = {}
        if self.score != "image":  # which looks at the largest cell
            evened = {n: one._replace(cells=border.divide(one.cells)) for n, one in first.items()}
        left = sorted({*few, *chosen} - evened.keys())
        compared = zip(left, self._compare_normals(left, normal, others), strict=True)
        judged: dict[int, tuple[float, float]] = {}
        for index, found in chain(evened.items(), compared):
            if found is not None:
                id_ = others.ids[index]
                one = self._prediction(id_, normal.placement(id_), found, Stopwatch())
                judged[index] = (one.score, float(one.map.max()))
        others.warn()
        self.normal_map_max_ = max((judged[n][1] for n in few if n in judged), default=np.nan)
        if scored := [index for index in chosen if index in judged]:
            scores, largest = zip(*(judged[index] for index in scored), strict=True)
            self._take(others.calibration(scored, scores, largest))

    def _state(self) -> State:
        values = {"border_factors": self.border_.factors.tolist()}
        if self.variants != self.variants_:  # the parameter was changed after `fit`
            values["variants"] = self.parameters["variants"].constraint.saved(self.variants_)
        of_mask, of_thumbnails = self._state_of_mask(), self._state_of_thumbnails()
        kept = self._state_of_corrections()
        return replace(
            kept,
            values=values | of_mask.values | kept.values,
            arrays=of_mask.arrays | of_thumbnails.arrays | kept.arrays,
        )

    def _set_state(self, stored: StoredModel) -> None:
        self._keep(stored.searched(), self.variants)
        self._set_mask(stored, self.searched_)
        self._set_thumbnails(stored)
        self.border_ = BorderFactors(stored.config.get("border_factors", ()))

    def _judge(self, features: Features, watch: Stopwatch) -> Iterator[Prediction]:
        # As the model is now: another thread may correct it meanwhile.
        self._by_images  # noqa: B018 - which makes levels, once for all batches
        now = copy(self)
        for index, found in enumerate(now._compare(features, watch)):
            judged = now._prediction(features.ids[index], features.placements[index], found, watch)
            known = None
            if now._known_defects is not None:
                normal = found.neighbors.sq_distances[0, ..., 0]
                image = features.pyramid[index]
                known = now._known_defects.find(image, now.upsample, normal, **now._how)
            yield judged if known is None else replace(judged, known=known)

    def _check_defects(self) -> None:
        self._check_fitted()
        if self.fusion == "levels":
            raise ParameterError(
                'fusion: expected "concatenated" to remember defects, whose distances are those '
                "of all levels together",
                parameter="fusion",
            )

    def _score_of(self, image: str, normal: NormalFeatures) -> Score | None:
        index = int(normal.stored.places[0])
        found = self._compare_normal(index, normal, self._stored.ids_of([image]))
        if found is None:
            return None
        judged = self._prediction(image, normal.placement(image), found, Stopwatch())
        return judged.score, float(judged.map.max())

    def _prediction(
        self, id_: str, placement: Placement, found: Compared, watch: Stopwatch
    ) -> Prediction:
        with watch.stage("maps"):
            map_ = pixel_map(found.cells, placement, self.sigma)
            score = self._score_of_map(map_)
        if score is None:
            score = found.own_score
        return Prediction(id_, score, map_, found.neighbors, found.images)

    @property
    def _query_views(self) -> QueryViews | None:
        variants = self.query_variants
        return None if variants is None or len(variants) == 1 else QueryViews(variants)

    def _judge_batches(self, batches: Iterator[Features], watch: Stopwatch) -> Iterator[Prediction]:
        views = self._query_views
        predictions = super()._judge_batches(batches, watch)
        if views is not None:
            predictions = self._least_of_variants(views.variants, batches, watch)
        for prediction in predictions:
            yield replace(prediction, variants=self.variants_)

    def _least_of_variants(
        self, variants: Variants, batches: Iterator[Features], watch: Stopwatch
    ) -> Iterator[Prediction]:
        """Judge images by batches of all of their variants, which may begin and end anywhere."""
        place = 0
        for batch in batches:
            shown = [variants.each[(place + i) % len(variants)] for i in range(len(batch.ids))]
            features = replace(batch, variants=shown)
            for index, found in enumerate(self._compare(features, watch)):
                with watch.stage("maps"):
                    if place == 0:
                        id_, placement = features.ids[index], features.placements[index]
                        least = LeastOfVariants(variants, placement, found)
                    else:
                        least.add(place, found)
                place = (place + 1) % len(variants)
                if place == 0:
                    yield replace(
                        self._prediction(id_, placement, least.result(), watch),
                        placement=placement,
                        normal_sizes=self._normal_sizes,
                        picture=features.pictures[index],
                        chosen_variants=least.chosen,
                    )

    def _map(self, cells: NDArray[Any], placement: Placement) -> NDArray[np.float32]:
        return super()._map(self.border_.divide(cells), placement)
