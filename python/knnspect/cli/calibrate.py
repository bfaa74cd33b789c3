"""The command ``knnspect calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from knnspect.cli.decisions import Blocks, promise
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
from knnspect.cli.places import check_writable
from knnspect.files import is_folder

__all__ = ["calibrate"]


def calibrate(
    model: Annotated[Path, typer.Argument(help="A model that fit wrote; it is written anew.")],
    images: Annotated[
        Path, typer.Argument(help="Folder of normal images that were not learnt from.")
    ],
    *,
    blocks: Blocks = None,
    false_alarm_rate: FalseAlarmRate = None,
    config: Config = None,  # noqa: ARG001 - it was read before
    backend: Backend = None,
    threads: Threads = None,
    device: Device = None,
    max_pixels: MaxPixels = None,
    batch_size: BatchSize = 16,
    workers: Workers = 2,
    skip_bad: SkipBad = False,
) -> None:
    """Decide by normal images that were not learnt from: where the threshold lies.

    A failure leaves the model as it was.
    """
    detector = load_to_judge(model, device, backend, threads, max_pixels, false_alarm_rate)
    check_writable(model, folder=is_folder(model))
    left_out = LeftOut()
    detector.calibrate(
        images,
        blocks=None if blocks is None else blocks.value,
        batch_size=batch_size,
        n_workers=workers,
        skip_bad=left_out if skip_bad else False,
        progress=True,
    )
    detector.save(model)
    typer.echo(f"{model}: {promise(detector)}{left_out.summary()}")
