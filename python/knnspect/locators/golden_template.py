"""The golden template: one picture of the part, looked for at all places, turns and scales."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from knnspect.constraints import Count, Positive
from knnspect.data import ImageArray
from knnspect.errors import ImageError, ParameterError
from knnspect.features import Extractor
from knnspect.locators.base import Best, Locator
from knnspect.locators.correlation import Standard
from knnspect.locators.hypotheses import FEWEST_CELLS, TurnedParts, shown_cells
from knnspect.locators.matching import mutual_matches
from knnspect.locators.part import centre
from knnspect.locators.similarity import robust
from knnspect.parameters import learnt, parameter
from knnspect.views import AlignedView, similarity

__all__ = ["GoldenTemplate"]

#: The share of the network's input that the part takes when it is looked at closely.
_CLOSE = 0.75
#: Times that a place is refined; cells by which matches may be off; cells by which pairs may
#: disagree.
_STEPS, _REACH, _TOLERANCE = 3, 4, 1.0
#: Cells by which corners move where refining has come to its end.
_NEAR = 0.25
#: Sizes of images for which the turned parts are kept.
_MOST_SIZES = 4


class GoldenTemplate(Locator):
    """Finds a part by one picture of it.

    The picture is turned and scaled in steps; the features of each view are correlated with those
    of the coarsest level of an image, at all places at once. The best places are cut out of the
    image, turned upright and enlarged, and compared with the template cell by cell: cells that are
    mutual nearest neighbours say how the place is to be moved, turned and scaled, by a robust fit,
    a few times. The score is the mean cosine between features of the part and of its place.

    Parameters
    ----------
    backbone : Extractor
        What makes the features. Its `resize` must be ``"pad"``; images keep their proportions.
    turns : int, default 24
        Steps of a whole turn. 1: parts lie as in the template.
    smallest, largest : float, default 0.7 and 1.4
        How many times as large as in the template, pixel for pixel, a part may be.
    scales : int, default 5
        How many sizes from `smallest` to `largest` are tried, in equal ratios.
    hypotheses : int, default 3
        Places that are looked at closely.

    Notes
    -----
    Of what is set after `fit`, `hypotheses`, `least_score` and `false_alarm_rate` count at once,
    all else from the next `fit` on.

    Examples
    --------
    >>> import knnspect as ks
    >>> rng = np.random.default_rng(0)
    >>> frame = np.full((96, 128, 3), 90, np.uint8)
    >>> frame[30:62, 40:72] = np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((8, 8, 1)))
    >>> locator = GoldenTemplate(
    ...     ks.Backbone(levels=(0, 1), image_size=128, resize="pad"), turns=1, scales=1,
    ...     smallest=1, largest=1,
    ... )
    >>> found = locator.fit(frame, box=(30, 40, 61, 71)).locate(np.roll(frame, (20, 35), (0, 1)))
    >>> found.found, round(found.rotated_box.row), round(found.rotated_box.column)
    (True, 65, 90)
    """

    turns: int = parameter(Count(maximum=360), default=24)
    smallest: float = parameter(Positive(), default=0.7)
    largest: float = parameter(Positive(), default=1.4)
    scales: int = parameter(Count(maximum=50), default=5)
    hypotheses: int = parameter(Count(maximum=100), default=3)

    method = "golden_template"

    _network: Extractor = learnt()
    _angles: list[float] = learnt()
    _sizes: list[float] = learnt()
    _turned: dict[tuple[int, int], TurnedParts] = learnt()
    _close: _Close = learnt()

    def _prepare(self) -> None:
        if self.smallest > self.largest:
            raise ParameterError(
                f"smallest: expected at most largest, {self.largest:g}, got {self.smallest:g}",
                parameter="smallest",
            )
        if self.backbone.geometry.resize != "pad":
            raise ParameterError(
                'backbone: expected one with resize="pad", so that images keep their proportions, '
                f'got "{self.backbone.geometry.resize}"',
                parameter="backbone",
            )
        # What is set after `fit` counts from the next one on.
        self._network = self.backbone
        self._angles = [step * 360 / self.turns for step in range(self.turns)]
        self._sizes = np.geomspace(self.smallest, self.largest, self.scales).tolist()
        self._turned = {}
        self._close = _Close(self)

    def _best(self, image: ImageArray) -> Best:
        size = (image.shape[0], image.shape[1])
        turned = self._turned.pop(size, None) or self._turned_for(size)
        self._turned[size] = turned  # the last one that was used
        while len(self._turned) > _MOST_SIZES:
            del self._turned[next(iter(self._turned))]
        places = turned.best(self._network.extract([image], n_workers=0), self.hypotheses)
        if not places:
            raise ImageError("the part has no room in it, or shows nothing")
        views = [
            AlignedView(
                size, self.part_.size, AlignedView(self.part_.size, size, place.matrix).inverse
            )
            for place in places
        ]
        return Best(*self._close.refined(image, views))

    def _turned_for(self, size: tuple[int, int]) -> TurnedParts:
        return TurnedParts(self.part_, size, self._network, self._angles, self._sizes)


class _Close:
    """The part as large as the network's input allows, and places in images beside it."""

    def __init__(self, locator: GoldenTemplate) -> None:
        part, self._backbone = locator.part_, locator.backbone
        self._canvas = self._backbone.geometry.image_size
        factor = _CLOSE * min(n / m for n, m in zip(self._canvas, part.size, strict=True))
        #: The way from the part's frame to the network's input.
        self._way = similarity(0, factor, at=centre(part.size), to=centre(self._canvas))
        image, shown = part.drawn(self._canvas, 0, factor)
        features = self._extract([image])
        self._grid = (features.shape[1], features.shape[2])
        #: Pixels of the part's frame that a cell has.
        self._pixels_of_cell = self._canvas[0] / self._grid[0] / factor
        self._mask = shown_cells(shown, self._grid)
        n_cells = int(self._mask.sum())
        if n_cells < FEWEST_CELLS:
            raise ParameterError(
                f"mask: the part takes {n_cells} cells, {FEWEST_CELLS} are needed: is it a "
                "thin line?",
                parameter="mask",
            )
        self._standard = Standard.of(features[0][self._mask])
        self._template = self._standard.unit(features[0])

    def _extract(self, images: list[ImageArray]) -> NDArray[np.float32]:
        """Return the features of images of all levels, on the grid of the finest."""
        return self._backbone.extract(images, n_workers=0).pyramid.concatenated("bilinear")

    def refined(self, image: ImageArray, views: list[AlignedView]) -> tuple[float, AlignedView]:
        """Return the best of some places in an image, refined, and its score."""
        scored = self._scored(image, views)
        best_score, best, features = max(scored, key=lambda each: each[0])
        score, view = best_score, best
        for _ in range(_STEPS):
            moved = self._moved(view, features)
            if moved is None:
                break
            is_there = _distance(view, moved) < _NEAR * self._pixels_of_cell
            ((score, view, features),) = self._scored(image, [moved])
            if score > best_score:
                best_score, best = score, view
            if is_there:
                break
        return best_score, best

    def _scored(
        self, image: ImageArray, views: list[AlignedView]
    ) -> list[tuple[float, AlignedView, NDArray[np.float32]]]:
        closely = [self._closely(view) for view in views]
        features = self._standard.unit(self._extract([view.cut(image) for view in closely]))
        cosines = np.einsum("nijc,ijc->nij", features, self._template)
        scores = cosines[:, self._mask].mean(axis=1)
        return [
            (float(score), view, of_view)
            for score, view, of_view in zip(scores, views, features, strict=True)
        ]

    def _closely(self, view: AlignedView) -> AlignedView:
        """Return the way from an image to the network's input, for one to the part's frame."""
        return AlignedView(view.size, self._canvas, _then(view.matrix, self._way))

    def _moved(self, view: AlignedView, features: NDArray[np.float32]) -> AlignedView | None:
        """Return a place moved to where cells say that the part is; None if they do not agree."""
        cells, places = mutual_matches(self._template, features, self._mask, _REACH)
        fit = robust(places, cells, _TOLERANCE)
        if fit is None:
            return None
        # In cells; of the network's input, and from its frame back to the part's.
        stride = np.array(self._canvas) / self._grid
        to_cells = np.column_stack([np.diag(1 / stride), (0.5 / stride) - 0.5])
        way = _then(_then(view.matrix, self._way), to_cells)
        back = AlignedView(self._canvas, view.frame, _then(self._way, to_cells)).inverse
        return AlignedView(view.size, view.frame, _then(_then(way, fit[0]), back))


def _distance(one: AlignedView, other: AlignedView) -> float:
    """Return by how much a place was moved: the largest distance of corners, in its own pixels."""
    off = one.corners() - other.corners()
    to_frame = np.sqrt(abs(np.linalg.det(one.matrix[:, :2])))
    return float(np.sqrt(np.square(off).sum(axis=1)).max() * to_frame)


def _then(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the transform that does one and then another."""
    turn = second[:, :2] @ first[:, :2]
    return np.column_stack([turn, second[:, :2] @ first[:, 2] + second[:, 2]])
