"""The command ``knnspect watch``."""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from knnspect.cli.left_out import LeftOut
from knnspect.cli.models import Backend, Device, MaxPixels, Threads, load_alone
from knnspect.cli.options import BatchSize, Config, SkipBad, Workers
from knnspect.cli.places import check_writable
from knnspect.errors import ParameterError, StoreError
from knnspect.files import is_folder, is_there
from knnspect.validation import check_count

if TYPE_CHECKING:
    from knnspect.calibration import DriftAlarm, DriftWatch
    from knnspect.data import ImageSource
    from knnspect.data.sources import ImageItem
    from knnspect.detectors import Detector

__all__ = ["watch"]

_DEFAULT_PROBABILITY = 0.01
#: Images after which what is known is saved; it is at the end, too.
_SAVED_EVERY = 100
_EXIT_OF_ALARM = 3


def watch(
    model: Annotated[Path, typer.Argument(help="A model that fit wrote.")],
    images: Annotated[
        Path,
        typer.Argument(help="Folder of images, taken by name; or .txt file that names them."),
    ],
    *,
    false_alarm_probability: Annotated[
        float | None,
        typer.Option(
            help="Of any alarm, ever, without a change; 0.01 by default. It stays until --reset.",
            show_default=False,
            metavar="NUM",
        ),
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Begin anew, as when an alarm has been dealt with.")
    ] = False,
    fail_on_alarm: Annotated[
        bool, typer.Option("--fail-on-alarm", help="End with exit code 3 if there is an alarm.")
    ] = False,
    config: Config = None,  # noqa: ARG001 - it was read before
    backend: Backend = None,
    threads: Threads = None,
    device: Device = None,
    max_pixels: MaxPixels = None,
    batch_size: BatchSize = 16,
    workers: Workers = 2,
    skip_bad: SkipBad = False,
) -> None:
    """Watch for drift: an alarm when images are no longer like those before them.

    What is known stays with the model; watched images are not taken again.
    """
    from knnspect.calibration import quantities
    from knnspect.model_files.layout import drift_file

    check_count("batch_size", batch_size)
    check_count("n_workers", workers, minimum=0)
    detector = load_alone(model, device, backend, threads, max_pixels)
    file = drift_file(model)
    check_writable(file)
    follow_links = not is_folder(model)  # names in a folder are no links of ours
    known = _begin(detector, file, follow_links, false_alarm_probability, reset)
    for name, alarm in known.alarms.items():
        typer.echo(_in_words(name, alarm))
    items = {item.id: item for item in _unseen(_opened(images), images, known.last_image)}
    reader = detector.backbone.reader()
    n_before, left_out = known.n, LeftOut()
    for prediction in (
        detector.iter_predict(
            _source(items.values()),
            batch_size=batch_size,
            n_workers=workers,
            skip_bad=left_out if skip_bad else False,
            progress=True,
            keep_pictures=True,
        )
        if items
        else ()
    ):
        item, picture = items[prediction.id], prediction.picture
        if picture is None:  # too large to be kept with others
            picture = item.read(reader)
        values = quantities(prediction.score, prediction.map, picture)
        for name, alarm in known.update(values, _name(item)).items():
            typer.echo(_in_words(name, alarm))
        if known.n % _SAVED_EVERY == 0:
            known.save(file, follow_links=follow_links)
    known.save(file, follow_links=follow_links)
    new = f"{known.n - n_before} of them new{left_out.summary()}"
    typer.echo(f"{known.n} images, {new}: {_summary(known)}")
    if fail_on_alarm and known.alarms:
        raise typer.Exit(_EXIT_OF_ALARM)


