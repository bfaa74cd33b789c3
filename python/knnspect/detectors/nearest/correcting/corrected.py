"""What methods that compare have in common: what they compare with after corrections."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from copy import copy
from hashlib import sha256
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from knnspect.calibration import Calibration
from knnspect.corrections import Correction, History, Journal
from knnspect.detectors.deciding import shortened_digests
from knnspect.detectors.known_defects import KnownDefects
from knnspect.detectors.nearest.correcting.scores import AddedScores
from knnspect.detectors.nearest.masked import MaskedDetector
from knnspect.detectors.state import State
from knnspect.errors import StoreError
from knnspect.gallery import Coreset, Gallery, LateFusion
from knnspect.gallery.growing import grown
from knnspect.model_files import StoredModel, is_in
from knnspect.model_files.layout import LINES
from knnspect.packed import packed
from knnspect.parameters import learnt
from knnspect.validation import some_ids
from knnspect.views import StoredImages, Variants

__all__ = ["CorrectedDetector"]


class CorrectedDetector(MaskedDetector):
    """Compares with the normal images that are there after all corrections.

    The features of images that were removed are kept, so that this can be rolled back.

    Attributes
    ----------
    history_ : tuple of Correction
        What was corrected since `fit`, in order.
    """

    searched_: Gallery | Coreset = learnt()
    variants_: Variants | None = learnt()
    #: Of methods that compare whole images, too: in the order of ``searched_.image_ids``.
    pooled_: NDArray[np.float32] = learnt()
    #: Which ids of `searched_` belong to which image.
    _stored: StoredImages = learnt()
    #: `searched_` level by level, once it was asked for.
    _by_level: LateFusion | None = learnt()

    #: `searched_` and `pooled_` with the images that were removed.
    _all: Gallery | Coreset = learnt()
    _all_pooled: NDArray[np.float32] | None = learnt()
    #: The ids of `_all`, which are many.
    _all_ids: tuple[str, ...] = learnt()
    #: What tells this fit from others.
    _fitted: str = learnt()
    _journal: Journal = learnt()
    #: The folder in which each correction is written at once; None for a model in memory.
    _home: Path | None = learnt()
    #: The calibration without the images that were added.
    _calibration_alone: Calibration | None = learnt()
    _added_scores: AddedScores = learnt()
    _known_defects: KnownDefects | None = learnt()

    @property
    def history_(self) -> tuple[Correction, ...]:
        """What was corrected since `fit`, in order."""
        self._check_fitted()
        return self._history.corrections

    @property
    def is_corrected_in_place(self) -> bool:
        """Whether each correction is written to a folder at once; else `save` writes them."""
        self._check_fitted()
        return self._home is not None

    def _follow_backbone(self) -> None:
        super()._follow_backbone()
        self._home = None  # a folder has the features of its own backbone

    @property
    def _history(self) -> History:
        return self._journal.history

    def _keep(
        self,
        searched: Gallery | Coreset,
        variants: Variants | None,
        pooled: NDArray[np.float32] | None = None,
    ) -> None:
        """Take over what a fit has learnt, or a file holds."""
        self._hold(searched)
        self._all_pooled, self.variants_ = pooled, variants
        self._calibration_alone, self._added_scores = None, AddedScores()
        self._fitted, self._home = self._fingerprint(), None
        self._journal = Journal(self._fitted, None, History())
        self._show()

    def _hold(self, searched: Gallery | Coreset, ids: tuple[str, ...] | None = None) -> None:
        self._all, self._all_ids = searched, searched.image_ids if ids is None else ids

    def _fingerprint(self) -> str:
        digests = getattr(self, "_digests", None)
        known = [] if digests is None else digests.tolist()
        about = [self.method, self._all_ids, known, repr(self.backbone)]
        return sha256(json.dumps(about).encode()).hexdigest()[:32]

    def _show(self) -> None:
        """Compare from now on with what holds after all corrections."""
        history, standing = self._history, self._history.standing
        hidden = self._strays() | self._stored_ids(history.hidden)
        self.searched_, self._by_level = _without(self._all, hidden), None
        kept = [id_ not in hidden for id_ in self._all_ids] if hidden else []
        ids = compress(self._all_ids, kept) if hidden else self._all_ids
        self._stored = StoredImages(list(ids), self.variants_)
        if self._all_pooled is not None:
            self.pooled_ = self._all_pooled[kept] if hidden else self._all_pooled
        if self._normal_sizes is not None:
            came = {id_: history.came[id_].size for id_ in history.normal}
            self._normal_sizes = self._normal_sizes.including(came)
        defects = [
            (image, name, part.features)
            for image, name in standing.defects.items()
            for part in history.came[image].rows.values()
        ]
        self._known_defects = KnownDefects(defects) if defects else None
        self._added_scores = self._added_scores.of(standing)
        self._follow()

    def _strays(self) -> set[str]:
        """Return the ids in the gallery of a folder that a killed correction has left there."""
        of_fit = self._journal.images
        if of_fit is None:
            return set()
        came = self._stored_ids(self._history.normal)
        if len(self._all_ids) == len(of_fit) + len(came):
            return set()
        return set(self._all_ids).difference(of_fit, came)

    def _stored_ids(self, images: Iterable[str]) -> set[str]:
        variants = self.variants_
        if variants is None:
            return set(images)
        return {id_ for image in images for id_ in variants.stored_ids(image)}

    # --- Decisions follow. ------------------------------------------------------------------------

    def _follow(self) -> None:
        """Let the images decide that are there, where images that were learnt from do."""
        self.calibration_ = alone = self._calibration_alone
        if alone is not None and alone.kind == "leave one out":
            removed = self._history.standing.removed
            self.calibration_ = alone.following(self._added_scores.scores, removed, self.n_images_)

    def _calibration_of_fit(self) -> Calibration | None:
        return self._calibration_alone if len(self._history) else self.calibration_

    def _forget_calibration(self) -> None:
        super()._forget_calibration()
        self._calibration_alone, self._added_scores = None, AddedScores()

    def _take(self, calibration: Calibration) -> None:
        super()._take(calibration)
        self._calibration_alone = self.calibration_

    def _set_decisions(self, stored: StoredModel) -> None:
        super()._set_decisions(stored)
        self._calibration_alone = self.calibration_

    def _learnt_digests(self, of_fit: NDArray[np.int64]) -> NDArray[np.int64]:
        history = self._history
        images = StoredImages(self._all_ids, self.variants_).images
        images = [image for image in images if image not in history.normal]
        if self._digests_are_in_order and len(images) == len(of_fit):
            of_fit = of_fit[[image not in history.standing.removed for image in images]]
        added = [history.came[image].digest for image in history.standing.added]
        return np.concatenate([of_fit, shortened_digests(added)])

    def thumbnail(self, image: str) -> bytes | None:  # noqa: D102 - the text is inherited
        self._check_fitted()
        came = self._history.came.get(image)
        return super().thumbnail(image) if came is None else came.thumbnail or None

    thumbnail.__doc__ = MaskedDetector.thumbnail.__doc__

    # --- Files. -----------------------------------------------------------------------------------

    def _state_of_corrections(self) -> State:
        """Return what is kept of corrections, and the features of all images."""
        lines = packed(LINES, [self._journal.to_bytes()]) if len(self._history) else {}
        strays, about = self._strays(), {}
        if self._all_pooled is not None:
            kept = [id_ not in strays for id_ in self._all_ids]
            about = {"pooled": self._all_pooled[kept]}
        return State(
            {"fitted": self._fitted},
            lines,
            _without(self._all, strays),
            about,
            self._journal.images,
        )

    def _set_corrections(self, stored: StoredModel) -> None:
        self._fitted = str(stored.config.get("fitted", ""))
        journal = stored.journal
        self._journal = Journal(self._fitted, None, History()) if journal is None else journal
        history = self._history
        if isinstance(self._all, Coreset):
            rows = {
                id_: (part.cells, part.features)
                for image in history.normal
                for id_, part in history.came[image].rows.items()
                if id_ not in self._all_ids
            }
            self._hold(grown(self._all, rows) if rows else self._all)
        lacking = self._stored_ids(history.normal).difference(self._all_ids)
        if lacking:
            raise StoreError(
                f"{stored.path}: images that were added are not there any more: "
                f"{some_ids(sorted(lacking))}; fit it again, with the same folder, and save it",
                path=stored.path,
            )
        self._home = stored.path.absolute() if is_in(stored.path, self._all) else None
        self._show()


def _without(searched: Gallery | Coreset, ids: Collection[str]) -> Gallery | Coreset:
    """Return what is searched without some images, of which some may not be there."""
    there = [id_ for id_ in searched.image_ids if id_ in ids] if ids else []
    if not there:
        return searched
    left = copy(searched)
    left.remove(there)
    return left
