"""Judging views of an image, each by a detector of its own, and deciding once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np

from knnspect.calibration import Calibration
from knnspect.calibration.joint import JointCalibration
from knnspect.data import ImageReader, ImageSource, open_to_judge
from knnspect.data.decoded import ImageArray
from knnspect.data.loading import OnBad
from knnspect.data.sources import ImageItem
from knnspect.detectors.composed.subject import Shown, Subject, in_chunks, read_all
from knnspect.detectors.judged_file import JudgedFile
from knnspect.detectors.judging import Judge
from knnspect.detectors.prediction import Prediction
from knnspect.errors import CalibrationError, ImageError
from knnspect.features.reading import Skipped
from knnspect.progress import Progress
from knnspect.validation import check_count
from knnspect.views import PlacedView

__all__ = ["Once", "ViewsJudge", "added_seconds"]


class ViewsJudge(Judge):
    """Judges images by several views, and decides by all of them."""

    #: The word for it in files.
    method: ClassVar[str]

    # --- What a kind brings. ----------------------------------------------------------------------

    @abstractmethod
    def _shown(self, name: str, item: ImageItem, image: ImageArray) -> Shown:
        """Return what a view shows of a picture that was read; raise an ImageError if nothing."""

    def _subjects(self, source: ImageSource) -> Iterator[Subject]:
        """Yield what is judged as one; by default each image."""
        return (Subject(item.id, {"": item}) for item in source)

    def _n_subjects(self, source: ImageSource) -> int | None:
        """Return how many there are; None where only reading them tells."""
        return source.n_images

    def _item_of(self, name: str, subject: Subject) -> ImageItem | None:  # noqa: ARG002
        """Return the picture that a view is of; None if the subject is judged without the view."""
        return subject.pictures[""]

    def _together(
        self,
        predictions: Mapping[str, Prediction],
        joint: JointCalibration,
        strongest: str,  # noqa: ARG002 - some kinds read it
    ) -> Prediction:
        """Return one prediction of several views; `strongest` is the one that decides."""
        maps = [joint.of_maps(name, one.map) for name, one in predictions.items()]
        first = next(iter(predictions.values()))
        return replace(first, map=np.maximum.reduce(maps).astype(np.float32))

    # --- What all have. ---------------------------------------------------------------------------

    @property
    @abstractmethod
    def _judges(self) -> Mapping[str, Judge]:
        """The fitted detectors, by the names of views."""

    @property
    @abstractmethod
    def _rate(self) -> float | None:
        """The false-alarm rate that is asked for."""

    @abstractmethod
    def _valid_calibration(self) -> tuple[Calibration | None, str]:
        """Return the calibration of all views, or None and why there is none."""

    def iter_predict(  # noqa: D102 - the text is inherited
        self,
        images: object,
        *,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool | OnBad = False,
        progress: bool = False,
        keep_pictures: bool = False,
    ) -> Iterator[Prediction]:
        self._check_fitted()
        self.check_params()
        check_count("batch_size", batch_size)
        check_count("n_workers", n_workers, minimum=0)
        self._check_decides()
        source = open_to_judge(self.backbone.opened(images))
        skipped = Skipped(skip_bad) if skip_bad else None
        return self._iter_predict(source, batch_size, n_workers, skipped, progress, keep_pictures)

    iter_predict.__doc__ = Judge.iter_predict.__doc__

    def _iter_predict(
        self,
        source: ImageSource,
        batch_size: int,
        n_workers: int,
        skipped: Skipped | None,
        progress: bool,
        keep_pictures: bool,
    ) -> Iterator[Prediction]:
        calibration, _ = self._valid_calibration()
        for each in self._judges.values():  # those within others decide at their share of the rate
            if isinstance(each, ViewsJudge):
                each.set_params(false_alarm_rate=self._share(calibration))
        reader, n_judged, self.seconds_ = self._reader(), 0, {}
        subjects = self._subjects(source)
        with Progress("judging", self._n_subjects(source), progress) as report:
            for chunk in in_chunks(subjects, batch_size):
                kept = []
                for subject, read in zip(chunk, read_all(chunk, reader, n_workers), strict=True):
                    if not isinstance(read, ImageError):
                        kept.append(read)
                    elif skipped is None:
                        raise read
                    else:
                        skipped(subject.id, read)
                reader.warn(at_end=False)
                for prediction in self._judged(kept, calibration, skipped, batch_size):
                    n_judged += 1
                    picture = prediction.picture if keep_pictures else None
                    rate = self._rate
                    yield replace(prediction, picture=picture, false_alarm_rate=rate)
                report.advance(len(chunk))
        reader.warn()
        if n_judged == 0:
            n = 0 if skipped is None else skipped.n
            raise ImageError(f"images: none of the {n} images could be used")

    def _judged(
        self,
        subjects: list[Subject],
        calibration: Calibration | None,
        skipped: Skipped | None,
        batch_size: int,
    ) -> Iterator[Prediction]:
        """Judge subjects that are in memory, in order."""
        shown: dict[str, dict[str, Shown]] = {name: {} for name in self._judges}
        usable = []
        for subject in subjects:
            try:
                of_views = self._views_of(subject)
            except ImageError as error:
                if skipped is None:
                    raise
                skipped(subject.id, error)
                continue
            usable.append(subject)
            for name, of_view in of_views.items():
                shown[name][subject.id] = of_view
        found: dict[str, dict[str, Prediction]] = {}
        for name, of_subjects in shown.items():
            frames = {id_: s.frame for id_, s in of_subjects.items() if s.frame is not None}
            judge = self._judges[name]
            judged = (
                judge.iter_predict(frames, batch_size=batch_size, n_workers=0) if frames else ()
            )
            for one in judged:
                found.setdefault(one.id, {})[name] = one
            for stage, seconds in judge.seconds_.items() if frames else ():
                self.seconds_[stage] = self.seconds_.get(stage, 0.0) + seconds
        for subject in usable:
            predictions = {}
            for name, one in found.get(subject.id, {}).items():
                item = self._item_of(name, subject)
                predictions[name] = self._brought_back(one, item, shown[name][subject.id])
            of_subject = {n: each[subject.id] for n, each in shown.items() if subject.id in each}
            yield self._decided(subject, of_subject, predictions, calibration)

    def _views_of(self, subject: Subject) -> dict[str, Shown]:
        """Return what the views show of a subject."""
        found = {}
        for name in self._judges:
            item = self._item_of(name, subject)
            if item is not None:
                found[name] = self._shown(name, item, item.load())
        return found

    def _brought_back(
        self, prediction: Prediction, item: ImageItem | None, shown: Shown
    ) -> Prediction:
        """Return the prediction of a frame as one of the picture that it came from."""
        picture = None if item is None else self._reader().picture(item.load())
        file = None if item is None or item.file is None else JudgedFile.of(item.file)
        return replace(_in_picture(prediction, shown), picture=picture, file=file)

    def _decided(
        self,
        subject: Subject,
        shown: Mapping[str, Shown],  # noqa: ARG002 - some kinds read it
        predictions: Mapping[str, Prediction],
        calibration: Calibration | None,
    ) -> Prediction:
        """Return one prediction of all views of a subject."""
        if not isinstance(calibration, JointCalibration):
            ((name, only),) = predictions.items()
            return replace(only, views={name: only})
        # Each at its share of the rate, so that one view is anomalous where the whole is.
        rate = self._share(calibration)
        predictions = {n: replace(p, false_alarm_rate=rate) for n, p in predictions.items()}
        scores = {name: calibration.of_scores(name, p.score) for name, p in predictions.items()}
        strongest = max(scores, key=lambda name: scores[name])
        return replace(
            self._together(predictions, calibration, strongest),
            id=subject.id,
            score=scores[strongest],
            neighbors=None,
            images=(),
            known=None,
            variants=None,
            chosen_variants=None,
            calibration=calibration,
            uncalibrated="",
            views=predictions,
        )

    def _share(self, calibration: Calibration | None) -> float | None:
        """Return the false-alarm rate of each view."""
        if calibration is None or len(self._judges) == 1:
            return self._rate
        return calibration.rate(self._rate) / len(self._judges)

    def _reader(self) -> ImageReader:
        """Return what reads images that are judged."""
        return self.backbone.reader()

    def _check_decides(self) -> None:
        """Raise a CalibrationError if views cannot be compared, or the rate is too small."""
        calibration, reason = self._valid_calibration()
        if calibration is not None:
            calibration.rate(self._rate)
        elif len(self._judges) > 1 or self._rate is not None:
            raise CalibrationError(
                f"{self.method}: expected a calibration of each view, by which they are compared: "
                f"{reason}"
            )


class Once:
    """Says of each image only once that it is left out, though several views leave it out."""

    def __init__(self, skip_bad: bool | OnBad) -> None:
        self._tell = Skipped(skip_bad)
        self._told: set[str] = set()

    def __call__(self, id_: str, error: ImageError) -> None:
        """Say so, if it was not said before."""
        if id_ not in self._told:
            self._told.add(id_)
            self._tell(id_, error)


def added_seconds(judges: Iterable[Judge]) -> dict[str, float]:
    """Return the seconds that each stage took last, of several detectors together."""
    found: dict[str, float] = {}
    for each in judges:
        for stage, seconds in each.seconds_.items():
            found[stage] = found.get(stage, 0.0) + seconds
    return found


def _in_picture(prediction: Prediction, shown: Shown) -> Prediction:
    """Return the prediction of a frame with its map, places and views in the picture it is of."""
    view, map_ = shown.view, prediction.map
    if view is None:
        return prediction
    # No pixel beside the frame is anomalous, also where scores are below 0.
    outside = min(0.0, float(map_.min()))
    inside = prediction.placement
    return replace(
        prediction,
        map=view.to_image(map_, outside),
        placement=None if inside is None else PlacedView.of(inside, view),
        views={name: _in_picture(one, shown) for name, one in prediction.views.items()},
    )