def _begin(
    detector: Detector, file: Path, follow_links: bool, probability: float | None, reset: bool
) -> DriftWatch:
    """Return what is known from earlier runs, or what begins."""
    from knnspect.calibration import QUANTITIES, DriftWatch

    scores, with_what = _normal_scores(detector)
    if reset or not is_there(file):
        typer.echo(f"{file}: begins; scores are compared with {with_what}", err=True)
        return DriftWatch(
            dict.fromkeys(QUANTITIES, ()) | {"score": scores},
            false_alarm_probability=_DEFAULT_PROBABILITY if probability is None else probability,
        )
    known = DriftWatch.load(file, follow_links=follow_links)
    if probability not in (None, known.false_alarm_probability):
        raise ParameterError(
            f"--false-alarm-probability: expected {known.false_alarm_probability}, with which "
            f"{file} was begun, got {probability}; --reset begins anew",
            path=file,
        )
    if tuple(known.monitors) != QUANTITIES:
        raise StoreError(
            f"{file}: expected the quantities {', '.join(QUANTITIES)}, it has "
            f"{', '.join(known.monitors)}; --reset begins anew",
            path=file,
        )
    if known.monitors["score"].calibration_scores.tolist() != sorted(scores):
        raise StoreError(
            f"{file}: was begun with other calibration scores than the model has now: it was "
            "changed since; --reset begins anew",
            path=file,
        )
    return known


def _normal_scores(detector: Detector) -> tuple[list[float], str]:
    """Return the scores that judged images are compared with from the first on, and which."""
    calibration, reason = detector._valid_calibration()
    if calibration is not None and calibration.kind != "held out":
        # Those left out were compared with one image less: a monitor takes that for a change.
        reason = f"its calibration, {calibration.kind}, is not quite like scores of new images"
        calibration = None
    if calibration is None:
        return [], f"those of images before alone ({reason})"
    # Images of a block are alike; what is drawn of each is like the next block.
    first = np.unique(calibration.blocks, return_index=True)[1]
    return calibration.scores[first].tolist(), f"those of {calibration.guarantee}"


def _opened(images: Path) -> ImageSource:
    """Return the images of a folder, or those that a text file names, a path in each line."""
    from knnspect.data import open_to_judge

    if images.suffix.lower() != ".txt" or not images.is_file():
        return open_to_judge(images)
    try:
        lines = images.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ParameterError(f"{images}: expected paths of images as UTF-8: {error}") from error
    # Relative to the file, so that it means the same wherever the command is run.
    return open_to_judge([str(images.parent / line.strip()) for line in lines if line.strip()])


def _unseen(source: ImageSource, images: Path, last: str | None) -> list[ImageItem]:
    """Return the images that come after the last one that was watched before."""
    items = list(source)
    names = [_name(item) for item in items]
    folder = _absolute(images)
    if last is None:
        return items
    if last in names:
        n_seen = names.index(last) + 1
    elif is_folder(images) and Path(last).is_relative_to(folder):
        # The last one is gone, but its name tells which came before it.
        below = [Path(name).relative_to(folder).as_posix() for name in names]
        n_seen = bisect_right(below, Path(last).relative_to(folder).as_posix())
    else:
        n_seen = 0
    if n_seen:
        typer.echo(f"{n_seen} images up to {last} were watched before", err=True)
    return items[n_seen:]


def _source(items: Iterable[ImageItem]) -> ImageSource:
    from knnspect.data import ImageSource

    kept = list(items)
    return ImageSource(kept, len(kept))


def _name(item: ImageItem) -> str:
    """Return the path of an image, which another run knows it by."""
    return item.id if item.file is None else _absolute(item.file)


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - Path's follows links


def _in_words(name: str, alarm: DriftAlarm) -> str:
    return (
        f"alarm: {name} is {alarm.direction} since {alarm.since_image} (image {alarm.since + 1}), "
        f"noticed with {alarm.image} (image {alarm.at + 1})"
    )


def _summary(known: DriftWatch) -> str:
    """Return whether there are alarms; if not, how near to one it is."""
    if known.alarms:
        n = len(known.alarms)
        return f"{n} alarm{'s' if n > 1 else ''}; --reset begins anew"
    name, monitor = max(known.monitors.items(), key=lambda each: each[1].max_log_martingale)
    return (
        f"no alarm; nearest to one is {name}, with evidence of "
        f"{math.exp(monitor.max_log_martingale):.3g} where {1 / monitor.false_alarm_probability:g} "
        "raises it"
    )
