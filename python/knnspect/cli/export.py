"""The command ``knnspect export``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from knnspect.cli.left_out import LeftOut
from knnspect.cli.models import MaxPixels, load_to_judge
from knnspect.cli.options import BatchSize, Config, SkipBad, Workers
from knnspect.cli.places import check_writable
from knnspect.cli.printing import print_table
from knnspect.errors import StoreError

__all__ = ["export"]


class _Format(str, Enum):
    onnx = "onnx"


def export(
    model: Annotated[Path, typer.Argument(help="A model that fit wrote.")],
    images: Annotated[
        Path,
        typer.Argument(help="Folder of images, as they are to be judged, to compare both with."),
    ],
    *,
    output: Annotated[Path, typer.Option(help="The file to write.")],
    format_: Annotated[
        _Format, typer.Option("--format", help="What the network becomes: a graph of ONNX.")
    ] = _Format.onnx,
    config: Config = None,  # noqa: ARG001 - it was read before
    max_pixels: MaxPixels = None,
    batch_size: BatchSize = 16,
    workers: Workers = 2,
    skip_bad: SkipBad = False,
) -> None:
    """Write a model that judges the same without PyTorch.

    Nothing is written if features, scores, maps or verdicts differ by more than rounding.
    """
    from knnspect import exporting

    check_writable(output)
    if output.exists() and model.exists() and output.samefile(model):
        raise StoreError(f"{output}: is the model itself, which can still be fitted: give another")
    # On the CPU, where the graph is compared with it.
    detector = load_to_judge(model, "cpu", None, None, max_pixels)
    other = exporting.export(detector)
    other.backbone.max_pixels = detector.backbone.max_pixels
    left_out = LeftOut()
    found = exporting.compare(
        detector,
        other,
        images,
        batch_size=batch_size,
        n_workers=workers,
        skip_bad=left_out if skip_bad else False,
    )
    verdicts = f"{found.n_images - len(found.other_verdicts)} of {found.n_images} are the same"
    print_table(
        f"{model}, PyTorch and {format_.value}",
        {
            "features": f"differ by up to {found.features:.1e} of the largest",
            "scores": f"differ by up to {found.scores:.1e} of their size",
            "maps": f"differ by up to {found.maps:.1e} of their size",
            "verdicts": verdicts if found.has_verdicts else f"none: {detector.uncalibrated}",
        },
    )
    found.check()
    other.save(output)
    typer.echo(
        f"{output}: judges without PyTorch, by {found.n_images} images as before"
        f"{left_out.summary()}"
    )
