"""What a detector says of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.calibration import Calibration
from knnspect.calibration.joint import JointCalibration
from knnspect.data.decoded import ImageArray
from knnspect.detectors.judged_file import JudgedFile
from knnspect.detectors.known_defects import KnownCells, KnownDefect
from knnspect.detectors.regions import AnomalousRegion, regions_of
from knnspect.errors import CalibrationError, ParameterError
from knnspect.locators.found import FoundPart
from knnspect.search import Neighbors
from knnspect.views import Box, Placement, Sizes, Variant, Variants
from knnspect.views.query_variants import ChosenVariants

__all__ = ["Evidence", "Prediction"]


@dataclass(frozen=True)
class Evidence:
    """Why a place has its score: the normal place that is nearest to it.

    Parameters
    ----------
    image : str
        Id of the normal image.
    cell : (int, int)
        Row and column of the cell there, at the finest level; of the variant, if it is one.
    sq_distance : float
        Squared L2 distance between the features of both places; with ``fusion="levels"`` the mean
        over levels of that to the nearest of each, of which the place is one.
    box : Box
        The pixels of the cell in the image that was judged; of a turned variant of it, a box that
        holds them.
    normal_box : Box, optional
        The pixels of the cell in the normal image; of a variant, where these were in the image
        before it was turned. None for models of earlier versions, which do not know the sizes of
        their images.
    variant : str, default ""
        The variant of the normal image, such as ``"rotated 45"``; empty for the image as it is.
    query_variant : str, default ""
        The variant of the judged image whose cell is nearest to normal, alike.
    view : str, default ""
        The view of the image that decides there, of those that a detector of its own judges; views
        within views are parted by ``/``.
    """

    image: str
    cell: tuple[int, int]
    sq_distance: float
    box: Box
    normal_box: Box | None
    variant: str = ""
    query_variant: str = ""
    view: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """What a detector says of one image.

    Parameters
    ----------
    id : str
        The image's id: its path in a folder, or a running number.
    score : float
        How unlike the normal images it is; larger is worse.
    map : ndarray of float32, shape (height, width)
        The same for each pixel of the image as it came.
    neighbors : Neighbors, optional
        For each cell, which normal cells were nearest and how far (squared L2).
    images : tuple of (str, float)
        The normal images that the image was compared with, nearest first, and their squared
        distances by pooled features.
    placement : Placement, optional
        How the image met the network.
    normal_sizes : Sizes, optional
        The sizes of the normal images, where they are known.
    picture : ndarray, shape (height, width, 3), optional
        The image as it came, if it was to be kept.
    variants : Variants, optional
        In which variants normal images were learnt: `neighbors` has an id for each.
    chosen_variants : ChosenVariants, optional
        In which variant of the image each cell has its score and its `neighbors`, if it was judged
        in several.
    calibration : Calibration, optional
        Scores of normal images, if the detector has some that its present settings give.
    false_alarm_rate : float, optional
        The share of normal images that may be called anomalous, as the detector was asked for;
        None: 0.01, or the smallest that its calibration can promise.
    uncalibrated : str, default ""
        Why there is no `calibration`.
    file : JudgedFile, optional
        The file that was judged, if it was one.
    known : KnownCells, optional
        Which cells are nearer to a defect that was rejected before than to normal ones; None where
        none was rejected.
    views : mapping of str to Prediction
        What was said of each view of the image, where a detector of its own judges each: of regions
        or lights. Empty for an image that was judged as one.
    shown_view : str, default ""
        The view of which `map` and `picture` are; empty where they show all views.
    found : FoundPart, optional
        Where a locator found the part, if one looked for it.

    Examples
    --------
    >>> normal = Calibration([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    >>> map_ = np.array([[0.5, 4.0], [0.5, 0.5]], np.float32)
    >>> prediction = Prediction("a.png", 4.0, map_, calibration=normal, false_alarm_rate=0.25)
    >>> prediction.p_value, prediction.threshold, prediction.verdict
    (0.25, 3.0, 'anomalous')
    >>> prediction.mask.tolist(), [region.peak for region in prediction.regions]
    ([[False, True], [False, False]], [(0, 1)])
    """

    id: str
    score: float
    map: NDArray[np.float32]
    neighbors: Neighbors | None = None
    images: tuple[tuple[str, float], ...] = ()
    placement: Placement | None = None
    normal_sizes: Sizes | None = None
    picture: ImageArray | None = None
    variants: Variants | None = None
    chosen_variants: ChosenVariants | None = None
    calibration: Calibration | None = None
    false_alarm_rate: float | None = None
    uncalibrated: str = ""
    file: JudgedFile | None = None
    known: KnownCells | None = None
    views: Mapping[str, Prediction] = field(default_factory=dict)
    shown_view: str = ""
    found: FoundPart | None = None

    @property
    def known_defect(self) -> KnownDefect | None:
        """The rejected defect that looks most like the strongest place; None if none does.

        It is nearer to what is there than all normal features are.
        """
        row, column = np.unravel_index(int(self.map.argmax()), self.map.shape)
        return self._known_at(int(row), int(column))

    def _view_at(self, row: int, column: int) -> str:
        """Return the name of the view that decides the map at a pixel."""
        if self.shown_view:
            return self.shown_view

        def strength(name: str) -> float:
            value = self.views[name].map[row, column]
            if isinstance(self.calibration, JointCalibration):
                value = self.calibration.of_maps(name, value)
            return float(value)

        return max(self.views, key=strength)

    def of_view(self, name: str) -> Prediction:
        """Return what was said of a view that `Evidence.view` names; itself for an empty name."""
        first, _, rest = name.partition("/")
        return self if not first else self.views[first].of_view(rest)

    def _known_at(self, row: int, column: int) -> KnownDefect | None:
        if self.views:
            return self.views[self._view_at(row, column)]._known_at(row, column)
        if self.known is None or self.placement is None:
            return None
        return self.known.at(self.placement.cell_at(row, column, self.known.grid))

    @property
    def p_value(self) -> float:
        """How often a normal image scores as high; see `Calibration`.

        This, and what follows from it, raises a CalibrationError where there is no calibration,
        and what depends on `false_alarm_rate` where that is smaller than can be promised.
        """
        return self._calibrated().p_value(self.score)

    @property
    def threshold(self) -> float:
        """The score above which an image is anomalous."""
        return self._calibrated().threshold(self.false_alarm_rate)

    @property
    def is_anomalous(self) -> bool:
        """Whether the score lies above the threshold."""
        return self.score > self.threshold

    @property
    def is_found(self) -> bool:
        """Whether the part was found, if a locator looked for one."""
        return self.found is None or self.found.found

    @property
    def verdict(self) -> Literal["normal", "anomalous", "not found"]:
        """The same in a word; a part that was not found counts as anomalous."""
        if not self.is_found:
            return "not found"
        return "anomalous" if self.is_anomalous else "normal"

    @property
    def pixel_threshold(self) -> float:
        """The map value above which a pixel is anomalous.

        A normal image has any such pixel with at most the probability `false_alarm_rate`.
        """
        return self._calibrated().pixel_threshold(self.false_alarm_rate)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The anomalous pixels, shape (height, width)."""
        mask: NDArray[np.bool_] = self.map > self.pixel_threshold
        return mask

    @cached_property
    def regions(self) -> list[AnomalousRegion]:
        """The connected parts of `mask`, those with the largest value first."""
        regions = regions_of(self.map, self.mask, self._calibrated().pixel_p_value)
        return [replace(region, known_defect=self._known_at(*region.peak)) for region in regions]

    def _calibrated(self) -> Calibration:
        if self.calibration is None:
            raise CalibrationError(
                f"image {self.id}: there are no scores of normal images to compare its own with: "
                f"{self.uncalibrated or 'the detector has none'}",
                image=self.id,
            )
        return self.calibration

    def evidence(self, row: int, column: int) -> Evidence | None:
        """Return the normal place that is nearest to what lies at a pixel.

        Parameters
        ----------
        row, column : int
            The pixel, in the image as it came.

        Returns
        -------
        Evidence or None
            None for detectors that do not compare with normal images.

        Raises
        ------
        ParameterError
            If the pixel does not lie in the image.
        """
        height, width = self.map.shape
        if not (0 <= row < height and 0 <= column < width):
            raise ParameterError(
                f"expected a pixel of {height} x {width}, got row {row}, column {column}"
            )
        if self.views:
            name = self._view_at(row, column)
            of_view = self.views[name].evidence(row, column)
            inner = "" if of_view is None or not of_view.view else f"/{of_view.view}"
            return None if of_view is None else replace(of_view, view=name + inner)
        if self.neighbors is None or self.placement is None:
            return None
        n_rows, n_columns = self.neighbors.sq_distances.shape[1:3]
        grid = (int(n_rows), int(n_columns))
        at = (0, *self.placement.cell_at(row, column, grid), 0)
        image = self.neighbors.image_ids[int(self.neighbors.image_index[at])]
        image, variant = (image, Variant()) if self.variants is None else self.variants.split(image)
        there = (int(self.neighbors.cells[at][0]), int(self.neighbors.cells[at][1]))
        normal_box = None
        if self.normal_sizes is not None:
            normal = Placement(self.normal_sizes[image], self.placement.geometry)
            # Of an image of another shape the grid may be another, of cells as large.
            here, sides = self.placement.input_size, normal.input_size
            of_normal = (sides[0] * grid[0] // here[0], sides[1] * grid[1] // here[1])
            normal_box = normal.box_of(there, of_normal)
            if variant.name:
                normal_box = variant.box_in_image(normal_box, normal.size)
        cell, chosen = (at[1], at[2]), self.chosen_variants
        box = self.placement.box_of(cell, grid)
        query_variant = ""
        if chosen is not None:
            # Of the frame that was turned, which may be a part of the image.
            box = self.placement.in_image(lambda frame: chosen.box_of(cell, frame))
            query_variant = chosen.at(cell).name
        sq_distance = float(self.neighbors.sq_distances[at])
        return Evidence(image, there, sq_distance, box, normal_box, variant.name, query_variant)

    def __repr__(self) -> str:
        height, width = self.map.shape
        return f"Prediction({self.id!r}, score={self.score:.6g}, map={height}x{width})"
