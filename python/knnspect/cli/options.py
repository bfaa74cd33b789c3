"""Options that commands share, and what is made of them."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from knnspect.errors import ParameterError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "LEARNING",
    "BackboneName",
    "BackendName",
    "BatchSize",
    "Checkpoint",
    "CoresetSize",
    "CouplingBlocks",
    "Device",
    "GalleryDtype",
    "GoodNames",
    "ImageNeighbors",
    "ImageSize",
    "LearningRate",
    "Levels",
    "MaxEpochs",
    "MaxMemory",
    "MaxPixels",
    "Method",
    "NearestNeighbors",
    "Noise",
    "PatchSize",
    "Patience",
    "PixelNeighbors",
    "Projection",
    "Resize",
    "Score",
    "Seed",
    "Sigma",
    "SkipBad",
    "Threads",
    "Upsample",
    "Weights",
    "White",
    "Workers",
    "build_detector",
    "check_option",
    "console",
    "good_names",
    "is_trained",
    "max_pixels_of",
    "numbers",
]

_BACKBONE, LEARNING = "Backbone", "Detector"

Method = Annotated[
    str,
    typer.Option(help="Detector: spade, patchcore, simplenet or cflow.", rich_help_panel=LEARNING),
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
        help="auto, timm, package, or a .safetensors or .pth file such as hubs publish.",
        rich_help_panel=_BACKBONE,
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
White = Annotated[
    str | None,
    typer.Option(
        help="Value that is white in images deeper than 8 bits, such as 4095, or auto: found on "
        "the normal images; the file's full scale by default.",
        rich_help_panel=_BACKBONE,
    ),
]
MaxPixels = Annotated[
    str | None,
    typer.Option(help="Pixels that an image may have; 200MP by default.", show_default=False),
]
PatchSize = Annotated[
    int | None,
    typer.Option(
        help="Average features over N x N cells; spade: 1, simplenet: 5, others: 3 by default.",
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
        rich_help_panel=LEARNING,
    ),
]
PixelNeighbors = Annotated[
    int | None,
    typer.Option(
        help="spade: kappa, normal cells averaged per cell; 1 by default.",
        rich_help_panel=LEARNING,
    ),
]
CoresetSize = Annotated[
    str | None,
    typer.Option(
        "--coreset",
        help="patchcore: rows to keep, a share (0.01, the default), a number (1568), or none: all.",
        rich_help_panel=LEARNING,
    ),
]
Projection = Annotated[
    int | None,
    typer.Option(
        help="patchcore: dimensions in which the coreset is picked; exact by default.",
        rich_help_panel=LEARNING,
    ),
]
NearestNeighbors = Annotated[
    int | None,
    typer.Option(
        "--neighbors",
        help="patchcore: b, normal features that weigh an image score; 9 by default.",
        rich_help_panel=LEARNING,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        help="patchcore, simplenet, cflow: decides what is drawn at random; 0 by default.",
        rich_help_panel=LEARNING,
    ),
]
MaxEpochs = Annotated[
    int | None,
    typer.Option(
        help="simplenet, cflow: passes through all images; 12 and 6 by default.",
        rich_help_panel=LEARNING,
    ),
]
Patience = Annotated[
    int | None,
    typer.Option(
        help="simplenet, cflow: epochs without a lower loss of images held out, then stop.",
        rich_help_panel=LEARNING,
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        help="simplenet, cflow: the optimizer's; 0.0005 and 0.002 by default.",
        rich_help_panel=LEARNING,
    ),
]
Noise = Annotated[
    float | None,
    typer.Option(
        help="simplenet: noise, in standard deviations of the features; 0.5 by default.",
        rich_help_panel=LEARNING,
    ),
]
CouplingBlocks = Annotated[
    int | None,
    typer.Option(
        help="cflow: coupling blocks of each level's flow; 4 by default.",
        rich_help_panel=LEARNING,
    ),
]
Score = Annotated[
    str | None,
    typer.Option(
        help="image (the method's image score) or map (the maximum of the map); map for cflow, "
        "else image by default.",
        rich_help_panel=LEARNING,
    ),
]
Upsample = Annotated[
    str | None,
    typer.Option(help="bilinear (the default) or block; not for cflow.", rich_help_panel=LEARNING),
]
GalleryDtype = Annotated[
    str | None,
    typer.Option(
        help="How the gallery keeps features: float32 (the default), float16 or int8.",
        rich_help_panel=LEARNING,
    ),
]
Sigma = Annotated[
    float | None,
    typer.Option(
        help="Blur of the map, in pixels of a 224 px input; 4 by default.",
        rich_help_panel=LEARNING,
    ),
]
BackendName = Annotated[
    str | None,
    typer.Option(
        "--backend",
        help="spade, patchcore: what searches the gallery; auto by default.",
        rich_help_panel=LEARNING,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(help="spade, patchcore: threads of the search; all by default."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="simplenet, cflow: file from which an interrupted training goes on; beside OUTPUT by "
        "default, deleted when all is done."
    ),
]
BatchSize = Annotated[int, typer.Option(help="Images that go through the network together.")]
GoodNames = Annotated[
    str,
    typer.Option("--good", help="Dataset: names of the folders of normal images, such as good,ok."),
]
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


#: The parameters of each method that are options; None where they were not given.
_SEARCHING = ("score", "sigma", "gallery_dtype", "upsample", "backend", "threads")
_TRAINED = ("score", "sigma", "gallery_dtype", "seed", "max_epochs", "patience", "learning_rate")
_PARAMETERS = {
    "spade": ("image_neighbors", "pixel_neighbors", *_SEARCHING),
    "patchcore": ("coreset", "projection", "neighbors", "seed", *_SEARCHING),
    "simplenet": ("noise", "upsample", *_TRAINED),
    "cflow": ("coupling_blocks", *_TRAINED),
}
_PATCH_SIZES = {"spade": 1, "patchcore": 3, "simplenet": 5, "cflow": 3}


def build_detector(options: dict[str, Any]) -> Any:
    """Build the detector that the options of `fit` and `evaluate` describe."""
    from knnspect.detectors import CFlow, PatchCore, SimpleNet, Spade
    from knnspect.features import Backbone

    method = options["method"]
    if method not in _PARAMETERS:
        raise ParameterError(f"--method: expected one of {', '.join(_PARAMETERS)}, got {method!r}")
    given = {}
    for name in {name: None for names in _PARAMETERS.values() for name in names}:
        if options.get(name) is not None:
            check_option(name, method)
            given[name] = options[name]
    patch_size = options["patch_size"]
    if patch_size is None:
        patch_size = _PATCH_SIZES[method]
    backbone = Backbone(
        options["backbone"],
        levels=numbers("--levels", options["levels"], ","),
        image_size=_image_size(options["image_size"]),
        weights=options["weights"],
        resize=options["resize"],
        patch_size=patch_size,
        device=options["device"],
        white=_white(options["white"]),
        max_pixels=max_pixels_of(options["max_pixels"]),
    )
    if "coreset" in given:
        given["coreset"] = _coreset_size(given["coreset"])
    kinds = {"spade": Spade, "patchcore": PatchCore, "simplenet": SimpleNet, "cflow": CFlow}
    return kinds[method](backbone, **given)


def check_option(name: str, method: str) -> None:
    """Raise a ParameterError if an option was given that a method does not have."""
    if name not in _PARAMETERS[method]:
        having = [other for other, names in _PARAMETERS.items() if name in names]
        *others, last = having
        words = f"{', '.join(others)} and {last}" if others else last
        raise ParameterError(
            f"--{name.replace('_', '-')}: is an option of {words}, the method is {method}"
        )


def is_trained(method: str) -> bool:
    """Return whether a method trains a network."""
    return "max_epochs" in _PARAMETERS.get(method, ())


def _coreset_size(text: str) -> float | int | None:
    if text == "none":
        return None
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    raise ParameterError(f"--coreset: expected a share, a number of rows or none, got {text!r}")


def numbers(name: str, text: str, separator: str) -> tuple[int, ...]:
    """Return whole numbers that were given as one option."""
    try:
        return tuple(int(part) for part in text.split(separator))
    except ValueError:
        raise ParameterError(
            f"{name}: expected whole numbers separated by {separator!r}, got {text!r}"
        ) from None


def good_names(text: str) -> list[str]:
    """Return the names of folders that were given as one option."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ParameterError(f"--good: expected names separated by ',', got {text!r}")
    return names


