"""The command line: ``knnspect demo, fit, predict, evaluate, bench, info``.

Results go to standard output, everything else to standard error. Exit codes: 0, 1 (the work
failed), 2 (bad usage), 130 (interrupted), 143 and 129 (ended by SIGTERM or SIGHUP).
"""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from knnspect.bench_command import bench
from knnspect.errors import ImageWarning, ParameterError
from knnspect.options import (
    BackboneName,
    BackendName,
    BatchSize,
    Checkpoint,
    CoresetSize,
    CouplingBlocks,
    Device,
    GalleryDtype,
    GoodNames,
    ImageNeighbors,
    ImageSize,
    LearningRate,
    Levels,
    MaxEpochs,
    MaxMemory,
    MaxPixels,
    Method,
    NearestNeighbors,
    Noise,
    PatchSize,
    Patience,
    PixelNeighbors,
    Projection,
    Resize,
    Score,
    Seed,
    Sigma,
    SkipBad,
    Threads,
    Upsample,
    Weights,
    White,
    Workers,
    build_detector,
    check_option,
    console,
    good_names,
    is_trained,
    max_pixels_of,
)
from knnspect.places import check_results_folder, check_writable
from knnspect.running import run
from knnspect.validation import check_count

app = typer.Typer(
    help="Find defects in images by comparing deep features with those of normal images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _about(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from knnspect import __version__

        typer.echo(f"knnspect {__version__}")
        raise typer.Exit


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("knnspect-demo"),
    workers: Workers = 2,
) -> None:
    """Learn normal solar cells, judge others, and show the strongest finds."""
    from knnspect.demo import run_demo

    check_results_folder(output)
    check_count("n_workers", workers, minimum=0)
    run_demo(output, workers, console())


@app.command()
def fit(
    images: Annotated[Path, typer.Argument(help="Folder of normal images, or one image.")],
    output: Annotated[
        Path, typer.Option(help="The model to write: a file, or a folder with --max-memory.")
    ],
    method: Method = "spade",
    backbone: BackboneName = "efficientnet_lite0",
    weights: Weights = "auto",
    levels: Levels = "1,2,3",
    image_size: ImageSize = "224",
    resize: Resize = "stretch",
    white: White = None,
    max_pixels: MaxPixels = None,
    patch_size: PatchSize = None,
    image_neighbors: ImageNeighbors = None,
    pixel_neighbors: PixelNeighbors = None,
    coreset: CoresetSize = None,
    projection: Projection = None,
    neighbors: NearestNeighbors = None,
    seed: Seed = None,
    max_epochs: MaxEpochs = None,
    patience: Patience = None,
    learning_rate: LearningRate = None,
    noise: Noise = None,
    coupling_blocks: CouplingBlocks = None,
    score: Score = None,
    upsample: Upsample = None,
    gallery_dtype: GalleryDtype = None,
    sigma: Sigma = None,
    backend: BackendName = None,
    threads: Threads = None,
    device: Device = None,
    batch_size: BatchSize = 16,
    workers: Workers = 2,
    max_memory: MaxMemory = None,
    checkpoint: Checkpoint = None,
    skip_bad: SkipBad = False,
) -> None:
    """Learn what is normal from a folder of images."""
    from knnspect.model_files.inspect import size_of
    from knnspect.normal_features.folder import CHECKPOINT

    options = locals()
    check_writable(output, folder=max_memory is not None)
    if checkpoint is not None and checkpoint.absolute() == output.absolute():
        raise ParameterError(f"--checkpoint: expected another file than --output, got {output}")
    detector = build_detector(options)
    training: dict[str, Path | None] = {}
    if is_trained(method):
        if checkpoint is None and max_memory is None:
            checkpoint = output.with_name(output.name + ".checkpoint")
        training = {"checkpoint": checkpoint}
        # Without one given, it is in the folder.
        checkpoint = checkpoint or output / CHECKPOINT
    elif checkpoint is not None:
        raise ParameterError(
            f"--checkpoint: is an option of simplenet and cflow, the method is {method}"
        )
    start = time.perf_counter()
    with _LeftOut() as left_out, _Resumable(checkpoint):
        detector.fit(
            images,
            batch_size=batch_size,
            n_workers=workers,
            skip_bad=skip_bad,
            progress=True,
            max_memory=max_memory,
            folder=None if max_memory is None else output,
            **training,
        )
    detector.save(output)
    n_images = detector.n_images_
    typer.echo(
        f"{output}: learnt from {n_images} images in {time.perf_counter() - start:.1f} s, "
        f"{size_of(output) / 1e6:.1f} MB{left_out.summary()}"
    )


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A model that fit wrote.")],
    images: Annotated[Path, typer.Argument(help="Folder of images, or one image.")],
    output: Annotated[Path, typer.Option(help="Folder for overlays, scores.csv and scores.json.")],
    threads: Threads = None,
    device: Device = None,
    batch_size: BatchSize = 16,
    workers: Workers = 2,
    max_pixels: MaxPixels = None,
    skip_bad: SkipBad = False,
) -> None:
    """Judge images: a score and a heat-map overlay for each."""
    from knnspect.data import open_to_judge
    from knnspect.detectors import load
    from knnspect.report import ResultsFolder, check_apart

    check_results_folder(output)
    check_count("batch_size", batch_size)
    check_count("n_workers", workers, minimum=0)
    detector: Any = load(model, device=device)
    detector.backbone.max_pixels = max_pixels_of(max_pixels)
    if threads is not None:
        check_option("threads", detector.method)
        detector.threads = check_count("threads", threads)
    source = open_to_judge(images)
    check_apart(output, images, [item.id for item in source])
    results = ResultsFolder(output, detector.normal_map_max_, detector.backbone.geometry)
    pictures = {item.id: item for item in source}
    reader = detector.backbone.reader()
    lines: list[str] = []
    with _LeftOut() as left_out:
        for prediction in detector.iter_predict(
            source, batch_size=batch_size, n_workers=workers, skip_bad=skip_bad, progress=True
        ):
            results.add(prediction, pictures[prediction.id].read(reader))
            lines.append(f"{prediction.score:.6g}\t{prediction.id}")
    about = {"model": str(model), "method": detector.method, "score": detector.score}
    results.finish(about, left_out.reasons)
    typer.echo("\n".join(lines))
    typer.echo(f"{output}: {len(results)} images{left_out.summary()}", err=True)


