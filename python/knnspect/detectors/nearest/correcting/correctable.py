"""Corrections of fitted models: images that come, go, or are remembered as defects."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence

from knnspect.data import open_to_learn
from knnspect.data.loading import OnBad
from knnspect.detectors.nearest.correcting.committing import CommittingDetector
from knnspect.detectors.nearest.correcting.home import bring_journal, warn_of_corrections, writing
from knnspect.detectors.nearest.correcting.rows import added_images, defect_rows
from knnspect.detectors.nearest.correcting.scores import Score
from knnspect.detectors.prediction import Prediction
from knnspect.errors import ParameterError
from knnspect.files import check_path
from knnspect.model_files import is_in
from knnspect.normal_features import Run
from knnspect.normal_features.folder import is_features_folder
from knnspect.validation import check_ids, some_ids

__all__ = ["CorrectableDetector"]


class CorrectableDetector(CommittingDetector):
    """Learns from more images, or from fewer, without being fitted again.

    A correction takes effect at once, and changes all or nothing. A model in a folder, one that was
    saved to or loaded from the `folder` of `fit`, is corrected there: when the method returns the
    correction is on the disk, and a crash at any moment leaves the model as it was before or after.
    One process at a time may correct it. Other models keep their corrections in memory until
    `save`.

    What follows: pooled features, thumbnails, digests and sizes; a coreset, which takes the rows of
    an image that lie farther from its own than its covering radius, so that this never grows (of an
    accepted image also nearer ones, so that it is judged normal); and
    the calibration, if images decide that were learnt from: those that come are compared with all
    others, those that go do not decide any more. The scores of the others are not found anew. They
    are upper bounds after images came, and may be too low after images went. Images that were held
    out to calibrate stay.
    """

    def add(
        self,
        images: object,
        *,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool | OnBad = False,
        progress: bool = False,
    ) -> list[str]:
        """Learn from more normal images.

        Parameters
        ----------
        images, batch_size, n_workers, skip_bad, progress
            As in `fit`. All features are in memory meanwhile. Arrays without a name get the next
            free numbers.

        Returns
        -------
        list of str
            Their ids.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ParameterError
            If an id is, or was, that of another image of the model.
        ImageError
            If an image cannot be used, or there is none.
        StoreError
            If the model's folder is being written or was corrected by another process, or cannot
            be written.
        """
        self._check_fitted()
        run = Run(batch_size, n_workers, skip_bad, progress)
        normal, files = self._read(open_to_learn(images), run)
        self._bring("add", normal, files)
        return [image for image in files if image in normal.digests]

    def accept(
        self,
        prediction: Prediction,
        image: object = None,
        *,
        id: str | None = None,  # noqa: A002 - as in Prediction
    ) -> str:
        """Learn from an image that was judged: it is normal, whatever was said of it.

        Parameters
        ----------
        prediction : Prediction
            What was said of it.
        image : file, array or PIL image, optional
            The image that was judged. By default it is read again from its file, or taken from
            ``prediction.picture``.
        id : str, optional
            What it is to be called in the model; ``prediction.id`` by default, or for an array
            without a name the next free number.

        Returns
        -------
        str
            Its id.

        Raises
        ------
        NotFittedError, ParameterError, StoreError
            As `add`.
        ImageError
            If there is no image, or its file was changed since it was judged.
        """
        normal, files = self._read_judged(prediction, image, id)
        scores: dict[str, Score] = {}
        # It was compared with all other images, if this model judged it as it is now.
        calibration = prediction.calibration
        if calibration is not None and calibration is self.calibration_ and not self._query_views:
            scores = {normal.stored.images[0]: (prediction.score, float(prediction.map.max()))}
        self._bring("accept", normal, files, found=scores)
        return normal.stored.images[0]

    def reject(
        self,
        prediction: Prediction,
        name: str = "defect",
        image: object = None,
        *,
        id: str | None = None,  # noqa: A002
    ) -> str:
        """Remember what is anomalous in an image that was judged.

        Images that are judged later have a `Prediction.known_defect` where they look more like
        it than like anything normal. Nothing else of predictions changes. `remove` forgets it.

        Parameters
        ----------
        prediction : Prediction
            What was said of it. Its anomalous regions are remembered; without any, or without a
            calibration, the place of its largest value.
        name : str, default "defect"
            What the defect is called; several may have one name.
        image, id
            As in `accept`.

        Returns
        -------
        str
            Its id.

        Raises
        ------
        NotFittedError, ParameterError, StoreError, ImageError
            As `accept`. With ``fusion="levels"`` defects are not compared: a ParameterError.
        """
        if not isinstance(name, str) or not name.strip():
            raise ParameterError(f"name: expected a name, got {name!r}", parameter="name")
        self._check_defects()
        normal, files = self._read_judged(prediction, image, id)
        (image_id,) = normal.stored.images
        rows = {image_id: defect_rows(prediction, normal)}
        with self._writing():
            added = added_images(normal, files, rows)
            self._commit(self._next("reject", added=added, name=name))
        return image_id

    def remove(self, ids: Sequence[str]) -> None:
        """Compare with some images no more, or forget defects that were rejected.

        Their features are kept for `rollback`. An id that was removed is not free for another
        image.

        Parameters
        ----------
        ids : sequence of str
            Normal images, such as ``Evidence.image``, or rejected ones.

        Raises
        ------
        NotFittedError, StoreError
            As `add`.
        ParameterError
            If an id is unknown, or no normal image would be left, or too few for a parameter.
        """
        self._check_fitted()
        gone = check_ids(ids, "ids")
        known = {*self._stored.images, *self._history.standing.defects}
        unknown = [id_ for id_ in gone if id_ not in known]
        if unknown:
            raise ParameterError(
                f"ids: expected images of the model, got {some_ids(unknown)}, unknown or removed",
                parameter="ids",
            )
        if not gone:
            raise ParameterError("ids: expected at least one image, got none", parameter="ids")
        if set(self._stored.images) <= set(gone):
            raise ParameterError(
                "ids: expected to leave at least one normal image, these are all", parameter="ids"
            )
        with self._writing():
            self._commit(self._next("remove", images=tuple(gone)))

    def rollback(self, to: int) -> None:
        """Make the model what it was after a correction.

        This is itself a correction, which can be rolled back.

        Parameters
        ----------
        to : int
            The number of the correction (`history_`); 0: as it was fitted.

        Raises
        ------
        NotFittedError, StoreError
            As `add`.
        ParameterError, DTypeError
            If there were not so many corrections.
        """
        self._check_fitted()
        self._history.at(to)
        with self._writing():
            self._commit(self._next("rollback", to=to))

    def save(self, path: str | os.PathLike[str]) -> None:  # noqa: D102 - the text is inherited
        self._check_fitted()
        folder = check_path(path)
        if not is_features_folder(folder):
            super().save(folder)
            return
        with writing(folder):
            is_home = is_in(folder, self._all)
            was_home = self._home is not None and self._home.samefile(folder)
            self._journal = bring_journal(self._journal, folder, is_home, was_home)
            super().save(folder)
            self._home = folder.absolute() if is_home else self._home

    save.__doc__ = CommittingDetector.save.__doc__

    def _prepare(self, run: Run) -> None:
        super()._prepare(run)
        if run.folder is not None:
            warn_of_corrections(check_path(run.folder))

    @abstractmethod
    def _check_defects(self) -> None:
        """Raise a ParameterError if images are not compared with defects."""
