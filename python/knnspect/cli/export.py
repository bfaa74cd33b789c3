"""The command ``knnspect export``."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from knnspect.cli.decisions import Blocks, promise
from knnspect.cli.left_out import LeftOut
from knnspect.cli.models import MaxPixels, load_alone
from knnspect.cli.options import BatchSize, Config, SkipBad, Workers
from knnspect.cli.places import check_writable
from knnspect.cli.printing import print_table
from knnspect.errors import ParameterError, StoreError
from knnspect.validation import some_ids

if TYPE_CHECKING:
    from knnspect.detectors import Detector
    from knnspect.exporting import Agreement

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
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Compute in 8-bit integers: faster, but scores change."),
    ] = False,
    normal: Annotated[
        Path | None,
        typer.Option(
            help="With --int8: folder of other normal images, not learnt from, to calibrate with."
        ),
    ] = None,
    blocks: Blocks = None,
    config: Config = None,  # noqa: ARG001 - it was read before
    max_pixels: MaxPixels = None,
    batch_size: BatchSize = 16,
    workers: Workers = 2,
    skip_bad: SkipBad = False,
) -> None:
    """Write a model that judges the same without PyTorch.

    Nothing is written if features, scores, maps or verdicts differ by more than rounding.
    In 8-bit integers they do: how far is printed, and thresholds need a calibration of their own.
    """
    from knnspect import exporting

    if not int8 and (normal is not None or blocks is not None):
        name = "normal" if normal is not None else "blocks"
        raise ParameterError(f"--{name}: goes with --int8; without, the calibration stays")
    if blocks is not None and normal is None:
        raise ParameterError("--blocks: goes with --normal")
    check_writable(output)
    if output.exists() and model.exists() and output.samefile(model):
        raise StoreError(f"{output}: is the model itself, which can still be fitted: give another")
    # On the CPU, where the graph is compared with it.
    detector = load_alone(model, "cpu", None, None, max_pixels)
    other = exporting.export(detector)
    other.backbone.max_pixels = detector.backbone.max_pixels
    left_out = LeftOut()
    options: Any = {"batch_size": batch_size, "n_workers": workers}
    on_bad = left_out if skip_bad else False
    found = exporting.compare(detector, other, images, skip_bad=on_bad, **options)
    _say(f"{model}, PyTorch and {format_.value}", detector, other, found)
    found.check()
    said = f"judges without PyTorch, by {found.n_images} images as before"
    if int8:
        quiet = (lambda *_: None) if skip_bad else False  # what is left out was said
        quantized = exporting.quantize(other, images, skip_bad=quiet)
        if normal is not None:
            by = None if blocks is None else blocks.value
            quantized.calibrate(normal, blocks=by, skip_bad=on_bad, progress=True, **options)
        found = exporting.compare(detector, quantized, images, skip_bad=quiet, **options)
        both = other.backbone, quantized.backbone
        seconds = exporting.network_seconds(both, images, skip_bad=quiet)
        _say(f"{model}, PyTorch and {format_.value} in int8", detector, quantized, found, seconds)
        decides = (
            promise(quantized) if normal is not None else "not calibrated (knnspect calibrate)"
        )
        other, said = quantized, f"judges without PyTorch in int8, {decides}"
    other.save(output)
    typer.echo(f"{output}: {said}{left_out.summary()}")


def _say(
    title: str,
    detector: Detector,
    other: Detector,
    found: Agreement,
    seconds: Sequence[float] = (),
) -> None:
    """Print how far a model and what was made of it differ."""
    n_same = found.n_images - len(found.other_verdicts)
    verdicts = f"{n_same} of {found.n_images} are the same"
    if found.other_verdicts and seconds:  # else an error names them
        verdicts += f", others have {some_ids(list(found.other_verdicts))}"
    rows = {
        "features": f"differ by up to {found.features:.1e} of the largest",
        "scores": f"differ by up to {found.scores:.1e} of their size",
        "maps": f"differ by up to {found.maps:.1e} of their size",
        "verdicts": verdicts
        if found.has_verdicts
        else f"none: {detector.uncalibrated or other.uncalibrated}",
    }
    if seconds:
        before, now = (1e3 * value for value in seconds)
        rows["network"] = f"takes {now:.1f} ms for an image, {before:.1f} in float32"
    print_table(title, rows)
