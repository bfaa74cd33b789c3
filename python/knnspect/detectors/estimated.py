"""What methods have in common that sum up normal features in closed form, without training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.leave_one_out import LeaveOneOut
from knnspect.detectors.scoring import ScoringDetector
from knnspect.detectors.state import State
from knnspect.errors import ImageError
from knnspect.forked import fork_safe
from knnspect.gallery.reading import ReadOnlyGallery
from knnspect.model_files import StoredModel
from knnspect.normal_features import NormalFeatures, Run
from knnspect.normal_features.checks import evenly_spaced
from knnspect.parameters import learnt
from knnspect.progress import Stopwatch
from knnspect.pyramid import FeaturePyramid

if TYPE_CHECKING:
    from knnspect.detectors.heads.scorers.arrays import ArrayScorer

__all__ = ["EstimatedDetector"]

#: Before the names of arrays in a file.
_ESTIMATE = "estimate."
#: Into which normal images are divided to be judged by the others.
_N_PARTS = 5


class EstimatedDetector(ScoringDetector):
    """A detector that estimates what normal features are like, without training a network.

    It needs no PyTorch once features are there. Normal images are judged without themselves for the
    calibration, by an estimate from the others.

    Attributes
    ----------
    normal_map_max_ : float
        The largest map value of normal images, each judged without itself (at most 16 of them,
        evenly spaced): what a value of a map is to be held against. NaN where there are none.
    """

    fewest_images: ClassVar[int] = 2
    _mark_of_fitted: ClassVar[str] = "scorer_"
    #: What judges, by what was learnt.
    scorer_: Any = learnt()

    # --- What a method brings. --------------------------------------------------------------------

    @abstractmethod
    def _estimate(
        self, gallery: ReadOnlyGallery, ids: Sequence[str], cluster: str | None = None, /
    ) -> ArrayScorer:
        """Return what judges, by the features of some images.

        Where the gallery is in shards, a cluster at an address may help.
        """

    @abstractmethod
    def _rebuilt(self, arrays: dict[str, NDArray[Any]]) -> ArrayScorer:
        """Return what judges, by the arrays of a file.

        Raises
        ------
        KeyError, ValueError
            If the arrays are not those of the method.
        """

    def _judged_without(
        self, chosen: Sequence[int], normal: NormalFeatures, others: LeaveOneOut
    ) -> Iterator[tuple[int, float, NDArray[Any]]]:
        """Yield normal images, each with its score and its cells' by images it does not belong to.

        In five parts, each of which is judged by an estimate from the rest.
        """
        for part in (chosen[start::_N_PARTS] for start in range(_N_PARTS)):
            gone = {id_ for index in part for id_ in others.left_out(index)}
            ids = [id_ for id_ in normal.gallery.ids if id_ not in gone]
            if not part or not ids:
                continue
            scorer = self._estimate(normal.gallery, ids)
            for index in part:
                id_ = others.ids[index]
                yield index, *self._scores_by(scorer, id_, normal.gallery.pyramid([id_]))

    # --- What all have. ---------------------------------------------------------------------------

    @property
    def nbytes_(self) -> int:
        """Bytes of all that was learnt."""
        self._check_fitted()
        return sum(array.nbytes for array in self.scorer_.arrays().values())

    @fork_safe
    def _learn(self, normal: NormalFeatures, run: Run) -> None:
        self._note_params()
        ids = normal.gallery.ids
        if len(ids) < self.fewest_images:
            raise ImageError(
                f"images: {type(self).__name__} needs at least {self.fewest_images} normal images "
                f"to learn from, got {len(ids)}"
            )
        with run.watch.stage("estimation"):
            self._shapes, self._n_images = normal.gallery.shapes, len(ids)
            self.scorer_ = self._estimate(normal.gallery, ids, run.cluster)
        with run.watch.stage("calibration"):
            self._calibrate(normal, run)

    def _calibrate(self, normal: NormalFeatures, run: Run) -> None:
        """Judge normal images by the others: for the scale of maps, and for decisions."""
        others = LeaveOneOut(normal, run.blocks)
        few = evenly_spaced(len(others.ids))
        chosen = others.sample(self.false_alarm_rate) if run.calibrates else few
        judged: dict[int, tuple[float, float]] = {}
        for index, own, cells in self._judged_without(chosen, normal, others):
            placement = normal.placement(others.ids[index])
            score, map_ = self._with_map(own, cells, placement, Stopwatch())
            judged[index] = (score, float(map_.max()))
        others.warn()
        self.normal_map_max_ = max((judged[i][1] for i in few if i in judged), default=np.nan)
        if run.calibrates and judged:
            scored = sorted(judged)
            scores, maxima = zip(*(judged[index] for index in scored), strict=True)
            self._take(others.calibration(scored, scores, maxima))

    def _own_scores(self, id_: str, pyramid: FeaturePyramid) -> tuple[float, NDArray[Any]]:
        return self._scores_by(self.scorer_, id_, pyramid)

    def _scores_by(
        self, scorer: ArrayScorer, id_: str, pyramid: FeaturePyramid
    ) -> tuple[float, NDArray[Any]]:
        cells = self._cells_of(id_, pyramid, scorer)
        return scorer.image_score(cells, pyramid), cells

    def _state(self) -> State:
        return State(
            {"images": self._n_images, "shapes": [list(shape) for shape in self._shapes]},
            {_ESTIMATE + name: array for name, array in self.scorer_.arrays().items()},
        )

    def _set_state(self, stored: StoredModel) -> None:
        self._set_size(stored.config)
        self.scorer_ = self._rebuilt(stored.tensors(_ESTIMATE))
