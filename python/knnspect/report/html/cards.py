"""What a page shows of one image: its map, its anomalous regions, the normal places beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors import Prediction
from knnspect.detectors.prediction import Evidence
from knnspect.report.html.pictures import (
    Window,
    crop,
    map_layer,
    middle_of,
    picture,
    window_around,
)
from knnspect.views import Box

__all__ = ["Card", "NormalPlace", "Place", "card_of"]

#: Regions of an image that are shown closely; what is beyond is counted.
_MOST_PLACES = 6
#: The side of a crop, as a share of the image's longer side, and as a multiple of the region's.
_LEAST, _MOST, _AROUND = 0.2, 0.5, 1.4


@dataclass(frozen=True)
class NormalPlace:
    """The normal place that is nearest to an anomalous one."""

    image: str
    variant: str
    box: Box | None
    size: tuple[int, int] | None
    distance: float
    #: What of the normal image is shown.
    window: Window | None
    #: The view that it is of.
    view: str = ""

    @property
    def key(self) -> str:
        """What it is called among the pictures of the page."""
        return f"{self.view}\n{self.image}" if self.view else self.image

    @property
    def part(self) -> Box | None:
        """The same as a box."""
        if self.window is None:
            return None
        left, top, width, height = self.window
        return Box(top, left, top + height, left + width)


@dataclass(frozen=True)
class Place:
    """An anomalous region, or the place with the largest value."""

    title: str
    details: str
    box: Box | None
    cell: Box | None
    window: Window
    crop: str
    normal: NormalPlace | None


@dataclass(frozen=True)
class Card:
    """An image as a page shows it."""

    id: str
    score: float
    verdict: str
    p_value: float | None
    map_max: float
    size: tuple[int, int]
    picture: str
    #: The map's colours: all of them, and above the pixel threshold alone.
    layer: str
    layer_above: str | None
    places: list[Place] = field(default_factory=list)
    #: The views that were judged: name, verdict, p-value, score.
    views: list[tuple[str, str, float | None, float]] = field(default_factory=list)
    outlines: list[tuple[int, Box]] = field(default_factory=list)

    @property
    def alt(self) -> str:
        """What a reader hears who does not see the picture."""
        height, width = self.size
        n = len(self.outlines)
        regions = f", {n} anomalous {'region' if n == 1 else 'regions'}" if self.verdict else ""
        return f"Image {self.id}, {width} by {height} pixels{regions}"

    @property
    def kind(self) -> str:
        """What it counts as: a part that was not found is anomalous."""
        return "anomalous" if self.verdict == "not found" else self.verdict

    @property
    def is_wide(self) -> bool:
        """Whether it has places to be shown beside the picture."""
        return bool(self.places)

    @property
    def n_more(self) -> int:
        """How many regions are outlined and not shown closely."""
        return max(0, len(self.outlines) - _MOST_PLACES)


def card_of(prediction: Prediction, image: NDArray[Any], scale: float, longest: int) -> Card:
    """Return what is shown of an image.

    Parameters
    ----------
    prediction : Prediction
        What was said of it.
    image : ndarray, shape (height, width, 3)
        The image as it came.
    scale : float
        The map value with the strongest colour; not positive or NaN: the map's own largest.
    longest : int
        Pixels of the longer side of its picture.
    """
    map_ = prediction.map
    map_max = float(map_.max())
    scale = scale if scale > 0 and np.isfinite(scale) else map_max if map_max > 0 else 1.0
    known = prediction.calibration is not None
    verdict = prediction.verdict if known or not prediction.is_found else ""
    regions = prediction.regions if known else []
    places = []
    for number, region in enumerate(regions[:_MOST_PLACES], start=1):
        share = 100 * region.area / map_.size
        details = (
            f"p-value {region.p_value:.3g}, largest value {region.peak_value:.4g}, "
            f"{region.area:,} pixels ({share:.2g} % of the image)"
        )
        if (like := region.known_defect) is not None:
            details += f"; looks more like {like.name} ({like.image}) than like anything normal"
        places.append(
            _place(prediction, image, f"Region {number}", details, region.peak, region.box)
        )
    if not regions and verdict != "normal" and prediction.is_found:
        row, column = (int(at) for at in np.unravel_index(int(map_.argmax()), map_.shape))
        why = "No pixel lies above the pixel threshold. " if known else ""
        details = f"{why}Value {map_max:.4g} at row {row}, column {column}"
        places.append(_place(prediction, image, "Strongest place", details, (row, column), None))
    return Card(
        prediction.id,
        prediction.score,
        verdict,
        prediction.p_value if known else None,
        map_max,
        (map_.shape[0], map_.shape[1]),
        picture(image, longest),
        map_layer(map_, scale),
        map_layer(map_, scale, prediction.pixel_threshold) if known else None,
        places,
        list(_views(prediction)),
        [(number, region.box) for number, region in enumerate(regions, start=1)],
    )


def _views(
    prediction: Prediction, before: str = ""
) -> Iterator[tuple[str, str, float | None, float]]:
    """Yield what was said of each view, also of those within others."""
    for name, view in prediction.views.items():
        known = view.calibration is not None
        verdict, p_value = (view.verdict, view.p_value) if known else ("", None)
        yield before + name, verdict, p_value, view.score
        yield from _views(view, f"{before}{name}/")


def _place(
    prediction: Prediction,
    image: NDArray[Any],
    title: str,
    details: str,
    peak: tuple[int, int],
    box: Box | None,
) -> Place:
    evidence = prediction.evidence(*peak)
    cell = None if evidence is None else evidence.box
    shown = box or cell or Box(*peak, peak[0] + 1, peak[1] + 1)
    size = (prediction.map.shape[0], prediction.map.shape[1])
    sides = (shown.bottom - shown.top, shown.right - shown.left)
    side = max(_AROUND * max(sides), _LEAST * max(size))
    if side > _MOST * max(size):  # a large region is shown where it is strongest
        side, shown = _MOST * max(size), cell or Box(*peak, peak[0] + 1, peak[1] + 1)
    window = window_around(middle_of(shown), side, size)
    if evidence is not None and evidence.view:
        details += f"; {evidence.view}"
    normal = None if evidence is None else _normal_place(prediction, evidence, window, side)
    return Place(title, details, box, cell, window, crop(image, window), normal)


def _normal_place(
    prediction: Prediction, evidence: Evidence, window: Window, side: float
) -> NormalPlace:
    """Return the place of a normal image, shown as the window shows the image that was judged."""
    sizes = prediction.of_view(evidence.view).normal_sizes
    size = None if sizes is None else sizes[evidence.image]
    shown = None
    if size is not None and evidence.normal_box is not None:
        # The cells have the same place in both crops, unless the border moves one of them.
        there, here = middle_of(evidence.normal_box), middle_of(evidence.box)
        row = there[0] - here[0] + window.top + window.height / 2
        column = there[1] - here[1] + window.left + window.width / 2
        shown = window_around((row, column), side, size)
    distance = float(np.sqrt(evidence.sq_distance))
    return NormalPlace(
        evidence.image,
        evidence.variant,
        evidence.normal_box,
        size,
        distance,
        shown,
        evidence.view,
    )
