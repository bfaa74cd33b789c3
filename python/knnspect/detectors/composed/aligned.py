"""A part that a locator finds first, judged upright and alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.calibration import Calibration
from knnspect.constraints import Choice, Instance, Positive
from knnspect.data import ImageReader, ImageSource, open_sequence
from knnspect.data.decoded import ImageArray
from knnspect.data.loading import OnBad
from knnspect.data.sources import ImageItem
from knnspect.detectors.composed.base import Composed
from knnspect.detectors.composed.parts import LOCATOR, packed_files
from knnspect.detectors.composed.subject import Shown, Subject
from knnspect.detectors.following import PartNumbers
from knnspect.detectors.judged_file import JudgedFile
from knnspect.detectors.prediction import Prediction
from knnspect.errors import ParameterError
from knnspect.locators import FoundPart, GoldenTemplate, Locator, SiamMask, save_locator
from knnspect.parameters import parameter

__all__ = ["Aligned"]

#: The name of its only view.
_PART = "part"


class Aligned(Composed):
    """Finds a part in each image, cuts it out upright, and has a detector learn and judge that.

    Maps, boxes and regions are of the images as they came; beside the part maps are 0. An image in
    which the part is not found has the verdict "not found", the score infinity, and a map of
    nothing. Each image is located once.

    The false-alarm rate is that of images in which the part is found; in how many it is not, the
    locator's own rate says.

    Parameters
    ----------
    detector : Detector or Composed, optional
        What judges the part; ``Spade()`` by default.
    locator : Locator
        What finds it, fitted.
    margin : float, default 0.0
        What is shown beyond the part's box on each side, as a share of the side.
    not_found : {"verdict", "error"}, default "verdict"
        What an image is in which the part is not found: a verdict, or an ImageError, so that it is
        left out with ``skip_bad=True``. Of images to learn from it is always an error.

    Attributes
    ----------
    views_ : dict of str to Detector
        The fitted detector, as ``"part"``.

    Examples
    --------
    >>> import skimage
    >>> import knnspect as ks
    >>> face = skimage.data.astronaut()[30:210:3, 150:330:3]
    >>> frames = {}
    >>> for number in range(3):
    ...     frame = np.full((90, 120, 3), 128, np.uint8)
    ...     frame[15 + number : 75 + number, 20 + 9 * number : 80 + 9 * number] = face
    ...     frames[str(number)] = frame
    >>> locator = ks.GoldenTemplate(turns=1, smallest=1, largest=1, scales=1)
    >>> locator = locator.fit(frames["0"], box=(15, 20, 75, 80))
    >>> backbone = ks.Backbone(levels=(1, 2), image_size=64)
    >>> detector = Aligned(ks.Spade(backbone), locator=locator).fit(frames)
    >>> prediction = detector.predict([frames["1"]])[0]
    >>> prediction.map.shape, prediction.verdict, prediction.found.found
    ((90, 120), 'normal', True)
    """

    locator: Locator = parameter(Instance(Locator), default_factory=GoldenTemplate)
    margin: float = parameter(Positive(or_zero=True), default=0.0)
    not_found: Literal["verdict", "error"] = parameter(
        Choice("verdict", "error"), default="verdict", changes_training=False
    )

    method = "aligned"

    #: What finds the part in frames that come in their order; None: it is looked for in each.
    _follower: Callable[[ImageItem, ImageArray], FoundPart] | None = None

    def iter_follow(
        self,
        frames: object,
        *,
        missed: int = 3,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool | OnBad = False,
        progress: bool = False,
        keep_pictures: bool = False,
    ) -> Iterator[tuple[int | None, Prediction]]:
        """Judge the frames of a sequence, in each of which the part is near to where it was before.

        Parameters
        ----------
        frames : path, or anything that `knnspect.data.open_images` takes
            A video file, a numbered folder, or images in their order; see
            `knnspect.data.open_sequence`.
        missed : int, default 3
            Frames after one another in which a part may be lost; what is found after more of them
            is another part.
        batch_size, n_workers, skip_bad, progress, keep_pictures
            As of `iter_predict`.

        Yields
        ------
        int or None, Prediction
            Which part a frame shows, from 1, and what is said of it; None where none is found.
            `joint_p_value` makes one p-value of those of a part.

        Raises
        ------
        ParameterError
            If the locator cannot follow parts: `SiamMask` can; or a parameter lies outside its
            values. Also as `iter_predict`.
        """
        if not isinstance(self.locator, SiamMask):
            raise ParameterError(
                f"locator: expected a SiamMask, which follows parts from frame to frame, got a "
                f"{type(self.locator).__name__}",
                parameter="locator",
            )
        number_of = PartNumbers(missed)
        following = copy(self)
        following._follower = self.locator.follower()
        judged = following.iter_predict(
            open_sequence(frames),
            batch_size=batch_size,
            n_workers=n_workers,
            skip_bad=skip_bad,
            progress=progress,
            keep_pictures=keep_pictures,
        )
        return ((number_of(one.is_found), one) for one in judged)

    def check_views(self, names: Sequence[str]) -> None:
        """Raise a ParameterError if views of a file are not the part alone."""
        if list(names) != [_PART]:
            raise ParameterError(f"views: expected {_PART}, got {list(names)}")

    def _names(self, source: ImageSource) -> list[str]:  # noqa: ARG002 - it has one in any case
        return [_PART]

    def _reader(self) -> ImageReader:
        return ImageReader(self.locator.backbone.white_level, self.backbone.max_pixels)

    def _source(self, name: str, source: ImageSource) -> ImageSource:  # noqa: ARG002
        return self.locator.aligned(source, margin=self.margin)

    def _shown(self, name: str, item: ImageItem, image: ImageArray) -> Shown:  # noqa: ARG002
        part = (self._follower or self.locator._located)(item, image)
        if not part.found:
            if self.not_found == "error":
                part.check(item.file)
            return Shown(None, found=part)
        view = part.view.with_margin(self.margin)
        return Shown(view.cut(image), view, part)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        locator = packed_files(LOCATOR, [partial(save_locator, self.locator)])
        return super()._arrays() | locator

    def _decided(
        self,
        subject: Subject,
        shown: Mapping[str, Shown],
        predictions: Mapping[str, Prediction],
        calibration: Calibration | None,
    ) -> Prediction:
        part = shown[_PART].found
        if _PART in predictions:
            return replace(predictions[_PART], found=part)
        item = subject.pictures[""]
        picture = self._reader().picture(item.load())
        nothing = 0.0 if calibration is None else min(0.0, float(calibration.map_maxima.min()))
        return Prediction(
            subject.id,
            np.inf,
            np.full(picture.shape[:2], nothing, np.float32),
            picture=picture,
            calibration=calibration,
            uncalibrated=self.uncalibrated,
            file=None if item.file is None else JudgedFile.of(item.file),
            found=part,
        )
