"""What all locators have: fitting, locating, a threshold with a stated rate, aligned images."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from numpy.typing import NDArray

from knnspect.calibration import Calibration
from knnspect.constraints import Instance, Optional, Positive
from knnspect.data import ImageArray, open_images
from knnspect.data.sources import ImageItem
from knnspect.errors import ImageError, ImageWarning, NotFittedError, errors_about
from knnspect.features import Backbone, Extractor
from knnspect.locators.aligned_images import AlignedImages
from knnspect.locators.found import DrawnMask, FoundPart
from knnspect.locators.part import Part
from knnspect.parameters import Parametrized, learnt, parameter
from knnspect.views import AlignedView

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Best", "Locator"]

#: The share of a part that must lie in the image for no warning.
_WHOLE = 0.98


def _default_backbone() -> Backbone:
    return Backbone(levels=(1, 2), image_size=256, resize="pad")


class Best(NamedTuple):
    """The best place of a part in an image.

    `score` says how much it looks like the part; `view` is the way to the template's frame;
    `drawn` the mask that was drawn there, if the locator draws masks.
    """

    score: float
    view: AlignedView
    drawn: DrawnMask | None = None


class Locator(Parametrized):
    """Finds one part in images that show it shifted, turned and smaller or larger.

    Parameters
    ----------
    backbone : Extractor
        What makes the features.
    least_score : float, default 0.25
        The score from which on a part counts as found, where no normal frames tell.
    false_alarm_rate : float, optional
        The share of images with the part in which it may be reported as not found. By default
        0.01, or the smallest that the normal frames can promise.

    Attributes
    ----------
    part_ : Part
        The part, cut out of the template.
    calibration_ : Calibration or None
        How normal frames scored: 1 - score of each.
    """

    backbone: Extractor = parameter(
        Instance(Extractor), default_factory=_default_backbone, kw_only=False
    )
    least_score: float = parameter(Positive(at_most=1.0), default=0.25)
    false_alarm_rate: float | None = parameter(Optional(Positive(below=1)), default=None)

    #: The word for it in files.
    method: ClassVar[str]

    part_: Part = learnt()
    calibration_: Calibration | None = learnt()

    def _begin(self) -> None:
        self.calibration_ = None

    # --- What a method brings. --------------------------------------------------------------------

    @abstractmethod
    def _prepare(self) -> None:
        """Get ready to locate `part_`; raise a ParameterError if it cannot be."""

    @abstractmethod
    def _best(self, image: ImageArray) -> Best:
        """Return the best place of the part in an image."""

    def state(self) -> dict[str, Any]:
        """Return what files have beside the parameters and the part, as JSON has it."""
        return {}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that files have beside the part, by name."""
        return {}

    def take_over(self, state: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what `state` and `arrays` returned; `restore` follows."""

    # --- What all have. ---------------------------------------------------------------------------

    def fit(
        self, template: object, *, box: object = None, mask: object = None, frames: object = None
    ) -> Self:
        """Learn what to look for.

        Parameters
        ----------
        template : path, array or PIL image
            An image that shows the part.
        box : (int, int, int, int), optional
            Top, left, bottom and right of the part in the template, in pixels.
        mask : ndarray, path or Region, optional
            Which pixels of the template show the part, instead of a box.
        frames : folder, file, list of paths, arrays or PIL images, array, or loader, optional
            Images that show the part, by which the threshold is calibrated; see
            `knnspect.Calibration`. None may be the template.

        Returns
        -------
        Locator
            Itself.

        Raises
        ------
        ParameterError, ShapeError, DTypeError
            If a parameter lies outside its values, or the box or the mask does not suit the
            template.
        ImageError
            If an image cannot be used.
        CalibrationError
            If there are too few frames for the `false_alarm_rate`.
        """
        self.check_params()
        _, part = self._cut_out(template, box, mask)
        fitted = type(self)(**self.get_params(deep=False))
        fitted.restore(part, None)
        if frames is not None:
            fitted._calibrate(frames)
        vars(self).update(vars(fitted))
        return self

    def _cut_out(self, template: object, box: object, mask: object) -> tuple[ImageArray, Part]:
        """Return the template's image, and the part in it."""
        (item,) = open_images([template])
        if self.backbone.white == "auto":
            self.backbone.find_white([template])
        with errors_about(image=item.id, path=item.file):
            image = item.read(self.backbone.reader())
            return image, Part.of(image, box, mask)

    def restore(self, part: Part, calibration: Calibration | None) -> None:
        """Take over what was learnt from a template and from normal frames, such as from a file.

        Raises
        ------
        ParameterError
            If parameters do not go together.
        """
        self.part_, self.calibration_ = part, calibration
        self._prepare()

    def _calibrate(self, frames: object) -> None:
        found = {each.image_id: 1 - each.score for each in self.locate_all(frames)}
        scores = list(found.values())
        self.calibration_ = Calibration(scores, scores, ids=list(found))
        self.calibration_.rate(self.false_alarm_rate)

    @property
    def threshold_(self) -> float:
        """The score from which on a part counts as found."""
        if self.calibration_ is None:
            return self.least_score
        return 1 - self.calibration_.threshold(self.false_alarm_rate)

    def locate(self, image: object) -> FoundPart:
        """Find the part in one image.

        Parameters
        ----------
        image : path, array or PIL image
            The image.

        Returns
        -------
        FoundPart
            The best place; `FoundPart.found` says whether it shows the part.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ImageError
            If the image cannot be used, or is smaller than the part.

        Warns
        -----
        ImageWarning
            If the part is cut by the border of the image.
        """
        (found,) = self.locate_all([image])
        return found

    def locate_all(self, images: object) -> Iterator[FoundPart]:
        """Find the part in many images, one after the other; see `locate`.

        Parameters
        ----------
        images : folder, file, list of paths, arrays or PIL images, array, or loader
            As `knnspect.data.open_images` takes them.

        Yields
        ------
        FoundPart
            That of the next image.
        """
        self._check_fitted()
        reader = self.backbone.reader()
        for item in open_images(self.backbone.opened(images)):
            yield self._located(item, item.read(reader))
            reader.warn(at_end=False)
        reader.warn()

    def aligned(self, images: object, *, margin: float = 0.0) -> AlignedImages:
        """Return images that show the part upright and alone, for detectors.

        Parameters
        ----------
        images : folder, file, list of paths, arrays or PIL images, array, or loader
            As `knnspect.data.open_images` takes them.
        margin : float, default 0
            What is shown beyond the part's box on each side, as a share of the side.

        Returns
        -------
        AlignedImages
            The images by their ids, located when they are read.
        """
        self._check_fitted()
        return AlignedImages(self._located, images, self.backbone.reader, margin)

    def _located(self, item: ImageItem, image: ImageArray) -> FoundPart:
        with errors_about(image=item.id, path=item.file):
            try:
                best = self._best(image)
            except ImageError as error:
                raise ImageError(f"image {item.id}: {error}") from None
        return self._as_found(item, best)

    def _as_found(self, item: ImageItem, best: Best) -> FoundPart:
        """Return what is said of the best place in an image."""
        threshold, score = self.threshold_, best.score
        # A score is rounded; the least of the normal frames itself is found.
        is_found = score >= threshold - 1e-9
        p_value = None if self.calibration_ is None else self.calibration_.p_value(1 - score)
        found = FoundPart(
            item.id, is_found, score, threshold, best.view, self.part_.mask, p_value, best.drawn
        )
        if is_found and found.share_inside < _WHOLE:
            warnings.warn(
                f"image {item.id}: {1 - found.share_inside:.0%} of the part lie beyond the border "
                "of the image",
                ImageWarning,
                stacklevel=3,
            )
        return found

    def _check_fitted(self) -> None:
        if not hasattr(self, "part_"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit first")
