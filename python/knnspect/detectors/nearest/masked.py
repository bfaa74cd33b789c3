"""What methods have in common that leave out cells by a mask."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from knnspect.constraints import Optional
from knnspect.detectors.nearest.compared import Counts
from knnspect.detectors.nearest.illustrated import IllustratedDetector
from knnspect.detectors.nearest.masking import CellMask, check_some_count
from knnspect.detectors.state import State
from knnspect.errors import ParameterError
from knnspect.features import Features
from knnspect.model_files import StoredModel
from knnspect.normal_features import NormalFeatures
from knnspect.parameters import learnt, parameter
from knnspect.search import Searchable
from knnspect.views import Region
from knnspect.views.constraints import IsMask
from knnspect.views.foreground import Foreground

__all__ = ["MaskedDetector"]

_MaskedBy = TypeVar("_MaskedBy", Foreground, Region)


class MaskedDetector(IllustratedDetector):
    """Leaves out the cells of images that do not count.

    Parameters
    ----------
    mask : "pca", path-like, or ndarray of bool or uint8, shape (height, width), optional
        What of an image counts; other cells are neither stored nor compared with, and have the
        score 0. With ``"pca"`` the part alone, told from the background by the first principal
        component of the cells of normal images (`Foreground`): for parts on a background, not for
        textures, of which it hides a half. Or a region, the same one in all images, as under a
        fixed camera (`Region`): a file, such as a PNG, whose pixels count that are neither black
        nor transparent, or an array whose values count that are not 0. Images have its size, or its
        proportions; a cell counts if at least half of its pixels do. SPADE's image stage sees whole
        images, so that its ``score="image"`` is refused then. None: all.

    Attributes
    ----------
    foreground_ : Foreground or None
        What tells the part from the background, with ``mask="pca"``.
    region_ : Region or None
        What counts, with a mask that was given.
    """

    mask: Literal["pca"] | str | os.PathLike[str] | NDArray[Any] | Region | None = parameter(
        Optional(IsMask()), default=None
    )

    #: Whether the method's own score is that of whole images, whatever a mask says.
    _own_score_sees_all: ClassVar[bool] = False
    #: Which cells count; None: all.
    _cell_mask: CellMask | None = learnt()

    @property
    def foreground_(self) -> Foreground | None:
        """What tells the part from the background, with ``mask="pca"``."""
        return self._masked_by(Foreground)

    @property
    def region_(self) -> Region | None:
        """What counts, with a mask that was given."""
        return self._masked_by(Region)

    def _masked_by(self, kind: type[_MaskedBy]) -> _MaskedBy | None:
        self._check_fitted()
        by = None if self._cell_mask is None else self._cell_mask.by
        return by if isinstance(by, kind) else None

    def _check_score(self, has_mask: bool) -> None:
        """Raise a ParameterError if the score would be that of masked pixels, too."""
        if has_mask and self._own_score_sees_all and self.score == "image":
            raise ParameterError(
                'score: expected "map" or "top" with a mask, as the image stage sees whole '
                'images, got "image"',
                parameter="score",
            )

    def _learn_mask(self, normal: NormalFeatures) -> NDArray[np.bool_] | None:
        """Return which cells of the gallery's images count, image by image; None: all."""
        self._cell_mask = None
        if self.mask is None:
            return None
        self._cell_mask = CellMask.learn(self.mask, normal)
        counts = self._cell_mask.of_normal(normal, normal.gallery.ids)
        check_some_count(counts)
        return counts

    def _counts_of_normal(self, normal: NormalFeatures, id_: str) -> Counts:
        """Return which cells of a normal image count; None for all."""
        return None if self._cell_mask is None else self._cell_mask.of_normal(normal, [id_])[0]

    def _counts_of(self, features: Features) -> Sequence[Counts]:
        """Return which cells of each image that is judged count; None for all."""
        if self._cell_mask is None:
            return [None] * len(features.ids)
        return list(self._cell_mask.of_judged(features))

    def _state_of_mask(self) -> State:
        mask = self._cell_mask
        if mask is None:
            return State({} if self.mask is None else {"mask": None})
        # The parameter may have been changed after `fit`.
        saved = self.parameters["mask"].constraint.saved(mask.parameter)
        return State({"mask": saved}, mask.arrays())

    def _set_mask(self, stored: StoredModel, searched: Searchable) -> None:
        n_features = sum(channels for _, _, channels in searched.shapes)
        self._cell_mask = CellMask.of_model(self.mask, stored, n_features, searched.upsample)
