"""What methods have in common that drop cells of normal images which may be defects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from knnspect.constraints import Optional, Positive
from knnspect.corrections import CorrectionKind
from knnspect.detectors.leave_one_out import LeaveOneOut
from knnspect.detectors.nearest.base import NearestDetector
from knnspect.detectors.nearest.outliers import find_outliers, largest_first
from knnspect.detectors.state import State
from knnspect.errors import ParameterError
from knnspect.gallery import Coreset
from knnspect.model_files import StoredModel
from knnspect.normal_features import NormalFeatures, Run
from knnspect.parameters import learnt, parameter
from knnspect.search.window import radii_of

__all__ = ["DroppingDetector"]


class DroppingDetector(NearestDetector):
    """Drops cells of normal images that are unlike those of all other images.

    Parameters
    ----------
    outliers : float, optional
        Which share of all cells of normal images may be defects: each cell is compared, exactly,
        with the cells of all other images, and those that lie farthest from them are not kept, as
        in SoftPatch. For folders that may have some defects in them; it costs a comparison of each
        image with all others, and four bytes a cell. Near-duplicates of an image, and those of its
        block, are not compared with it. Rows alone are kept then, as with a mask. Images whose
        cells were dropped still calibrate: if they have defects, their scores raise the thresholds,
        which keeps the promised rate of false alarms, but misses defects; `calibration_images` of
        `fit` that are known to be normal do not. Images that are added later lose no cells. None:
        all cells are kept.

    Attributes
    ----------
    dropped_ : dict of str to float
        The share of its cells that each normal image has lost as `outliers` when it was learnt,
        largest first; images that lost none are not there.
    """

    outliers: float | None = parameter(Optional(Positive(below=1.0)), default=None)

    dropped_: dict[str, float] = learnt()

    def _prepare(self, run: Run) -> None:
        super()._prepare(run)
        radii = radii_of(self.window, len(self.backbone.levels))
        if self.outliers is not None and radii is not None:
            raise ParameterError(
                "window: expected None with outliers, as rows alone are kept, and maybe none near "
                "a place: use window=None, or outliers=None",
                parameter="window",
            )
        self._check_fusion(self.outliers is not None)

    def _learn_kept(
        self, normal: NormalFeatures, others: LeaveOneOut, run: Run
    ) -> NDArray[np.bool_] | None:
        """Return which cells of the gallery's images are compared with; None: all."""
        counts, self.dropped_ = self._learn_mask(normal), {}
        if self.outliers is None:
            return counts
        with run.watch.stage("outliers"):
            how = (self.outliers, counts, self._how, run.progress)
            found = find_outliers(normal, others, *how)
        found.warn(run.calibrates)
        self.dropped_ = found.dropped
        return found.kept

    def _reach(self, coreset: Coreset, kind: CorrectionKind) -> float | None:
        if self.outliers is not None and coreset.sq_radius == 0:
            return None  # the rows of all cells that were kept: of new images, all
        return super()._reach(coreset, kind)

    def _state(self) -> State:
        state = super()._state()
        dropped = {"dropped": self.dropped_} if self.dropped_ else {}
        return replace(state, values=state.values | dropped)

    def _set_state(self, stored: StoredModel) -> None:
        super()._set_state(stored)
        dropped = stored.config.get("dropped", {})  # earlier versions dropped none
        self.dropped_ = largest_first({str(id_): float(share) for id_, share in dropped.items()})
