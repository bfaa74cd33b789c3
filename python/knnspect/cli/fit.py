"""The command ``knnspect fit``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from knnspect.cli.check import without_listed
from knnspect.cli.clean import cleaned, say_dropped
from knnspect.cli.composing import ViewOptions, refuse_options
from knnspect.cli.decisions import Blocks, promise
from knnspect.cli.left_out import LeftOut
from knnspect.cli.on_cluster import ClusterOptions
from knnspect.cli.options import BatchSize, Config, Method, SkipBad, Workers, build_detector
from knnspect.cli.places import check_writable
from knnspect.errors import ParameterError

if TYPE_CHECKING:
    from knnspect.cleaning import Cleaner
    from knnspect.data import ImageSource
    from knnspect.detectors import Detector

__all__ = ["fit"]


def fit(
    images: Annotated[Path, typer.Argument(help="Folder of normal images, or one image.")],
    output: Annotated[
        Path,
        typer.Option(help="The model to write: a file, or a folder with --max-memory or --ray."),
    ],
    *,
    method: Method = "spade",  # noqa: ARG001 - it was read before: `kind`
    config: Config = None,  # noqa: ARG001
    batch_size: BatchSize = 16,
    workers: Workers = 2,
    max_memory: Annotated[
        str | None,
        typer.Option(
            help="Memory to use, such as 2GB: features go to a folder as they come, which becomes "
            "the model; an interrupted fit goes on there."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Methods that train a network: file from which an interrupted training goes on; "
            "beside OUTPUT by default, deleted when all is done."
        ),
    ] = None,
    without: Annotated[
        Path | None,
        typer.Option(help="List of images to leave out, one a line, as `check --drop` writes it."),
    ] = None,
    clean: Annotated[
        bool,
        typer.Option(
            "--clean",
            help="First drop images that may be defective, as `clean` does; they are listed in a "
            "file beside OUTPUT.",
        ),
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Folder of normal images that are not learnt from, whose scores decide what is "
            "anomalous; by default those of images learnt from do."
        ),
    ] = None,
    blocks: Blocks = None,
    views: ViewOptions,
    elsewhere: ClusterOptions,
    skip_bad: SkipBad = False,
    kind: type[Detector],
    given: dict[str, str],
) -> None:
    """Learn what is normal from a folder of images."""
    from knnspect.data import open_to_learn
    from knnspect.detectors import Composed, Detector
    from knnspect.detectors.heads.duad import Duad
    from knnspect.model_files.inspect import size_of
    from knnspect.normal_features.folder import CHECKPOINT

    detector = views.before(build_detector(kind, given))
    is_composed = isinstance(detector, Composed)
    cluster = elsewhere.cluster()
    refuse_options(
        detector, max_memory=max_memory, checkpoint=checkpoint, clean=clean, ray=elsewhere.ray
    )
    folder = None if max_memory is None and cluster is None else output
    check_writable(output, folder=folder is not None)
    if checkpoint is not None and checkpoint.absolute() == output.absolute():
        raise ParameterError(f"--checkpoint: expected another file than --output, got {output}")
    cleaner = _cleaner_for(detector) if clean and isinstance(detector, Detector) else None
    dropped = output.with_name(output.name + ".dropped.txt")
    if clean or issubclass(kind, Duad):
        check_writable(dropped)
    # Before the work, which may be long.
    held_out = None if calibrate is None else open_to_learn(calibrate)
    resumable = None
    if kind.trains and not is_composed:
        if checkpoint is None and folder is None:
            checkpoint = output.with_name(output.name + ".checkpoint")
        # Without one given, it is in the folder.
        resumable = checkpoint or output / CHECKPOINT
    start = time.perf_counter()
    left_out = LeftOut()
    learnt_from: Path | ImageSource = images
    if without is not None:
        learnt_from = without_listed(open_to_learn(images), without)
    if cleaner is not None:
        source = open_to_learn(learnt_from)
        learnt_from = cleaned(source, cleaner, dropped, batch_size, workers, skip_bad)
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "n_workers": workers,
        "skip_bad": left_out if skip_bad else False,
        "progress": True,
        "calibration_images": held_out,
        "blocks": None if blocks is None else blocks.value,
    }
    if not is_composed:
        options |= {"max_memory": max_memory, "folder": folder, "checkpoint": checkpoint}
        options |= {"cluster": cluster}
    with _Resumable(resumable):
        detector.fit(learnt_from, **options)
    detector.save(output)
    if isinstance(detector, Duad):  # has dropped some of its own accord
        say_dropped(detector.selection_, dropped)
    typer.echo(
        f"{output}: learnt from {detector.n_images_} images in {time.perf_counter() - start:.1f} "
        f"s, {size_of(output) / 1e6:.1f} MB{left_out.summary()}; "
        f"{promise(detector)}"
    )


def _cleaner_for(detector: Detector) -> Cleaner:
    """Return what drops images before a detector learns."""
    from knnspect.cleaning import Cleaner
    from knnspect.detectors.heads.duad import Duad

    if isinstance(detector, Duad):
        raise ParameterError(f"--clean: {detector.method} drops images of its own accord")
    return Cleaner(detector.backbone)


class _Resumable:
    """Says where an interrupted training can go on."""

    def __init__(self, checkpoint: Path | None) -> None:
        self._checkpoint = checkpoint

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        is_interrupt = kind is not None and issubclass(kind, KeyboardInterrupt)
        if is_interrupt and self._checkpoint and self._checkpoint.exists():
            typer.echo(f"{self._checkpoint}: the same command goes on from here", err=True)
