"""How a correction is made: images are read, their features kept, and what was done written."""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from bisect import bisect_left, insort
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from hashlib import sha256
from itertools import count
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from knnspect.calibration import Calibration
from knnspect.corrections import Correction, CorrectionKind, Rows
from knnspect.data import ImageItem, ImageSource, open_to_judge
from knnspect.detectors.nearest.correcting.corrected import CorrectedDetector
from knnspect.detectors.nearest.correcting.home import add_to, writing
from knnspect.detectors.nearest.correcting.rows import added_images, rows_taken
from knnspect.detectors.nearest.correcting.scores import N_RECENT, AddedScores, Score
from knnspect.detectors.prediction import Prediction
from knnspect.errors import ImageError, ParameterError
from knnspect.gallery import Coreset, Gallery
from knnspect.gallery.growing import grown, sq_reach
from knnspect.model_files.layout import CORRECTIONS
from knnspect.normal_features import NormalFeatures, Run, extract_in_memory
from knnspect.normal_features.checks import evenly_spaced
from knnspect.validation import check_ids

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CommittingDetector"]

#: Images of one correction that decide from then on, at most, evenly spaced.
_MOST_SCORED = 200


class CommittingDetector(CorrectedDetector):
    """Changes what it compares with, all at once or not at all."""

    @abstractmethod
    def _score_of(self, image: str, normal: NormalFeatures) -> Score | None:
        """Return score and largest map value of an added image, compared with all others."""

    @abstractmethod
    def _sq_distance_of(self, score: float) -> float:
        """Return the squared distance that gives a cell this score, away from the border."""

    @property
    @abstractmethod
    def _how(self) -> dict[str, Any]:
        """How all searches are made."""

    # --- Images come. -----------------------------------------------------------------------------

    def _read(self, source: ImageSource, run: Run) -> tuple[NormalFeatures, dict[str, str]]:
        """Return the features of images, and the files that they came from."""
        self._check_fitted()
        self.check_params()
        self._check_against_learnt()
        files: dict[str, str] = {}
        strays = self._strays()
        items = source if source.n_images is None else list(source)
        if isinstance(items, list):  # before the work
            for item in items:
                self._refuse_known(item, strays)

        def named() -> Iterator[ImageItem]:
            free = (f"{number:06d}" for number in count())
            for item in items:
                self._refuse_known(item, strays)
                if _is_numbered(item):
                    item = replace(
                        item, id=next(id_ for id_ in free if not self._is_known(id_, strays))
                    )
                files[item.id] = "" if item.file is None else os.path.abspath(item.file)  # noqa: PTH100
                yield item

        run.variants, run.n_thumbnails = self.variants_, self.thumbnails
        self.seconds_ = run.watch.seconds
        images = ImageSource(named(), source.n_images)
        gallery = Gallery(self._all.upsample)
        return extract_in_memory(self.backbone, images, gallery, run), files

    def _read_judged(
        self, prediction: Prediction, image: object, id_: str | None
    ) -> tuple[NormalFeatures, dict[str, str]]:
        """Return the same of an image that was judged."""
        self._check_fitted()
        if image is None and prediction.file is not None:
            prediction.file.check(prediction.id)
            image = prediction.file.path
        image = prediction.picture if image is None else image
        if image is None:
            raise ImageError(
                f"image {prediction.id}: it was no file, and predictions do not keep images: give "
                "the image that was judged, too",
                image=prediction.id,
            )
        (item,) = open_to_judge([image])
        item = replace(item, id=prediction.id if id_ is None else check_ids([id_], "id")[0])
        return self._read(ImageSource([item], 1), Run(batch_size=1, n_workers=0))

    def _refuse_known(self, item: ImageItem, strays: Collection[str]) -> None:
        ids = (item.id, *self._stored_ids([item.id]))
        if not _is_numbered(item) and any(self._is_known(id_, strays) for id_ in ids):
            raise ParameterError(
                f"image {item.id}: the model has, or had, another image of this id: give it "
                "another",
                image=item.id,
            )

    def _is_known(self, id_: str, strays: Collection[str]) -> bool:
        """Return whether an id stands, or stood, for an image: not what a killed process left."""
        if id_ in self._history.came:
            return True
        place = bisect_left(self._all_ids, id_)
        return self._all_ids[place : place + 1] == (id_,) and id_ not in strays

    # --- What is kept of them. --------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[Gallery | None]:
        """Keep other processes from correcting the model; see `writing`."""
        with writing(self._home) as gallery:
            if self._home is not None:
                # Before features are written: so that what is there without a line is known.
                ids = None if isinstance(self._all, Coreset) else self._all_ids
                self._journal = self._journal.begun(self._home / CORRECTIONS, ids)
            yield gallery

    def _bring(
        self,
        kind: CorrectionKind,
        normal: NormalFeatures,
        files: Mapping[str, str],
        found: Mapping[str, Score] | None = None,
    ) -> None:
        """Learn from images; `found` are scores of theirs that are known already."""
        with self._writing() as gallery:
            changed = copy(self)
            rows = changed._learn_more(normal, gallery, kind)
            correction = self._next(kind, added=added_images(normal, files, rows))
            changed._journal = replace(self._journal, history=self._history.with_(correction))
            changed._show()
            changed._check_against_learnt()
            scores = changed._scores_of(normal, found or {})
            latest = list(scores)[-N_RECENT:]
            changed._added_scores = changed._added_scores.after(
                {image: normal.of_image(image) for image in latest}
            )
            self._commit(replace(correction, scores=scores), changed)

    def _learn_more(
        self, normal: NormalFeatures, folder: Gallery | None, kind: CorrectionKind
    ) -> dict[str, Rows]:
        """Keep the features of images; return the rows that a coreset takes."""
        before, ids, strays = self._all, self._all_ids, self._strays()
        rows: dict[str, Rows] = {}
        if isinstance(before, Coreset):
            searched = cast("Coreset", self.searched_)
            counts_of = partial(self._counts_of_normal, normal)
            reach = self._reach(before, kind)
            rows = rows_taken(searched, normal, counts_of, reach, **self._how)
            self._hold(grown(before, {k: (v.cells, v.features) for k, v in rows.items()}))
        elif folder is None or self._home is None:
            more = copy(before)
            more.add(normal.gallery.pyramid(), normal.gallery.ids)
            self._hold(more)
        else:
            add_to(folder, self._home, normal)
            left = [id_ for id_ in ids if id_ not in strays] if strays else list(ids)
            for id_ in (*strays.difference(normal.gallery.ids), *normal.gallery.ids):
                insort(left, id_)
            self._hold(folder, tuple(left))  # as the folder has them, which are many
        if self._all_pooled is not None:
            new = dict(zip(normal.gallery.ids, normal.pooled, strict=True))
            is_new = np.zeros(len(self._all_ids), bool)
            is_new[[bisect_left(self._all_ids, id_) for id_ in new]] = True
            pooled = np.empty((len(is_new), normal.pooled.shape[1]), np.float32)
            # What a killed process has left of a new image is replaced.
            kept = self._all_pooled[[id_ not in new for id_ in ids]] if strays else self._all_pooled
            pooled[~is_new], pooled[is_new] = kept, normal.pooled
            self._all_pooled = pooled
        return rows

    def _reach(self, coreset: Coreset, kind: CorrectionKind) -> float | None:
        """Return the squared distance from which on rows of new images are taken; None: all are."""
        if self._cell_mask is not None and coreset.sq_radius == 0:
            return None  # the rows of all cells that a mask leaves
        reach = sq_reach(coreset, **self._how)
        calibration, _ = self._valid_calibration()
        if kind == "accept" and calibration is not None:
            # None of its cells is to score more than the thresholds.
            rate = self._possible_rate(calibration)
            lowest = min(calibration.threshold(rate), calibration.pixel_threshold(rate))
            reach = min(reach, self._sq_distance_of(lowest))
        return reach

    def _next(self, kind: CorrectionKind, **what: Any) -> Correction:
        """Return the next correction of the history."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        what.setdefault("images", tuple(what.get("added", ())))
        return Correction(len(self._history) + 1, kind, now, **what)

    def _commit(self, correction: Correction, prepared: Self | None = None) -> None:
        """Take a correction over, in the folder of the model first, if it has one."""
        changed = copy(self) if prepared is None else prepared
        changed._journal = replace(self._journal, history=self._history.with_(correction))
        if correction.kind == "rollback":
            changed._added_scores = AddedScores()  # those of then
        if prepared is None:
            changed._show()
            changed._check_against_learnt()
        else:  # but for the scores
            changed._added_scores = changed._added_scores.of(changed._history.standing)
            changed._follow()
        if self._home is not None:
            changed._journal = self._journal.append(self._home / CORRECTIONS, correction)
        vars(self).update(vars(changed))

    # --- Decisions follow. ------------------------------------------------------------------------

    def _scores_of(self, normal: NormalFeatures, found: Mapping[str, Score]) -> dict[str, Score]:
        """Return the scores of added images that are to decide, each compared with all others.

        Where some of the images of `fit` decide, as many of those that come do.
        """
        alone = self._calibration_alone
        if alone is None or alone.kind != "leave one out" or super()._valid_calibration()[1]:
            return {}
        share = len(alone) / alone.n_images
        chosen = [image for image in normal.stored.images if _drawn(image) < share]
        scores = {
            image: found[image] if image in found else self._score_of(image, normal.of_image(image))
            for image in (chosen[place] for place in evenly_spaced(len(chosen), _MOST_SCORED))
        }
        return {image: score for image, score in scores.items() if score is not None}

    def _valid_calibration(self) -> tuple[Calibration | None, str]:
        self._settle()
        return super()._valid_calibration()

    def _settle(self) -> None:
        """Find the scores of added images anew that lie above the threshold, maybe without need."""
        while self._added_scores.outdated and (calibration := self.calibration_) is not None:
            rate = self._possible_rate(calibration)
            limits = calibration.threshold(rate), calibration.pixel_threshold(rate)
            image = self._added_scores.above(limits)
            if image is None:
                return
            self._added_scores = self._added_scores.renewed(image, self._score_of)
            self._follow()

    def _possible_rate(self, calibration: Calibration) -> float:
        """Return the false-alarm rate that is asked for, or the smallest that can be promised."""
        return calibration.rate(max(self.false_alarm_rate or 0, calibration.smallest_rate) or None)


def _is_numbered(item: ImageItem) -> bool:
    """Return whether an image has no name, and was called by its place among others."""
    return item.file is None and re.fullmatch(r"\d{6,}", item.id) is not None


def _drawn(image: str) -> float:
    """Return a number in [0, 1) that depends on an id alone, and looks random."""
    digest = sha256(image.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "little") / 2**56
