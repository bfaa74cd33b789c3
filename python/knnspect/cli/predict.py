"""The command ``knnspect predict``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from knnspect.cli.decisions import EXIT_OF_ANOMALY, check_decides
from knnspect.cli.following import FollowedParts, FollowParts, Missed, PartShare, is_sequence
from knnspect.cli.judged import Judged, JudgedImages
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

__all__ = ["Maps", "predict"]


class Maps(str, Enum):
    """How maps are written."""

    NPY = "npy"
    TIFF = "tiff"


def predict(
    model: Annotated[Path, typer.Argument(help="A model that fit wrote.")],
    images: Annotated[Path, typer.Argument(help="Folder of images, one image, or a video.")],
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
        typer.Option(
            "--fail-on-anomaly", help="End with exit code 3 if an image, or a part, is anomalous."
        ),
    ] = False,
    follow: FollowParts = False,
    part_share: PartShare = None,
    missed: Missed = None,
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

    Standard output has a line for each image: its score, a tab, its id. Of a sequence it has one
    for each part: number, verdict, p-value, first frame, last frame, the frame with the highest
    score; --false-alarm-rate is then that of parts.
    """
    from knnspect.report import ResultsFolder

    check_results_folder(output)
    check_count("batch_size", batch_size)
    check_count("n_workers", workers, minimum=0)
    in_order = is_sequence(images, follow=follow, part_share=part_share, missed=missed)
    # Of a sequence the rate is that of parts: each frame has the model's own.
    rate = None if in_order else false_alarm_rate
    detector = load_to_judge(model, device, backend, threads, max_pixels, rate)
    judged: Judged
    if in_order:
        judged = FollowedParts(detector, images, output, false_alarm_rate, part_share, missed)
    else:
        judged = JudgedImages(detector, images, output)
        check_decides(detector, model, false_alarm_rate is not None or fail_on_anomaly)
    results = ResultsFolder(
        output,
        detector.normal_map_max_,
        maps=None if maps is None else maps.value,
    )
    page = None
    if report:
        from knnspect.report.html import HtmlReport

        page = HtmlReport(detector, str(model), judged.n_images)
    left_out = LeftOut()
    for prediction, picture in judged.predictions(
        batch_size=batch_size,
        n_workers=workers,
        skip_bad=left_out if skip_bad else False,
        progress=True,
        keep_pictures=True,
    ):
        results.add(prediction, picture)
        if page is not None:
            page.add(prediction, picture)
    about = {"model": str(model), "method": detector.method, "score": detector.score}
    results.finish({**about, **judged.about}, left_out.reasons)
    if page is not None:
        page.write(output / "report.html", left_out.reasons)
    typer.echo("\n".join(judged.lines))
    typer.echo(f"{output}: {len(results)} images{left_out.summary()}", err=True)
    if judged.rate is not None:
        typer.echo(
            f"{judged.n_anomalous} of {judged.counted} anomalous at a false-alarm rate of "
            f"{judged.rate:.4g}",
            err=True,
        )
    if fail_on_anomaly and judged.n_anomalous:
        raise typer.Exit(EXIT_OF_ANOMALY)
