"""Options that commands share, and what is made of them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from knnspect.errors import ParameterError, StoreError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "LEARNING",
    "BackboneName",
    "BackendName",
    "BatchSize",
    "CoresetSize",
    "Device",
    "GalleryDtype",
    "ImageNeighbors",
    "ImageSize",
    "Levels",
    "MaxMemory",
    "Method",
    "NearestNeighbors",
    "PatchSize",
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
    "Workers",
    "build_detector",
    "check_writable",
    "console",
    "numbers",
]

_BACKBONE, LEARNING = "Backbone", "Detector"

Method = Annotated[
    str, typer.Option(help="Detector: spade or patchcore.", rich_help_panel=LEARNING)
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
        help="patchcore: chooses the first row of the coreset; 0 by default.",
        rich_help_panel=LEARNING,
    ),
]
Score = Annotated[
    str,
    typer.Option(
        help="image (the method's image score) or map (the maximum of the map).",
        rich_help_panel=LEARNING,
    ),
]
Upsample = Annotated[str, typer.Option(help="bilinear or block.", rich_help_panel=LEARNING)]
GalleryDtype = Annotated[
    str,
    typer.Option(
        help="How the gallery keeps features: float32, float16 or int8.",
        rich_help_panel=LEARNING,
    ),
]
Sigma = Annotated[
    float,
    typer.Option(help="Blur of the map, in pixels of a 224 px input.", rich_help_panel=LEARNING),
]
BackendName = Annotated[
    str,
    typer.Option("--backend", help="What searches the gallery.", rich_help_panel=LEARNING),
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


def build_detector(options: dict[str, Any]) -> Any:
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
        levels=numbers("--levels", options["levels"], ","),
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


def _image_size(text: str) -> tuple[int, int]:
    sizes = numbers("--image-size", text, "x")
    if len(sizes) > 2:
        raise ParameterError(f"--image-size: expected 224 or HEIGHTxWIDTH, got {text!r}")
    return sizes[0], sizes[-1]


def check_writable(path: Path, folder: bool = False) -> None:
    """Fail before the work rather than after it."""
    if folder and path.is_file():
        raise StoreError(f"{path}: expected a folder to write, as there is a limit; it is a file")
    if path.is_dir() and not folder:
        raise StoreError(f"{path}: expected a file to write, it is a folder")
    if not path.absolute().parent.is_dir():
        raise StoreError(f"{path}: the folder {path.absolute().parent} does not exist")


def console() -> Console:
    """Return where results are printed."""
    from rich.console import Console

    return Console(highlight=False, markup=False)
