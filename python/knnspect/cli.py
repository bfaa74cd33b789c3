"""The command line: ``knnspect demo, fit, predict, evaluate, bench, info``.

Results go to standard output, everything else to standard error. Exit codes: 0, 1 (the work
failed), 2 (bad usage), 130 (interrupted).
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from knnspect.errors import (
    DTypeError,
    ImageWarning,
    KnnspectError,
    ParameterError,
    StoreError,
)

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Find defects in images by comparing deep features with those of normal images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_BACKBONE, _LEARNING, _BENCH = "Backbone", "Detector", "Comparison"

Method = Annotated[
    str, typer.Option(help="Detector: spade or patchcore.", rich_help_panel=_LEARNING)
]
BackboneName = Annotated[
    str,
    typer.Option(
        "--backbone", help="Any timm model that gives feature maps.", rich_help_panel=_BACKBONE
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        help="auto, timm, package, or a .safetensors or .pth file.", rich_help_panel=_BACKBONE
    ),
]
Levels = Annotated[
    str, typer.Option(help="Feature maps to use, finest first.", rich_help_panel=_BACKBONE)
]
ImageSize = Annotated[
    str,
    typer.Option(help="Input of the network: 224 or HEIGHTxWIDTH.", rich_help_panel=_BACKBONE),
]
Resize = Annotated[
    str,
    typer.Option(help="How images meet it: stretch, crop or pad.", rich_help_panel=_BACKBONE),
]
PatchSize = Annotated[
    int | None,
    typer.Option(
        help="Average features over N x N cells; 1 for spade, 3 for patchcore by default.",
        rich_help_panel=_BACKBONE,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu or cuda; CUDA where there is one by default.", rich_help_panel=_BACKBONE
    ),
]
ImageNeighbors = Annotated[
    int | None,
    typer.Option(
        help="spade: K, normal images an image is compared with; 50 by default.",
        rich_help_panel=_LEARNING,
    ),
]
PixelNeighbors = Annotated[
    int | None,
    typer.Option(
        help="spade: kappa, normal cells averaged per cell; 1 by default.",
        rich_help_panel=_LEARNING,
    ),
]
CoresetSize = Annotated[
    str | None,
    typer.Option(
        "--coreset",
        help="patchcore: rows to keep, a share (0.01, the default), a number (1568), or none: all.",
        rich_help_panel=_LEARNING,
    ),
]
Projection = Annotated[
    int | None,
    typer.Option(
        help="patchcore: dimensions in which the coreset is picked; exact by default.",
        rich_help_panel=_LEARNING,
    ),
]
NearestNeighbors = Annotated[
    int | None,
    typer.Option(
        "--neighbors",
        help="patchcore: b, normal features that weigh an image score; 9 by default.",
        rich_help_panel=_LEARNING,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        help="patchcore: chooses the first row of the coreset; 0 by default.",
        rich_help_panel=_LEARNING,
    ),
]
Score = Annotated[
    str,
    typer.Option(
        help="image (the method's image score) or map (the maximum of the map).",
        rich_help_panel=_LEARNING,
    ),
]
Upsample = Annotated[str, typer.Option(help="bilinear or block.", rich_help_panel=_LEARNING)]
GalleryDtype = Annotated[
    str,
    typer.Option(
        help="How the gallery keeps features: float32, float16 or int8.",
        rich_help_panel=_LEARNING,
    ),
]
Sigma = Annotated[
    float,
    typer.Option(help="Blur of the map, in pixels of a 224 px input.", rich_help_panel=_LEARNING),
]
BackendName = Annotated[
    str,
    typer.Option("--backend", help="What searches the gallery.", rich_help_panel=_LEARNING),
]
Threads = Annotated[int | None, typer.Option(help="Threads of the search; all by default.")]
BatchSize = Annotated[int, typer.Option(help="Images that go through the network together.")]
Workers = Annotated[int, typer.Option(help="Threads that read images.")]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        help="Memory to use, such as 2GB: features go to a folder as they come, which becomes the "
        "model; an interrupted fit goes on there."
    ),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Report unusable images and go on without them.")
]


#: Options that only one method has; None where they were not given.
_OWN = {
    "spade": ("image_neighbors", "pixel_neighbors"),
    "patchcore": ("coreset", "projection", "neighbors", "seed"),
}


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

    run_demo(output, workers, _console())


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
    patch_size: PatchSize = None,
    image_neighbors: ImageNeighbors = None,
    pixel_neighbors: PixelNeighbors = None,
    coreset: CoresetSize = None,
    projection: Projection = None,
    neighbors: NearestNeighbors = None,
    seed: Seed = None,
    score: Score = "image",
    upsample: Upsample = "bilinear",
    gallery_dtype: GalleryDtype = "float32",
    sigma: Sigma = 4.0,
    backend: BackendName = "auto",
    threads: Threads = None,
    device: Device = None,
    batch_size: BatchSize = 16,
    workers: Workers = 2,
    max_memory: MaxMemory = None,
    skip_bad: SkipBad = False,
) -> None:
    """Learn what is normal from a folder of images."""
    from knnspect.report.contents import size_of

    detector = _detector(locals())
    _check_writable(output, folder=max_memory is not None)
    start = time.perf_counter()
    with _LeftOut() as left_out:
        detector.fit(
            images,
            batch_size=batch_size,
            n_workers=workers,
            skip_bad=skip_bad,
            progress=True,
            max_memory=max_memory,
            folder=None if max_memory is None else output,
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
    skip_bad: SkipBad = False,
) -> None:
    """Judge images: a score and a heat-map overlay for each."""
    from knnspect.data import open_images
    from knnspect.detectors import load
    from knnspect.report import ResultsFolder

    detector = load(model, device=device)
    detector.threads = threads
    results = ResultsFolder(output, detector.normal_map_max_, detector.backbone.geometry)
    source = open_images(images)
    pictures = {item.id: item.load for item in source}
    lines: list[str] = []
    with _LeftOut() as left_out:
        for prediction in detector.iter_predict(
            source, batch_size=batch_size, n_workers=workers, skip_bad=skip_bad, progress=True
        ):
            results.add(prediction, pictures[prediction.id]())
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
    method: Method = "spade",
    backbone: BackboneName = "efficientnet_lite0",
    weights: Weights = "auto",
    levels: Levels = "1,2,3",
    image_size: ImageSize = "224",
    resize: Resize = "stretch",
    patch_size: PatchSize = None,
    image_neighbors: ImageNeighbors = None,
    pixel_neighbors: PixelNeighbors = None,
    coreset: CoresetSize = None,
    projection: Projection = None,
    neighbors: NearestNeighbors = None,
    seed: Seed = None,
    score: Score = "image",
    upsample: Upsample = "bilinear",
    gallery_dtype: GalleryDtype = "float32",
    sigma: Sigma = 4.0,
    backend: BackendName = "auto",
    threads: Threads = None,
    device: Device = None,
    batch_size: BatchSize = 16,
    workers: Workers = 2,
) -> None:
    """Fit on train/good, judge test/*, and compare with ground_truth/*."""
    from knnspect.data import MVTecDataset
    from knnspect.evaluation import evaluate as run_evaluation
    from knnspect.files import replace_file

    detector = _detector(locals())
    if json_file is not None:
        _check_writable(json_file)
    evaluation, _ = run_evaluation(
        detector,
        MVTecDataset(dataset),
        batch_size=batch_size,
        n_workers=workers,
        progress=True,
    )
    figures = evaluation.to_dict()
    if json_file is not None:
        replace_file(json_file, (json.dumps(figures, indent=2) + "\n").encode())
    seconds = figures.pop("seconds")
    rows = {name.replace("_", " "): _figure(value) for name, value in figures.items()}
    rows |= {f"seconds, {stage}": f"{value:.2f}" for stage, value in seconds.items()}
    _print_table(str(dataset), rows)


@app.command()
def bench(
    context: typer.Context,
    images: Annotated[
        Path | None,
        typer.Argument(
            help="Images: a dataset in MVTec layout; or what to judge, with --train or --model; or "
            "normal images, of which some are held out. Synthetic features without any."
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="A model that fit wrote.", rich_help_panel=_BENCH)
    ] = None,
    train: Annotated[
        Path | None, typer.Option(help="Normal images to learn from.", rich_help_panel=_BENCH)
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="Dataset in MVTec layout.", rich_help_panel=_BENCH)
    ] = None,
    shapes: Annotated[
        str,
        typer.Option(help="Levels of synthetic features, finest first.", rich_help_panel=_BENCH),
    ] = "56x56x24,28x28x40,14x14x112",
    backends: Annotated[
        str | None,
        typer.Option(
            help="What to compare, such as rust,torch:cuda:0; all by default.",
            rich_help_panel=_BENCH,
        ),
    ] = None,
    queries: Annotated[
        int, typer.Option(help="Images that are looked up.", min=1, rich_help_panel=_BENCH)
    ] = 10,
    repeats: Annotated[
        int, typer.Option(help="How often each is timed.", min=1, rich_help_panel=_BENCH)
    ] = 3,
    batch_sizes: Annotated[
        str, typer.Option(help="Images handled together.", rich_help_panel=_BENCH)
    ] = "1,8,32",
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Also write all to this file.", rich_help_panel=_BENCH),
    ] = None,
    chart: Annotated[
        Path | None,
        typer.Option(help="Draw the stages as a PNG; needs matplotlib.", rich_help_panel=_BENCH),
    ] = None,
    pixel_neighbors: Annotated[
        int | None,
        typer.Option(
            "--k",
            "--pixel-neighbors",
            help="spade, synthetic: normal cells found per cell; 1 by default.",
            min=1,
            rich_help_panel=_LEARNING,
        ),
    ] = None,
    image_neighbors: Annotated[
        int | None,
        typer.Option(
            "--images",
            "--image-neighbors",
            help="spade, synthetic: normal images that are searched; 50 by default.",
            min=1,
            rich_help_panel=_LEARNING,
        ),
    ] = None,
    method: Method = "spade",
    backbone: BackboneName = "efficientnet_lite0",
    weights: Weights = "auto",
    levels: Levels = "1,2,3",
    image_size: ImageSize = "224",
    resize: Resize = "stretch",
    patch_size: PatchSize = None,
    coreset: CoresetSize = None,
    projection: Projection = None,
    neighbors: NearestNeighbors = None,
    seed: Seed = None,
    score: Score = "image",
    upsample: Upsample = "bilinear",
    gallery_dtype: GalleryDtype = "float32",
    sigma: Sigma = 4.0,
    threads: Threads = None,
    device: Device = None,
    workers: Workers = 2,
) -> None:
    """Time backends side by side, after comparing what they find."""
    from knnspect.backends import get_backend
    from knnspect.bench import check_matplotlib, describe_case, run_bench, save_chart, tables
    from knnspect.files import replace_file

    options = locals()
    if chart is not None:
        check_matplotlib()
    for file in (json_file, chart):
        if file is not None:
            _check_writable(file)
    names = None if backends is None else [name.strip() for name in backends.split(",")]
    for name in names or ():
        get_backend(name)
    sizes = _numbers("--batch-sizes", batch_sizes, ",")
    if min(sizes) < 1:
        raise ParameterError(f"--batch-sizes: expected at least 1, got {min(sizes)}")
    case, labelled = _bench_case(context, options)
    report = run_bench(
        case,
        names,
        threads=threads,
        repeats=repeats,
        batch_sizes=sizes,
        dataset=labelled,
        progress=True,
    )
    if json_file is not None:
        replace_file(json_file, (json.dumps(report.to_dict(), indent=2) + "\n").encode())
    if chart is not None:
        save_chart(report, chart)
    console = _console()
    console.print(describe_case(report.case))
    for table in tables(report):
        console.print(table)
    for name, problem in report.unavailable.items():
        console.print(f"{name}: not available: {problem}", soft_wrap=True)


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
    from knnspect.report.contents import contents

    _print_table(str(model), {name: _figure(value) for name, value in contents(model, verify)})


def main() -> None:
    """Run the command line; errors end it with one line and an exit code, not a traceback."""
    warnings.showwarning = _show_warning
    # Each warning once, also where the same line of code repeats it for another image.
    warnings.simplefilter("always", UserWarning)
    try:
        app(prog_name="knnspect")
    except (ParameterError, DTypeError) as error:
        _fail(error, 2)
    except (KnnspectError, OSError, MemoryError) as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def _fail(error: object, code: int) -> None:
    typer.echo(f"knnspect: {error or type(error).__name__}", err=True)
    sys.exit(code)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,  # noqa: ARG001 - the signature is Python's
    lineno: int,  # noqa: ARG001
    file: Any = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    if issubclass(category, UserWarning):
        typer.echo(f"knnspect: {message}", err=True)


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


def _detector(options: dict[str, Any]) -> Any:
    """Build the detector that the options of `fit` and `evaluate` describe."""
    from knnspect.detectors import PatchCore, Spade
    from knnspect.features import Backbone

    method = options["method"]
    if method not in _OWN:
        raise ParameterError(f"--method: expected one of {', '.join(_OWN)}, got {method!r}")
    for other, names in _OWN.items():
        for name in names:
            if other != method and options[name] is not None:
                raise ParameterError(
                    f"--{name.replace('_', '-')}: is an option of {other}, the method is {method}"
                )
    patch_size = options["patch_size"]
    if patch_size is None:
        patch_size = 3 if method == "patchcore" else 1
    backbone = Backbone(
        options["backbone"],
        levels=_numbers("--levels", options["levels"], ","),
        image_size=_image_size(options["image_size"]),
        weights=options["weights"],
        resize=options["resize"],
        patch_size=patch_size,
        device=options["device"],
    )
    names = ("score", "upsample", "gallery_dtype", "sigma", "backend", "threads")
    given = {name: options[name] for name in names}
    given |= {name: options[name] for name in _OWN[method] if options[name] is not None}
    if "coreset" in given:
        given["coreset"] = _coreset_size(given["coreset"])
    return PatchCore(backbone, **given) if method == "patchcore" else Spade(backbone, **given)


#: Options of `bench` that describe a detector to fit, those of its gallery, and those of judging.
_OF_FIT = (
    "method", "backbone", "weights", "levels", "image_size", "resize", "patch_size", "coreset",
    "projection", "neighbors", "seed", "score", "sigma",
)  # fmt: skip
_OF_GALLERY = ("upsample", "gallery_dtype")
_OF_JUDGING = ("device", "workers")


def _bench_case(context: typer.Context, options: dict[str, Any]) -> tuple[Any, Any]:
    """Return what `bench` is to measure, and the dataset if there is one."""
    from knnspect.bench import DetectorCase, fitted_case, is_dataset, synthetic_case
    from knnspect.data import MVTecDataset
    from knnspect.detectors import load

    def refuse(names: tuple[str, ...], why: str) -> None:
        for name in names:
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                raise ParameterError(f"--{name.replace('_', '-')}: {why}")

    images, model, train = options["images"], options["model"], options["train"]
    root = options["dataset"]
    if root is not None and images is not None:
        raise ParameterError("--dataset: expected either it or IMAGES, got both")
    if root is None and images is not None and train is None and is_dataset(images):
        root = images
    dataset = None if root is None else MVTecDataset(root)
    k, n_images = options["pixel_neighbors"], options["image_neighbors"]
    if dataset is None and images is None:
        if model is not None:
            raise ParameterError("--model: expected IMAGES or --dataset with it, got neither")
        refuse((*_OF_FIT, *_OF_JUDGING, "train"), "needs images, and there are none")
        typer.echo(
            "synthetic features: smooth maps with noise, which have less structure than those of "
            "images; name your own images, or a model, for figures that count",
            err=True,
        )
        case: Any = synthetic_case(
            _shapes(options["shapes"]), n_images or 50, options["queries"], k or 1,
            options["upsample"], options["gallery_dtype"],
        )  # fmt: skip
        return case, None
    refuse(("shapes",), "is for synthetic features, and there are images")
    if train is not None and (model is not None or dataset is not None):
        raise ParameterError("--train: is not for a model or a dataset, which has its own images")
    n_queries, workers = options["queries"], options["workers"]
    queries = images if dataset is None else [image.path for image in dataset.test]
    if model is None:
        detector = _detector(options | {"backend": "auto"})
        learnt = train if dataset is None else dataset.train
        case = fitted_case(detector, queries, learnt, n_queries, n_workers=workers, progress=True)
        return case, dataset
    refuse((*_OF_FIT, *_OF_GALLERY), "is settled in the model")
    loaded: Any = load(model, device=options["device"])
    if loaded.method != "spade":
        refuse(
            ("pixel_neighbors", "image_neighbors"), f"is for spade, the model is {loaded.method}"
        )
    loaded.pixel_neighbors = k or getattr(loaded, "pixel_neighbors", 1)
    loaded.image_neighbors = n_images or getattr(loaded, "image_neighbors", 1)
    return DetectorCase(loaded, queries, n_queries, workers), dataset


def _shapes(text: str) -> list[tuple[int, int, int]]:
    shapes = [_numbers("--shapes", part, "x") for part in text.split(",")]
    for shape in shapes:
        if len(shape) != 3:
            raise ParameterError(f"--shapes: expected HEIGHTxWIDTHxCHANNELS,…, got {text!r}")
    return [(height, width, channels) for height, width, channels in shapes]


def _coreset_size(text: str) -> float | int | None:
    if text == "none":
        return None
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    raise ParameterError(f"--coreset: expected a share, a number of rows or none, got {text!r}")


def _numbers(name: str, text: str, separator: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(separator))
    except ValueError:
        raise ParameterError(
            f"{name}: expected whole numbers separated by {separator!r}, got {text!r}"
        ) from None


def _image_size(text: str) -> tuple[int, int]:
    sizes = _numbers("--image-size", text, "x")
    if len(sizes) > 2:
        raise ParameterError(f"--image-size: expected 224 or HEIGHTxWIDTH, got {text!r}")
    return sizes[0], sizes[-1]


def _check_writable(path: Path, folder: bool = False) -> None:
    """Fail before the work rather than after it."""
    if folder and path.is_file():
        raise StoreError(f"{path}: expected a folder to write, as there is a limit; it is a file")
    if path.is_dir() and not folder:
        raise StoreError(f"{path}: expected a file to write, it is a folder")
    if not path.absolute().parent.is_dir():
        raise StoreError(f"{path}: the folder {path.absolute().parent} does not exist")


def _figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return str(value)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False)


def _print_table(title: str, rows: dict[str, str]) -> None:
    from rich.table import Table
    from rich.text import Text

    # As Text, since a path may hold what looks like markup.
    table = Table(title=Text(title), title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(Text(name), Text(value))
    _console().print(table)
