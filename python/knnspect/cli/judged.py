"""What a command judges: images, each by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from numpy.typing import NDArray

if TYPE_CHECKING:
    from knnspect.data import ImageSource
    from knnspect.detectors import Prediction
    from knnspect.detectors.composed import AnyDetector

__all__ = ["Judged", "JudgedImages", "apart", "outside"]


class Judged(ABC):
    """What is judged, one prediction after the other, and what is said of all in the end.

    Attributes
    ----------
    n_images : int
        How many images there are, about.
    rate : float or None
        The false-alarm rate; None if nothing is decided.
    """

    n_images: int
    rate: float | None

    @abstractmethod
    def predictions(self, **how: Any) -> Iterator[tuple[Prediction, NDArray[Any]]]:
        """Judge, as `Detector.iter_predict` takes it; yield predictions with their pictures."""

    @property
    @abstractmethod
    def lines(self) -> list[str]:
        """What standard output is to have."""

    @property
    @abstractmethod
    def counted(self) -> str:
        """How many were judged, and of what."""

    @property
    @abstractmethod
    def n_anomalous(self) -> int:
        """How many were called anomalous."""

    @property
    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What ``scores.json`` is to have besides."""


class JudgedImages(Judged):
    """The images of a folder, or one.

    Raises
    ------
    StoreError, ImageError
        If results would be written over them, or none lies beside the results.
    """

    def __init__(self, detector: AnyDetector, images: Path, output: Path) -> None:
        from knnspect.data import open_to_judge

        self._detector = detector
        self._source = apart(output, images, open_to_judge(detector.backbone.opened(images)))
        self._items = {item.id: item for item in self._source}
        self.n_images = len(self._items)
        self.rate = None
        self._lines: list[str] = []
        self._n_anomalous = 0

    def predictions(self, **how: Any) -> Iterator[tuple[Prediction, NDArray[Any]]]:
        """Judge each by itself."""
        reader = self._detector.backbone.reader()
        for prediction in self._detector.iter_predict(self._source, **how):
            picture = prediction.picture
            if picture is None:  # too large to be kept with others
                picture = reader.picture(self._items[prediction.id].read(reader))
            self._lines.append(f"{prediction.score:.6g}\t{prediction.id}")
            if prediction.calibration is not None:
                self._n_anomalous += prediction.is_anomalous
                self.rate = prediction.calibration.rate(prediction.false_alarm_rate)
            yield prediction, picture

    @property
    def lines(self) -> list[str]:
        """A line for each image: its score, a tab, its id."""
        return self._lines

    @property
    def counted(self) -> str:
        """How many were judged."""
        return f"{len(self._lines)} images"

    @property
    def n_anomalous(self) -> int:
        """How many images were called anomalous."""
        return self._n_anomalous

    @property
    def about(self) -> dict[str, Any]:
        """Nothing: the images say all."""
        return {}


def apart(output: Path, images: Path, source: ImageSource) -> ImageSource:
    """Return the images that do not lie in the folder of results.

    Raises
    ------
    StoreError, ImageError
        If results would be written over images, or none is left.
    """
    from knnspect.report import check_apart

    check_apart(output, images, [item.id for item in source])
    return outside(output, source)


def outside(output: Path, source: ImageSource) -> ImageSource:
    """Return the images of a source that do not lie in the folder of results."""
    from knnspect.data import ImageSource
    from knnspect.errors import ImageError

    folder, items = output.resolve(), list(source)
    kept = [item for item in items if not (item.file and folder in item.file.resolve().parents)]
    if len(kept) == len(items):
        return source
    n = len(items) - len(kept)
    typer.echo(f"{output}: {n} images in the folder of results are not judged", err=True)
    if not kept:
        raise ImageError(f"{output}: all images lie in the folder of results")
    return ImageSource(kept, len(kept))
