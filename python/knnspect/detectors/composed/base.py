"""What composed detectors have in common: views, fitting, judging, one decision an image."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeAlias

from numpy.typing import NDArray

from knnspect import _core
from knnspect.calibration import Calibration
from knnspect.calibration.blocks import Blocks
from knnspect.calibration.joint import JointCalibration
from knnspect.constraints import Bad, Constraint, Optional, Positive
from knnspect.data import ImageSource, open_to_learn
from knnspect.data.loading import OnBad
from knnspect.detectors.base import Detector
from knnspect.detectors.composed.judging import Once, ViewsJudge, added_seconds
from knnspect.detectors.composed.parts import VIEWS, packed_files
from knnspect.detectors.composed.subject import SubjectSource
from knnspect.detectors.nearest.spade import Spade
from knnspect.errors import DTypeError, StoreError
from knnspect.features import Extractor
from knnspect.files import check_path, is_folder
from knnspect.model_files import write_model
from knnspect.parameters import learnt, parameter

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AnyDetector", "Composed"]


class _Lacking:
    """What a detector of features can, and a composed one cannot."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, detector: Composed | None, kind: type[Composed]) -> NoReturn:
        raise AttributeError(
            f"a composed detector ({kind.method}) cannot {self._name}: fit it anew"
        )


class IsDetector(Constraint):
    """A detector, composed or not."""

    def check(self, name: str, value: Any) -> None:
        """Check the type, and the parameters."""
        if not isinstance(value, (Detector, Composed)):
            raise DTypeError(f"{name}: expected a detector, got {type(value).__name__}")
        value.check_params()

    def bad_values(self) -> Iterator[Bad]:
        """Yield a word and None."""
        yield from ((value, DTypeError) for value in ("spade", None))


