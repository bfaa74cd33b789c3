"""The command ``knnspect predict``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knnspect.cli.decisions import EXIT_OF_ANOMALY, check_decides
from knnspect.cli.left_out import LeftOut
from knnspect.cli.models import (
    Backend,
    Device,
    FalseAlarmRate,
    MaxPixels,
    Threads,
    load_to_judge,
)
from knnspect.cli.options import BatchSize, Config, SkipBad, Workers
from knnspect.cli.places import check_results_folder
from knnspect.validation import check_count

if TYPE_CHECKING:
    from knnspect.data import ImageSource

__all__ = ["Maps", "outside", "predict"]


class Maps(str, Enum):
    """How maps are written."""

    NPY = "npy"
    TIFF = "tiff"


def predict(
    model: Annotated[Path, typer.Argument(help="A model that fit wrote.")],
    images: Annotated[Path, typer.Argument(help="Folder of images, or one image.")],
    output: Annotated[Path, typer.Option(help="Folder for overlays, scores.csv and scores.json.")],
    *,
    maps: Annotated[
        Maps | None, typer.Option(help="Also write the map of each image, float32, as it came.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Also write report.html: one page, to be looked at.")
    ] = False,
    false_alarm_rate: FalseAlarmRate = None,
    fail_on_anomaly: Annotated[
        bool,
        typer.Option("--fail-on-anomaly", help="End with exit code 3 if an image is anomalous."),
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
    """Judge images: a score, a verdict and an overlay for each.

    Standard output has a line for each image: its score, a tab, its id.
    """
    from knnspect.data import open_to_judge
    from knnspect.report import ResultsFolder, check_apart

    check_results_folder(output)
    check_count("batch_size", batch_size)
    check_count("n_workers", workers, minimum=0)
    detector = load_to_judge(model, device, backend, threads, max_pixels, false_alarm_rate)
    source = open_to_judge(detector.backbone.opened(images))
    check_apart(output, images, [item.id for item in source])
    source = outside(output, source)
    check_decides(detector, model, false_alarm_rate is not None or fail_on_anomaly)
    results = ResultsFolder(
        output,
        detector.normal_map_max_,
        maps=None if maps is None else maps.value,
    )
    items = {item.id: item for item in source}
    page = None
    if report:
        from knnspect.report.html import HtmlReport

        page = HtmlReport(detector, str(model), len(items))
    reader = detector.backbone.reader()
    lines: list[str] = []
    left_out = LeftOut()
    for prediction in detector.iter_predict(
        source,
        batch_size=batch_size,
        n_workers=workers,
        skip_bad=left_out if skip_bad else False,
        progress=True,
        keep_pictures=True,
    ):
        picture = prediction.picture
        if picture is None:  # too large to be kept with others
            picture = reader.picture(items[prediction.id].read(reader))
        results.add(prediction, picture)
        if page is not None:
            page.add(prediction, picture)
        lines.append(f"{prediction.score:.6g}\t{prediction.id}")
    about = {"model": str(model), "method": detector.method, "score": detector.score}
    results.finish(about, left_out.reasons)
    if page is not None:
        page.write(output / "report.html", left_out.reasons)
    typer.echo("\n".join(lines))
    typer.echo(f"{output}: {len(results)} images{left_out.summary()}", err=True)
    if results.false_alarm_rate is not None:
        typer.echo(
            f"{results.n_anomalous} of {len(results)} images anomalous at a false-alarm rate of "
            f"{results.false_alarm_rate:.4g}",
            err=True,
        )
    if fail_on_anomaly and results.n_anomalous:
        raise typer.Exit(EXIT_OF_ANOMALY)


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
