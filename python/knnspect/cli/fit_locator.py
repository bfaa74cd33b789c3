"""The command ``knnspect fit-locator``."""

from __future__ import annotations

import inspect
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from knnspect.cli.options import Config, build_parametrized
from knnspect.cli.places import check_writable
from knnspect.errors import ParameterError

if TYPE_CHECKING:
    from knnspect.locators import Locator

__all__ = ["fit_locator"]


class MasksAre(str, Enum):
    """Where pictures of other parts show theirs."""

    FOREGROUND = "foreground"
    TEMPLATE = "template"


def fit_locator(
    template: Annotated[Path, typer.Argument(help="An image that shows the part.")],
    output: Annotated[Path, typer.Option(help="The locator's file to write.")],
    *,
    box: Annotated[
        str | None,
        typer.Option(
            help="The box of the part in it: from a row and a column up to others, in pixels.",
            metavar="TOP,LEFT,BOTTOM,RIGHT",
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="The same as an image, whose pixels show the part that are not black."),
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option(help="Folder of normal images with the part, to calibrate by; not TEMPLATE."),
    ] = None,
    parts: Annotated[
        Path | None,
        typer.Option(
            help="siam_mask: folder of pictures of other parts of the kind, one in each, of the "
            "size that they have in TEMPLATE."
        ),
    ] = None,
    masks: Annotated[
        MasksAre | None,
        typer.Option(
            help="siam_mask: where PARTS show theirs: told by features, or as TEMPLATE does; "
            "foreground by default."
        ),
    ] = None,
    backgrounds: Annotated[
        Path | None,
        typer.Option(help="siam_mask: folder of images without the part, on which it is pasted."),
    ] = None,
    method: Annotated[  # noqa: ARG001 - it was read before: `kind`
        str, typer.Option(help="How it looks for the part.")
    ] = "golden_template",
    config: Config = None,  # noqa: ARG001
    kind: type[Locator],
    given: dict[str, str],
) -> None:
    """Learn what part to find in larger images, for fit --locator."""
    from knnspect.locators import save_locator

    check_writable(output)
    if (box is None) == (mask is None):
        raise ParameterError("expected either --box or --mask, which say where the part is")
    edges = None if box is None else _edges(box)
    locator = build_parametrized(kind, given)
    more = {"parts": parts, "masks": masks and masks.value, "backgrounds": backgrounds}
    options: dict[str, Any] = {name: each for name, each in more.items() if each is not None}
    takes = inspect.signature(locator.fit).parameters
    for name in options:
        if name not in takes:
            raise ParameterError(
                f"--{name}: is an option of siam_mask, the method is {kind.method}"
            )
    if "progress" in takes:
        options["progress"] = True
    locator.fit(template, box=edges, mask=mask, frames=frames, **options)
    save_locator(locator, output)
    calibration = locator.calibration_
    by = (
        "not calibrated, as that takes --frames"
        if calibration is None
        else f"calibrated by {calibration.summary}"
    )
    height, width = locator.part_.size
    typer.echo(
        f"{output}: finds a part of {height} x {width} pixels from a score of "
        f"{locator.threshold_:.3f} on; {by}"
    )


def _edges(text: str) -> list[int]:
    try:
        edges = [int(part) for part in text.split(",")]
    except ValueError:
        edges = []
    if len(edges) != 4:
        raise ParameterError(f"--box: expected TOP,LEFT,BOTTOM,RIGHT in pixels, got {text!r}")
    return edges
