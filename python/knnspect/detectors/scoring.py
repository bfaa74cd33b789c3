"""What methods have in common that judge an image by the scores of its cells."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.base import Detector
from knnspect.detectors.prediction import Prediction
from knnspect.errors import ImageError
from knnspect.features import Features
from knnspect.forked import fork_safe
from knnspect.normal_features.checks import naming_images
from knnspect.parameters import learnt
from knnspect.progress import Stopwatch
from knnspect.pyramid import FeaturePyramid
from knnspect.validation import check_count
from knnspect.views import Placement

__all__ = ["CellScorer", "ScoringDetector"]


class CellScorer(Protocol):
    """Says how unlike normal cells are."""

    def cell_scores(self, pyramid: FeaturePyramid) -> NDArray[Any]:
        """Return the scores of the cells of one image, shape (height, width)."""
        ...


class ScoringDetector(Detector):
    """A detector that judges images one by one, by what it learnt, and keeps no normal image."""

    #: Height, width and channels of each level that was learnt from, and of how many images.
    _shapes: list[tuple[int, int, int]] = learnt()
    _n_images: int = learnt()
    #: The parameters of the fit, as a model keeps them.
    _fit_params: dict[str, Any] = learnt()

    def saved_params(self) -> dict[str, Any]:
        """Return the parameters that a model keeps: of those that decide what is learnt, as it was.

        What was learnt does not change with them before the next `fit`.
        """
        now = super().saved_params()
        fitted = getattr(self, "_fit_params", {})
        learnt_by = {name for name, each in self.parameters.items() if each.changes_training}
        return {n: fitted[n] if n in learnt_by and n in fitted else v for n, v in now.items()}

    @property
    def n_images_(self) -> int:
        """Number of normal images that were learnt from, those held out included."""
        self._check_fitted()
        return self._n_images

    def _set_size(self, config: dict[str, Any]) -> None:
        """Take over the size of what was learnt from; raise a ValueError if it cannot be so."""
        self._shapes = [(height, width, n) for height, width, n in config["shapes"]]
        self._n_images = check_count("images", config["images"])
        self._note_params()
        channels = [n for _, _, n in self._shapes]
        known = self.backbone.channels  # none of scenes, each of which says itself
        if known and channels != known:
            raise ValueError(f"shapes: expected {known} channels, got {channels}")
        largest = self.backbone.geometry.largest_input
        if any(not (1 <= h <= largest[0] and 1 <= w <= largest[1]) for h, w, _ in self._shapes):
            raise ValueError(f"shapes: expected levels within {largest}, got {self._shapes}")

    def _note_params(self) -> None:
        """Keep the parameters as those of what is learnt now."""
        self._fit_params = super().saved_params()

    def _judge(self, features: Features, watch: Stopwatch) -> Iterator[Prediction]:
        for index, id_ in enumerate(features.ids):
            with naming_images(features):
                score, map_ = self._scored(
                    id_, features.pyramid[index], features.placements[index], watch
                )
            yield Prediction(id_, score, map_)

    @abstractmethod
    def _own_scores(self, id_: str, pyramid: FeaturePyramid) -> tuple[float, NDArray[Any]]:
        """Return the method's score of an image, and those of its cells."""

    def _scored(
        self, id_: str, pyramid: FeaturePyramid, placement: Placement, watch: Stopwatch
    ) -> tuple[float, NDArray[np.float32]]:
        """Return the score and the map of an image."""
        with watch.stage("matching"):
            score, cells = self._own_scores(id_, pyramid)
        return self._with_map(score, cells, placement, watch)

    @fork_safe
    def _cells_of(self, id_: str, pyramid: FeaturePyramid, scorer: CellScorer) -> NDArray[Any]:
        """Return the scores of an image's cells, shape (height, width)."""
        if not all(np.isfinite(level).all() for level in pyramid.levels):
            raise ImageError(f"image {id_}: its features are not finite")
        return scorer.cell_scores(pyramid)

    def _with_map(
        self, score: float, cells: NDArray[Any], placement: Placement, watch: Stopwatch
    ) -> tuple[float, NDArray[np.float32]]:
        """Return the score and the map of an image, by its own score and those of its cells."""
        with watch.stage("maps"):
            map_ = self._map(cells, placement)
        by_map = self._score_of_map(map_)
        return score if by_map is None else by_map, map_
