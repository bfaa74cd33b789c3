"""What a detector says of an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from knnspect.data.decoded import ImageArray
from knnspect.errors import ParameterError
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
    """

    image: str
    cell: tuple[int, int]
    sq_distance: float
    box: Box
    normal_box: Box | None
    variant: str = ""
    query_variant: str = ""


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
            box, query_variant = chosen.box_of(cell, self.placement), chosen.at(cell).name
        sq_distance = float(self.neighbors.sq_distances[at])
        return Evidence(image, there, sq_distance, box, normal_box, variant.name, query_variant)

    def __repr__(self) -> str:
        height, width = self.map.shape
        return f"Prediction({self.id!r}, score={self.score:.6g}, map={height}x{width})"
