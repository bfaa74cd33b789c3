"""The command ``knnspect add``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from knnspect.cli.corrections import Model, Prefix, adding, prefixed, said
from knnspect.cli.left_out import LeftOut
from knnspect.cli.models import Backend, Device, MaxPixels, Threads
from knnspect.cli.options import BatchSize, Config, SkipBad, Workers

__all__ = ["add"]


def add(
    model: Model,
    images: Annotated[Path, typer.Argument(help="Folder of normal images, or one image.")],
    *,
    prefix: Prefix = "",
    config: Config = None,  # noqa: ARG001 - it was read before
    backend: Backend = None,
    threads: Threads = None,
    device: Device = None,
    max_pixels: MaxPixels = None,
    batch_size: BatchSize = 16,
    workers: Workers = 2,
    skip_bad: SkipBad = False,
) -> None:
    """Learn from more normal images, such as false alarms, without fitting again.

    A failure leaves the model as it was.
    """
    source = prefixed(images, prefix, to_learn=True)
    left_out = LeftOut()
    with adding(model, device, backend, threads, max_pixels) as detector:
        ids = detector.add(
            source,
            batch_size=batch_size,
            n_workers=workers,
            skip_bad=left_out if skip_bad else False,
            progress=True,
        )
    typer.echo(f"{said(model, detector)}, {len(ids)} more than before{left_out.summary()}")
