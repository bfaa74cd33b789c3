"""The command ``knnspect reject``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from knnspect.cli.corrections import Model, Prefix, correcting, prefixed
from knnspect.cli.models import Backend, Device, MaxPixels, Threads
from knnspect.cli.options import Config

__all__ = ["reject"]


def reject(
    model: Model,
    images: Annotated[Path, typer.Argument(help="Folder of defective images, or one image.")],
    name: Annotated[str, typer.Option(help="What their defect is called.")],
    *,
    prefix: Prefix = "",
    config: Config = None,  # noqa: ARG001 - it was read before
    backend: Backend = None,
    threads: Threads = None,
    device: Device = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Remember defects, so that predict names them when they come again.

    Each image is a correction of its own. `remove` forgets it.
    """
    source = prefixed(images, prefix, to_learn=False)
    n = 0
    with correcting(model, device, backend, threads, max_pixels) as detector:
        for prediction in detector.iter_predict(source, progress=True):
            detector.reject(prediction, name)
            n += 1
    kinds = sorted({one.name for one in detector.history_ if one.kind == "reject"})
    n_kinds = f"{len(kinds)} kind{'' if len(kinds) == 1 else 's'} of defect"
    typer.echo(f"{model}: {n} images remembered as {name}; {n_kinds} by now")
