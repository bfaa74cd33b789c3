"""The command ``knnspect bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from knnspect.errors import ParameterError
from knnspect.options import (
    LEARNING,
    BackboneName,
    CoresetSize,
    Device,
    GalleryDtype,
    GoodNames,
    ImageSize,
    Levels,
    MaxPixels,
    Method,
    NearestNeighbors,
    PatchSize,
    Projection,
    Resize,
    Score,
    Seed,
    Sigma,
    Threads,
    Upsample,
    Weights,
    White,
    Workers,
    build_detector,
    console,
    good_names,
    is_trained,
    max_pixels_of,
    numbers,
)
from knnspect.places import check_writable
from knnspect.validation import check_count

__all__ = ["bench"]

_BENCH = "Comparison"
#: Images that are handled together.
_LARGEST_BATCH = 65536


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
    good: GoodNames = "good",
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
            help="spade, synthetic: normal cells found per cell; 1 by default.",
            min=1,
            rich_help_panel=LEARNING,
        ),
    ] = None,
    image_neighbors: Annotated[
        int | None,
        typer.Option(
            "--images",
            help="spade, synthetic: normal images that are searched; 50 by default.",
            min=1,
            rich_help_panel=LEARNING,
        ),
    ] = None,
    method: Method = "spade",
    backbone: BackboneName = "efficientnet_lite0",
    weights: Weights = "auto",
    levels: Levels = "1,2,3",
    image_size: ImageSize = "224",
    resize: Resize = "stretch",
    white: White = None,
    patch_size: PatchSize = None,
    coreset: CoresetSize = None,
    projection: Projection = None,
    neighbors: NearestNeighbors = None,
    seed: Seed = None,
    score: Score = None,
    upsample: Upsample = None,
    gallery_dtype: GalleryDtype = None,
    sigma: Sigma = None,
    threads: Threads = None,
    device: Device = None,
    workers: Workers = 2,
    max_pixels: MaxPixels = None,
) -> None:
    """Time backends side by side, after comparing what they find."""
    from knnspect.backends import get_backend
    from knnspect.bench import check_matplotlib, describe_case, run_bench, save_chart, tables
    from knnspect.files import replace_file

    options = locals()
    if chart is not None:
        check_matplotlib()
        check_writable(chart, picture=True)
    if json_file is not None:
        check_writable(json_file)
    names = None if backends is None else [name.strip() for name in backends.split(",")]
    for name in names or ():
        get_backend(name)
    sizes = numbers("--batch-sizes", batch_sizes, ",")
    for size in sizes:
        check_count("--batch-sizes", size, maximum=_LARGEST_BATCH)
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
    out = console()
    out.print(f"{describe_case(report.case)}; {report.gallery_bytes / 1e6:.1f} MB")
    for table in tables(report):
        out.print(table)
    for name, problem in report.unavailable.items():
        out.print(f"{name}: not available: {problem}", soft_wrap=True)
    out.print("auto means {backend}: {reason}".format(**report.auto), soft_wrap=True)


#: Options that are not spelt as their parameters.
_SPELT = {"pixel_neighbors": "k", "image_neighbors": "images"}

#: Options of `bench` that describe a detector to fit, those of its gallery, and those of judging.
_OF_FIT = (
    "method", "backbone", "weights", "levels", "image_size", "resize", "white", "patch_size",
    "coreset", "projection", "neighbors", "seed", "score", "sigma",
)  # fmt: skip
_OF_GALLERY = ("upsample", "gallery_dtype")
_OF_JUDGING = ("device", "workers", "max_pixels")


def _bench_case(context: typer.Context, options: dict[str, Any]) -> tuple[Any, Any]:
    """Return what `bench` is to measure, and what is labelled if there is a dataset."""
    from knnspect.bench import DetectorCase, Labelled, fitted_case, is_dataset, synthetic_case
    from knnspect.data import MVTecDataset
    from knnspect.detectors import load

    def refuse(names: tuple[str, ...], why: str) -> None:
        for name in names:
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                raise ParameterError(f"--{_SPELT.get(name, name.replace('_', '-'))}: {why}")

    images, model, train = options["images"], options["model"], options["train"]
    root = options["dataset"]
    if root is not None and images is not None:
        raise ParameterError("--dataset: expected either it or IMAGES, got both")
    if root is None and images is not None and train is None and is_dataset(images):
        root = images
    if root is None:
        refuse(("good",), "needs a dataset, and there is none")
    dataset = None if root is None else MVTecDataset(root, good_names(options["good"]))
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
            options["upsample"] or "bilinear", options["gallery_dtype"] or "float32",
        )  # fmt: skip
        return case, None
    refuse(("shapes",), "is for synthetic features, and there are images")
    if is_trained(options["method"]):
        raise ParameterError(
            f"--method: expected one that searches, spade or patchcore, got {options['method']!r}"
        )
    if train is not None and (model is not None or dataset is not None):
        raise ParameterError("--train: is not for a model or a dataset, which has its own images")
    # Read before the work: a mask that cannot be used ends it.
    labelled = None if dataset is None else Labelled(dataset)
    n_queries, workers = options["queries"], options["workers"]
    queries = images if dataset is None else [image.path for image in dataset.test]
    if model is None:
        if options["method"] == "patchcore":
            refuse(tuple(_SPELT), "is an option of spade, the method is patchcore")
        detector = build_detector(options)
        learnt = train if dataset is None else dataset.train
        case = fitted_case(detector, queries, learnt, n_queries, n_workers=workers, progress=True)
        return case, labelled
    refuse((*_OF_FIT, *_OF_GALLERY), "is settled in the model")
    loaded: Any = load(model, device=options["device"])
    loaded.backbone.max_pixels = max_pixels_of(options["max_pixels"])
    if loaded.method != "spade":
        refuse(tuple(_SPELT), f"is an option of spade, the model is of {loaded.method}")
    for name in _SPELT:
        if options[name] is not None:
            setattr(loaded, name, options[name])
    return DetectorCase(loaded, queries, n_queries, workers), labelled


def _shapes(text: str) -> list[tuple[int, int, int]]:
    shapes = [numbers("--shapes", part, "x") for part in text.split(",")]
    for shape in shapes:
        if len(shape) != 3:
            raise ParameterError(f"--shapes: expected HEIGHTxWIDTHxCHANNELS,…, got {text!r}")
    return [(height, width, channels) for height, width, channels in shapes]
