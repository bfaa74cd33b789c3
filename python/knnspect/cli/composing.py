"""What goes before a detector, as options: a locator, regions, several lights."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from knnspect.cli.options import OptionGroup
from knnspect.errors import ParameterError

if TYPE_CHECKING:
    from knnspect.detectors import Detector
    from knnspect.detectors.composed import AnyDetector

__all__ = ["ViewOptions", "refuse_options"]

_PANEL = "Views"


class NotFoundIs(str, Enum):
    """What an image is in which the part is not found."""

    VERDICT = "verdict"
    ERROR = "error"


class MissingIs(str, Enum):
    """What it is if a part lacks a light."""

    ERROR = "error"
    WARN = "warn"


RegionsPath = Annotated[
    Path | None,
    typer.Option(
        "--regions",
        help="Regions of a product, each learnt and judged on its own: a folder of masks, whose "
        "names are theirs, or a JSON file of boxes; one called ignore is left out of all. With "
        "--locator: of the part.",
        rich_help_panel=_PANEL,
    ),
]
CutRegions = Annotated[
    bool,
    typer.Option(
        "--cut-regions",
        help="With --regions: cut each out by its box, to be judged at its own resolution.",
        rich_help_panel=_PANEL,
    ),
]
LightsPattern = Annotated[
    str | None,
    typer.Option(
        "--lights",
        help="Several pictures of a part, one verdict: how they are called, such as "
        "{part}_{light}.png, or a regular expression with the groups part and light.",
        metavar="PATTERN",
        rich_help_panel=_PANEL,
    ),
]
MissingLight = Annotated[
    MissingIs,
    typer.Option(
        help="With --lights: a part that is judged without one of them is an error, which "
        "--skip-bad leaves out, or judged by the others, with a warning.",
        rich_help_panel=_PANEL,
    ),
]
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


@dataclass(frozen=True, kw_only=True)
class ViewOptions(OptionGroup):
    """What goes before a detector: of each part its regions, of each light a part."""

    locator: LocatorFile = None
    part_margin: PartMargin = 0.0
    not_found: NotFound = NotFoundIs.VERDICT
    regions: RegionsPath = None
    cut_regions: CutRegions = False
    lights: LightsPattern = None
    missing_light: MissingLight = MissingIs.ERROR

    def before(self, detector: Detector) -> AnyDetector:
        """Return a detector with what goes before it.

        Raises
        ------
        ParameterError
            If an option goes with another one that is not given.
        """
        from knnspect.detectors.composed import Aligned, Lights, Regions
        from knnspect.locators import load_locator
        from knnspect.views.lights import IsLightPattern
        from knnspect.views.regions import IsRegions

        found: AnyDetector = detector
        if self.regions is not None:
            named = IsRegions().parse("--regions", str(self.regions))
            found = Regions(found, regions=named, cut=self.cut_regions)
        elif self.cut_regions:
            raise ParameterError("--cut-regions: goes with --regions")
        if self.locator is not None:
            finds = load_locator(self.locator)
            word: Any = self.not_found.value
            found = Aligned(found, locator=finds, margin=self.part_margin, not_found=word)
        elif self.part_margin or self.not_found is not NotFoundIs.VERDICT:
            name = "part-margin" if self.part_margin else "not-found"
            raise ParameterError(f"--{name}: goes with --locator")
        if self.lights is not None:
            IsLightPattern().check("--lights", self.lights)
            how: Any = self.missing_light.value
            found = Lights(found, pattern=self.lights, missing=how)
        elif self.missing_light is not MissingIs.ERROR:
            raise ParameterError("--missing-light: goes with --lights")
        found.check_params()
        return found


def refuse_options(detector: AnyDetector, **given: object) -> None:
    """Raise a ParameterError for the first option that was given and a composed detector lacks."""
    from knnspect.detectors.composed import Composed

    for name, value in given.items():
        if isinstance(detector, Composed) and value not in (None, False):
            option = f"--{name.replace('_', '-')}"
            raise ParameterError(f"{option}: does not go with --locator, --regions and --lights")
