"""What the commands that correct a model have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knnspect.cli.models import load_alone
from knnspect.cli.places import check_writable
from knnspect.errors import ParameterError
from knnspect.files import is_folder

if TYPE_CHECKING:
    from knnspect.data import ImageSource
    from knnspect.detectors import Detector
    from knnspect.detectors.heads.growing import GrowingDetector
    from knnspect.detectors.nearest.correcting import CorrectableDetector

__all__ = ["Model", "Prefix", "adding", "correcting", "prefixed", "said"]

Model = Annotated[Path, typer.Argument(help="A model that fit wrote; it is corrected there.")]
Prefix = Annotated[
    str,
    typer.Option(help="Put before the ids of the images, where the model has others of these ids."),
]


@contextmanager
def correcting(
    model: Path,
    device: str | None = None,
    backend: str | None = None,
    threads: str | None = None,
    max_pixels: str | None = None,
) -> Iterator[CorrectableDetector]:
    """Give the detector of a model to be corrected, and keep what was done.

    A model in a folder keeps each correction at once; a file is replaced at the end, if nothing has
    failed. A model that cannot be corrected is a ParameterError.
    """
    with _kept(model, _loaded(model, device, backend, threads, max_pixels)) as detector:
        yield detector


@contextmanager
def adding(
    model: Path,
    device: str | None = None,
    backend: str | None = None,
    threads: str | None = None,
    max_pixels: str | None = None,
) -> Iterator[CorrectableDetector | GrowingDetector]:
    """Give the detector of a model that images are to be added to, and keep what was done.

    As `correcting`; methods that keep no image may take more, too.
    """
    detector = _loaded(model, device, backend, threads, max_pixels)
    from knnspect.detectors.heads.growing import GrowingDetector

    if isinstance(detector, GrowingDetector):
        yield detector
        detector.save(model)
    else:
        with _kept(model, detector) as correctable:
            yield correctable


@contextmanager
def _kept(model: Path, detector: Detector) -> Iterator[CorrectableDetector]:
    """Give a detector that can be corrected, and keep what was done."""
    from knnspect.detectors.nearest.correcting import CorrectableDetector

    if not isinstance(detector, CorrectableDetector):
        raise ParameterError(
            f"{model}: expected a model that keeps normal images, such as spade or patchcore: "
            f"{detector.method} keeps none of them, and is to be fitted again"
        )
    n_before = len(detector.history_)
    yield detector
    if not detector.is_corrected_in_place and len(detector.history_) > n_before:
        detector.save(model)


def _loaded(
    model: Path,
    device: str | None,
    backend: str | None,
    threads: str | None,
    max_pixels: str | None,
) -> Detector:
    check_writable(model, folder=is_folder(model))
    return load_alone(model, device, backend, threads, max_pixels)


def prefixed(images: Path, prefix: str, to_learn: bool) -> ImageSource:
    """Return images whose ids begin with a prefix."""
    from dataclasses import replace

    from knnspect.data import ImageSource, open_to_judge, open_to_learn

    source = open_to_learn(images) if to_learn else open_to_judge(images)
    items = (replace(item, id=prefix + item.id) for item in source)
    return ImageSource(items, source.n_images) if prefix else source


def said(model: Path, detector: Detector) -> str:
    """Return what a model is by now, in words, with the number of its last correction, if any."""
    from knnspect.detectors.nearest.correcting import CorrectableDetector

    words = f"{model}: {detector.n_images_} normal images"
    if isinstance(detector, CorrectableDetector):
        words += f" after correction {len(detector.history_)}"
    return words
