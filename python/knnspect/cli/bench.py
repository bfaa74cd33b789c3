"""The command ``knnspect bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from knnspect.cli.options import (
    Config,
    GoodNames,
    Method,
    Workers,
    build_detector,
    flag,
    good_names,
    parsed,
)
from knnspect.cli.places import check_writable
from knnspect.cli.printing import console
from knnspect.errors import ParameterError
from knnspect.validation import check_count, parse_numbers

if TYPE_CHECKING:
    from knnspect.detectors import Detector

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
    *,
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
            rich_help_panel=_BENCH,
        ),
    ] = None,
    image_neighbors: Annotated[
        int | None,
        typer.Option(
            "--images",
            help="spade, synthetic: normal images that are searched; 50 by default.",
            min=1,
            rich_help_panel=_BENCH,
        ),
    ] = None,
    method: Method = "spade",  # noqa: ARG001 - it was read before: `kind`
    config: Config = None,  # noqa: ARG001
    workers: Workers = 2,
    kind: type[Detector],
    given: dict[str, str],
) -> None:
    """Time backends side by side, after comparing what they find."""
    from knnspect.backends import get_backend
    from knnspect.bench import check_matplotlib, describe_case, run_bench, save_chart, tables
    from knnspect.data import MVTecDataset
    from knnspect.files import replace_file

    if chart is not None:
        check_matplotlib()
        check_writable(chart, picture=True)
    if json_file is not None:
        check_writable(json_file)
    names = None if backends is None else [name.strip() for name in backends.split(",")]
    for name in names or ():
        get_backend(name)
    sizes = parse_numbers("--batch-sizes", batch_sizes, ",")
    for size in sizes:
        check_count("--batch-sizes", size, maximum=_LARGEST_BATCH)
    asked = _Asked(context, kind, given)
    root = _root(asked, images, dataset, train)
    found = None if root is None else MVTecDataset(root, good_names(good))
    labelled = None
    if found is None and images is None:
        case = _synthetic_case(asked, model, shapes, queries, pixel_neighbors, image_neighbors)
    else:
        case, labelled = _detector_case(asked, images, model, train, found, queries, workers)
    threads = given.get("threads")
    report = run_bench(
        case,
        names,
        threads=None if threads is None else parsed(kind.parameters["threads"], threads),
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


#: Parameters of spade whose options are not spelt as they are, as synthetic features have them too.
_SPELT = {"pixel_neighbors": "--k", "image_neighbors": "--images"}
#: What synthetic features have of a method's options, and what may be given with a model.
_OF_GALLERY, _OF_JUDGING = ("upsample", "gallery_dtype"), ("device", "max_pixels")


class _Asked:
    """What a user asked for: the method, its options, and which others were given."""

    def __init__(self, context: typer.Context, kind: type[Detector], given: dict[str, str]) -> None:
        self._context, self.kind, self.given = context, kind, given

    def spelt(self) -> dict[str, int]:
        """Return those of the parameters of spade that were given."""
        return {name: n for name in _SPELT if (n := self._context.params[name]) is not None}

    def refuse(self, *names: str, why: str) -> None:
        """Raise a ParameterError for the first of some options that was given."""
        for name in names:
            source = self._context.get_parameter_source(name)
            on_command_line = source is not None and source.name == "COMMANDLINE"
            if name in self.given or on_command_line:
                raise ParameterError(f"{_SPELT.get(name, flag(name))}: {why}")


def _root(
    asked: _Asked, images: Path | None, dataset: Path | None, train: Path | None
) -> Path | None:
    """Return the folder of the dataset, if there is one."""
    from knnspect.bench import is_dataset

    if dataset is not None and images is not None:
        raise ParameterError("--dataset: expected either it or IMAGES, got both")
    if dataset is None and images is not None and train is None and is_dataset(images):
        dataset = images
    if dataset is None:
        asked.refuse("good", why="needs a dataset, and there is none")
    return dataset


def _synthetic_case(
    asked: _Asked,
    model: Path | None,
    shapes: str,
    n_queries: int,
    k: int | None,
    n_images: int | None,
) -> Any:
    """Return a search of features that are made up."""
    from knnspect.bench import synthetic_case

    if model is not None:
        raise ParameterError("--model: expected IMAGES or --dataset with it, got neither")
    allowed = {*_OF_GALLERY, "threads"}
    others = [name for name in asked.given if name not in allowed]
    asked.refuse("method", *others, "workers", "train", why="needs images, and there are none")
    typer.echo(
        "synthetic features: smooth maps with noise, which have less structure than those of "
        "images; name your own images, or a model, for figures that count",
        err=True,
    )
    values = {
        name: parsed(asked.kind.parameters[name], asked.given[name])
        for name in _OF_GALLERY
        if name in asked.given
    }
    return synthetic_case(
        _shapes(shapes),
        n_images or 50,
        n_queries,
        k or 1,
        values.get("upsample", "bilinear"),
        values.get("gallery_dtype", "float32"),
    )


def _detector_case(
    asked: _Asked,
    images: Path | None,
    model: Path | None,
    train: Path | None,
    dataset: Any,
    n_queries: int,
    workers: int,
) -> tuple[Any, Any]:
    """Return a detector with what it is to judge, and what of that is labelled."""
    from knnspect.bench import DetectorCase, Labelled, fitted_case
    from knnspect.detectors import Composed, get_method, load, methods
    from knnspect.detectors.nearest import NearestDetector

    asked.refuse("shapes", why="is for synthetic features, and there are images")
    if not issubclass(asked.kind, NearestDetector):
        words = [word for word in methods() if issubclass(get_method(word), NearestDetector)]
        raise ParameterError(
            f"--method: expected one that searches ({', '.join(words)}), got {asked.kind.method!r}"
        )
    if train is not None and (model is not None or dataset is not None):
        raise ParameterError("--train: is not for a model or a dataset, which has its own images")
    # Read before the work: a mask that cannot be used ends it.
    labelled = None if dataset is None else Labelled(dataset)
    queries = images if dataset is None else [image.path for image in dataset.test]
    if model is None:
        detector = build_detector(asked.kind, asked.given)
        _take_spelt(asked, detector, f"the method is {detector.method}")
        learnt = train if dataset is None else dataset.train
        case = fitted_case(detector, queries, learnt, n_queries, n_workers=workers, progress=True)
        return case, labelled
    settled = [name for name in asked.given if name not in {*_OF_JUDGING, "threads"}]
    asked.refuse("method", *settled, why="is settled in the model")
    loaded = load(model, device=asked.given.get("device"))
    if isinstance(loaded, Composed):
        raise ParameterError(f"{model}: is composed of several detectors: expected one alone")
    if "max_pixels" in asked.given:
        declared = loaded.backbone.parameters["max_pixels"]
        loaded.backbone.max_pixels = parsed(declared, asked.given["max_pixels"])
    _take_spelt(asked, loaded, f"the model is of {loaded.method}")
    return DetectorCase(loaded, queries, n_queries, workers), labelled


def _take_spelt(asked: _Asked, detector: Detector, but: str) -> None:
    """Set the parameters of spade that were given."""
    if not set(_SPELT) <= set(detector.parameters):
        asked.refuse(*_SPELT, why=f"is an option of spade, {but}")
    detector.set_params(**asked.spelt())


def _shapes(text: str) -> list[tuple[int, int, int]]:
    shapes = [parse_numbers("--shapes", part, "x") for part in text.split(",")]
    for shape in shapes:
        if len(shape) != 3:
            raise ParameterError(f"--shapes: expected HEIGHTxWIDTHxCHANNELS,…, got {text!r}")
    return [(height, width, channels) for height, width, channels in shapes]