def max_pixels_of(text: str | None) -> int:
    """Return a number of pixels that was given as 200MP, 200M or 200000000.

    >>> max_pixels_of("200MP"), max_pixels_of("2.5 M"), max_pixels_of("77")
    (200000000, 2500000, 77)
    """
    from knnspect.data import MAX_PIXELS

    if text is None:
        return MAX_PIXELS
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMG])P?)?", text.strip().upper(), re.ASCII)
    if match is None:
        raise ParameterError(f"--max-pixels: expected pixels, such as 200MP, got {text!r}")
    power = {None: 0, "K": 3, "M": 6, "G": 9}[match[2]]
    n_pixels = int(float(match[1]) * 10**power)
    if n_pixels < 1:
        raise ParameterError(f"--max-pixels: expected at least 1 pixel, got {text!r}")
    return n_pixels


def _white(text: str | None) -> int | Literal["auto"] | None:
    if text is None:
        return None
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise ParameterError(f"--white: expected a whole number or auto, got {text!r}") from None


def _image_size(text: str) -> tuple[int, int]:
    sizes = numbers("--image-size", text, "x")
    if len(sizes) > 2:
        raise ParameterError(f"--image-size: expected 224 or HEIGHTxWIDTH, got {text!r}")
    return sizes[0], sizes[-1]


def console() -> Console:
    """Return where results are printed."""
    from rich.console import Console

    return Console(highlight=False, markup=False)