@app.command()
def evaluate(
    dataset: Annotated[Path, typer.Argument(help="Dataset in MVTec layout.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the figures to this file.")
    ] = None,
    good: GoodNames = "good",
    method: Method = "spade",
    backbone: BackboneName = "efficientnet_lite0",
    weights: Weights = "auto",
    levels: Levels = "1,2,3",
    image_size: ImageSize = "224",
    resize: Resize = "stretch",
    white: White = None,
    max_pixels: MaxPixels = None,
    patch_size: PatchSize = None,
    image_neighbors: ImageNeighbors = None,
    pixel_neighbors: PixelNeighbors = None,
    coreset: CoresetSize = None,
    projection: Projection = None,
    neighbors: NearestNeighbors = None,
    seed: Seed = None,
    max_epochs: MaxEpochs = None,
    patience: Patience = None,
    learning_rate: LearningRate = None,
    noise: Noise = None,
    coupling_blocks: CouplingBlocks = None,
    score: Score = None,
    upsample: Upsample = None,
    gallery_dtype: GalleryDtype = None,
    sigma: Sigma = None,
    backend: BackendName = None,
    threads: Threads = None,
    device: Device = None,
    batch_size: BatchSize = 16,
    workers: Workers = 2,
) -> None:
    """Fit on train/good, judge test/*, and compare with ground_truth/*."""
    from knnspect.data import MVTecDataset
    from knnspect.evaluation import evaluate as run_evaluation
    from knnspect.files import replace_file

    options = locals()
    if json_file is not None:
        check_writable(json_file)
    detector = build_detector(options)
    evaluation, _ = run_evaluation(
        detector,
        MVTecDataset(dataset, good_names(good)),
        batch_size=batch_size,
        n_workers=workers,
        progress=True,
    )
    figures = evaluation.to_dict()
    if json_file is not None:
        replace_file(json_file, (json.dumps(figures, indent=2) + "\n").encode())
    seconds, reasons = figures.pop("seconds"), figures.pop("undefined", {})
    figures.pop("notes", None)  # which were said before the work
    figures |= {name: f"not defined: {reason}" for name, reason in reasons.items()}
    rows = {name.replace("_", " "): _figure(value) for name, value in figures.items()}
    rows |= {f"seconds, {stage}": f"{value:.2f}" for stage, value in seconds.items()}
    _print_table(str(dataset), rows)


app.command()(bench)


@app.command()
def info(
    model: Annotated[
        Path, typer.Argument(help="A model, a gallery or a coreset: a file or a folder.")
    ],
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Also read all images of a folder; a file is always read."),
    ] = False,
) -> None:
    """Say what a model or a gallery holds, and whether it is as it was written."""
    from knnspect.model_files.inspect import contents

    _print_table(str(model), {name: _figure(value) for name, value in contents(model, verify)})


def main() -> None:
    """Run the command line; errors end it with one line and an exit code, not a traceback."""
    run(app)


class _LeftOut:
    """Collects why images were left out while it is entered, and says so at once."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def __enter__(self) -> _LeftOut:
        self._shown = warnings.showwarning
        warnings.showwarning = self._show
        return self

    def __exit__(self, *_: object) -> None:
        warnings.showwarning = self._shown

    def _show(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, ImageWarning):
            self.reasons.append(str(message))
        self._shown(message, category, filename, lineno, file, line)

    def summary(self) -> str:
        """Return what is to be said at the end."""
        return f", {len(self.reasons)} left out" if self.reasons else ""


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


def _figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return str(value)


def _print_table(title: str, rows: dict[str, str]) -> None:
    from rich.table import Table
    from rich.text import Text

    # As Text, since a path may hold what looks like markup.
    table = Table(title=Text(title), title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(Text(name), Text(value))
    console().print(table)
