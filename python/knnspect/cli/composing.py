"""What goes before a detector, as options: a locator, regions, several lights."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from knnspect.errors import ParameterError

if TYPE_CHECKING:
    from knnspect.detectors import Detector
    from knnspect.detectors.composed import AnyDetector

__all__ = ["LocatorFile", "NotFound", "NotFoundIs", "PartMargin", "composed", "refuse_options"]

_PANEL = "Views"


class NotFoundIs(str, Enum):
    """What an image is in which the part is not found."""

    VERDICT = "verdict"
    ERROR = "error"


LocatorFile = Annotated[
    Path | None,
    typer.Option(
        "--locator",
        help="What finds the part first, as fit-locator wrote it: images are located, cut upright, "
        "learnt and judged; results are of the images as they came.",
        rich_help_panel=_PANEL,
    ),
]
PartMargin = Annotated[
    float,
    typer.Option(
        help="With --locator: what is shown beyond the part's box on each side, as a share of it.",
        rich_help_panel=_PANEL,
    ),
]
NotFound = Annotated[
    NotFoundIs,
    typer.Option(
        help="With --locator: an image without the part has the verdict 'not found', or is an "
        "error, which --skip-bad leaves out.",
        rich_help_panel=_PANEL,
    ),
]


def composed(
    detector: Detector,
    locator: Path | None,
    part_margin: float,
    not_found: NotFoundIs,
) -> AnyDetector:
    """Return a detector with what goes before it: of each part its regions, of each light a part.

    Parameters
    ----------
    detector : Detector
        What judges each view.
    locator : Path, optional
        The file of what finds the part.
    part_margin : float
        What is shown beyond the part.
    not_found : NotFoundIs
        What an image is without the part.

    Raises
    ------
    ParameterError
        If an option goes with another one that is not given.
    """
    from knnspect.detectors.composed import Aligned
    from knnspect.locators import load_locator

    found: AnyDetector = detector
    if locator is not None:
        finds = load_locator(locator)
        word: Any = not_found.value
        found = Aligned(found, locator=finds, margin=part_margin, not_found=word)
    elif part_margin or not_found is not NotFoundIs.VERDICT:
        name = "part-margin" if part_margin else "not-found"
        raise ParameterError(f"--{name}: goes with --locator")
    found.check_params()
    return found


def refuse_options(detector: AnyDetector, **given: object) -> None:
    """Raise a ParameterError for the first option that was given and a composed detector lacks."""
    from knnspect.detectors.composed import Composed

    for name, value in given.items():
        if isinstance(detector, Composed) and value not in (None, False):
            option = f"--{name.replace('_', '-')}"
            raise ParameterError(f"{option}: does not go with --locator")