class Composed(ViewsJudge):
    """Judges several views of an image, each by a detector of its own, and decides once.

    The detectors are of one kind, have the same parameters, and share one backbone. An image of one
    view has the score, the map and the p-value of that view. Of several views the smallest p-value
    counts, times their number, which keeps the false-alarm rate however they depend on each other;
    scores and maps are then in a common unit, see `knnspect.calibration.joint.JointCalibration`.

    Parameters
    ----------
    detector : Detector or Composed, optional
        What judges each view; it is not fitted itself. ``Spade()`` by default.
    false_alarm_rate : float, optional
        The share of normal images that may be called anomalous; that of `detector` by default. Of m
        views, each calibrated with n normal images, the smallest is m / (n + 1).

    Attributes
    ----------
    views_ : dict of str to Detector
        The fitted detectors, by the names of views.
    """

    detector: AnyDetector = parameter(IsDetector(), default_factory=Spade, kw_only=False)
    false_alarm_rate: float | None = parameter(
        Optional(Positive(below=1.0)), default=None, changes_training=False
    )

    _mark_of_fitted: ClassVar[str] = "views_"

    views_: dict[str, AnyDetector] = learnt()

    # --- What a kind brings. ----------------------------------------------------------------------

    @abstractmethod
    def _names(self, source: ImageSource) -> list[str]:
        """Return the names of the views, which the images to be learnt from may decide."""

    def check_views(self, names: Sequence[str]) -> None:
        """Raise a ParameterError if views of a file are not those that the parameters say."""

    def _check_to_learn(self, source: ImageSource, names: Sequence[str]) -> None:
        """Raise an ImageError if something to be learnt from is not there in all views."""

    def _unfitted(self, name: str) -> AnyDetector:  # noqa: ARG002
        """Return the detector that is to judge a view."""
        kept = self.detector.get_params(deep=False)
        made = type(self.detector)(**kept)
        return made.set_params(false_alarm_rate=None)

    # --- What all have. ---------------------------------------------------------------------------

    @property
    def backbone(self) -> Extractor:
        """What makes the features."""
        return self.detector.backbone

    @property
    def n_images_(self) -> int:
        """Number of normal images that were learnt from; the most of any view."""
        self._check_fitted()
        return max(each.n_images_ for each in self.views_.values())

    @property
    def nbytes_(self) -> int:
        """Bytes of all that was learnt."""
        self._check_fitted()
        return sum(each.nbytes_ for each in self.views_.values())

    @property
    def score(self) -> str:
        """How the score of a view is found."""
        return self.detector.score

    @property
    def leaves_(self) -> list[Detector]:
        """The fitted detectors that compose it, also those in others."""
        self._check_fitted()
        found: list[Detector] = []
        for each in self.views_.values():
            found += each.leaves_ if isinstance(each, Composed) else [each]
        return found

    @property
    def normal_map_max_(self) -> float:
        """The map value from which on few normal images have a pixel."""
        self._check_fitted()
        calibration = self.calibration_
        if isinstance(calibration, JointCalibration):
            return calibration.strongest_normal
        return next(iter(self.views_.values())).normal_map_max_

    @property
    def calibration_(self) -> Calibration | None:
        """The scores of normal images, of all views together; None where a view has none."""
        return self._valid_calibration()[0]

    @property
    def uncalibrated(self) -> str:
        """Why there is no calibration that the present settings give; empty if there is one."""
        return self._valid_calibration()[1]

    @property
    def _judges(self) -> Mapping[str, AnyDetector]:
        return self.views_

    @property
    def _rate(self) -> float | None:
        """The false-alarm rate that is asked for."""
        own = self.false_alarm_rate
        return self.detector.false_alarm_rate if own is None else own

    def _valid_calibration(self) -> tuple[Calibration | None, str]:
        self._check_fitted()
        found = {}
        for name, each in self.views_.items():
            calibration, reason = each._valid_calibration()
            if calibration is None:
                return None, reason if len(self.views_) == 1 else f"{name}: {reason}"
            found[name] = calibration
        ((_, first), *others) = found.items()
        return (JointCalibration(found) if others else first), ""

    @classmethod
    def paper(cls) -> str:
        """Return the paper that the method comes from: none."""
        return ""

    def fit(
        self,
        images: object,
        *,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool | OnBad = False,
        progress: bool = False,
        calibration_images: object = None,
        blocks: Blocks = None,
    ) -> Self:
        """Learn each view from normal images; the parameters are those of `Detector.fit`.

        Returns
        -------
        Composed
            Itself.

        Raises
        ------
        ImageError, ParameterError, DTypeError, CalibrationError
            As `Detector.fit`. A view that has no calibration, as one that learns from one image, is
            a CalibrationError if there are several.
        """
        self.check_params()
        on_bad = Once(skip_bad) if skip_bad else False
        source = open_to_learn(self.backbone.opened(images))
        names = self._names(source)
        self._check_to_learn(source, names)
        held_out = None
        if calibration_images is not None:
            held_out = open_to_learn(self.backbone.opened(calibration_images))
            self._check_to_learn(held_out, names)
        learnt = type(self)(**self.get_params(deep=False))
        learnt.views_ = {
            name: self._unfitted(name).fit(
                self._source(name, source),
                batch_size=batch_size,
                n_workers=n_workers,
                skip_bad=on_bad,
                progress=progress,
                calibration_images=None if held_out is None else self._source(name, held_out),
                blocks=blocks,
            )
            for name in names
        }
        learnt.seconds_ = added_seconds(learnt.views_.values())
        learnt._check_decides()
        vars(self).update(vars(learnt))
        return self

    def calibrate(
        self,
        images: object,
        *,
        blocks: Blocks = None,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool | OnBad = False,
        progress: bool = False,
    ) -> Self:
        """Calibrate each view by normal images that were not learnt from; as `Detector.calibrate`.

        Returns
        -------
        Composed
            Itself.
        """
        self._check_fitted()
        source = open_to_learn(self.backbone.opened(images))
        self._check_to_learn(source, list(self.views_))
        on_bad = Once(skip_bad) if skip_bad else False
        calibrated = copy(self)  # so that a failure leaves the calibration of before
        calibrated.views_ = {
            name: copy(each).calibrate(
                self._source(name, source),
                blocks=blocks,
                batch_size=batch_size,
                n_workers=n_workers,
                skip_bad=on_bad,
                progress=progress,
            )
            for name, each in self.views_.items()
        }
        calibrated._check_decides()
        self.views_ = calibrated.views_
        return self

    def _source(self, name: str, source: ImageSource) -> ImageSource:
        """Return what a view shows of normal images."""
        return SubjectSource(
            lambda: self._subjects(source),
            self._n_subjects(source),
            lambda subject: self._item_of(name, subject),
            lambda item, image: self._shown(name, item, image),
        )

    def thumbnail(self, image: str, view: str = "") -> bytes | None:
        """Return the small copy of what a view shows of a normal image, a JPEG; None without one.

        Parameters
        ----------
        image : str
            Its id.
        view : str
            The view, as `Evidence.view` names it.
        """
        self._check_fitted()
        name, _, inner = view.partition("/")
        each = self.views_.get(name, next(iter(self.views_.values())))
        if isinstance(each, Composed):
            return each.thumbnail(image, inner if name in self.views_ else view)
        find: Callable[[str], bytes | None] = getattr(each, "thumbnail", lambda _: None)
        return find(image)

    def saved_params(self) -> dict[str, Any]:
        """Return the parameters that a model keeps, as JSON has them."""
        return {**super().saved_params(), "false_alarm_rate": self._rate}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted detectors, with their backbone's weights, to one file.

        Parameters
        ----------
        path : path-like
            The file; safetensors with a versioned header and a checksum. What is there is replaced
            only when everything is written.

        Raises
        ------
        NotFittedError
            Before `fit`.
        StoreError
            If the file cannot be written.
        """
        file = check_path(path)
        if is_folder(file):
            raise StoreError(f"{file}: expected a file, it is a folder", path=file)
        self._check_fitted()
        self._write(file, self.backbone.state())

    def _write(self, path: Path, backbone: tuple[dict[str, Any], dict[str, NDArray[Any]]]) -> None:
        """Write it to one file, with what is to be kept of the backbone."""
        config = {
            "knnspect": _core.__version__,
            **self.saved_params(),
            "detector": self.detector.method,
            "views": {
                name: {"method": each.method, "images": each.n_images_}
                for name, each in self.views_.items()
            },
        }
        write_model(path, self.method, config, backbone, self._arrays())

    def _arrays(self) -> dict[str, NDArray[Any]]:
        """Return what a file has besides the parameters: the models of the views."""
        bare: Any = self.backbone.state()[0], {}  # the weights are in the file of the whole
        writers = [partial(each._write, backbone=bare) for each in self.views_.values()]
        return packed_files(VIEWS, writers)

    add, remove, reject, rollback = _Lacking(), _Lacking(), _Lacking(), _Lacking()


#: A detector, composed or not.
AnyDetector: TypeAlias = Detector | Composed
