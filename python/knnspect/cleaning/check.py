"""Training images held against each other: outliers, copies, and other sizes and depths."""

from __future__ import annotations

import heapq
import warnings
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from knnspect.data import open_to_learn
from knnspect.data.loading import OnBad
from knnspect.data.sources import ImageItem, ImageSource
from knnspect.detectors import Spade
from knnspect.detectors.leave_one_out import LeaveOneOut
from knnspect.detectors.nearest import NearestDetector
from knnspect.normal_features import Run, extract
from knnspect.progress import Progress, Stopwatch
from knnspect.validation import check_count

Value = TypeVar("Value", bound=Hashable)

__all__ = ["ImageCheck", "OddImage", "check_images"]

#: Fewer images have no quartiles worth the name.
_FEWEST = 8
#: An outlier lies more than so many interquartile ranges above the upper quartile.
_FAR_OUT = 3.0


@dataclass(frozen=True, eq=False)
class OddImage:
    """An image that is unlike the others.

    Parameters
    ----------
    id : str
        The image.
    score : float
        Its score by what the others are like.
    map : ndarray of float32, shape (height, width)
        The same for its pixels.
    is_outlier : bool
        Whether it lies far out.
    """

    id: str
    score: float
    map: NDArray[np.float32]
    is_outlier: bool


@dataclass(frozen=True)
class ImageCheck:
    """What `check_images` finds.

    Parameters
    ----------
    n_images : int
        How many images were held against each other.
    scores : dict of str to float
        The score of each image by what the others are like; an image that has none but copies of
        itself to be compared with is not in it.
    limit : float
        The score above which an image is an outlier; infinite for fewer than 8 images.
    odd : list of OddImage
        Those with the largest scores, largest first.
    outliers : list of str
        All images above the limit, largest score first.
    copies : list of list of str
        Images of which the files, or the pixels of those in memory, are the same.
    near_duplicates : list of (str, str)
        Images that are hardly different, such as frames of one video; no copies.
    sizes : dict of (int, int) to list of str
        Images of another height and width than most; empty if all have one.
    modes : dict of str to list of str
        Files of another kind of pixels than most, by Pillow's word, such as "L" for grey.
    """

    n_images: int
    scores: dict[str, float]
    limit: float
    odd: list[OddImage]
    outliers: list[str]
    copies: list[list[str]] = field(default_factory=list)
    near_duplicates: list[tuple[str, str]] = field(default_factory=list)
    sizes: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    modes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def to_drop(self) -> list[str]:
        """The outliers, and of copies all but the first; sorted."""
        return sorted({*self.outliers, *(id_ for group in self.copies for id_ in group[1:])})


def check_images(
    images: object,
    detector: NearestDetector | None = None,
    *,
    n_odd: int = 12,
    batch_size: int = 16,
    n_workers: int = 2,
    skip_bad: bool | OnBad = False,
    progress: bool = False,
) -> ImageCheck:
    """Hold images against each other, to find what should not be learnt from as normal.

    Each image is compared with all others, but for its near-duplicates. An outlier scores more
    than three interquartile ranges above the upper quartile (Tukey, "Exploratory Data Analysis",
    1977: far out). Nothing is left out by this: that is for a person to decide.

    Parameters
    ----------
    images : folder, file, list of paths, arrays or PIL images, array, or loader
        As `knnspect.data.open_images` takes them.
    detector : NearestDetector, optional
        What compares them; it stays as it is. ``Spade()`` by default.
    n_odd : int, default 12
        How many of the images with the largest scores are given with their maps.
    batch_size, n_workers, skip_bad, progress
        As in `Detector.fit`.

    Returns
    -------
    ImageCheck
        What was found.

    Raises
    ------
    ImageError
        If an image cannot be used, or there is none.

    Examples
    --------
    >>> from knnspect import Backbone
    >>> rng = np.random.default_rng(0)
    >>> images = rng.integers(100, 120, (9, 64, 64, 3)).astype("u1")
    >>> images[4, 20:40, 20:40] = 255
    >>> found = check_images(images, Spade(Backbone(image_size=64, patch_size=3)))
    >>> found.outliers, found.odd[0].id, found.sizes
    (['000004'], '000004', {})
    """
    check_count("n_odd", n_odd, minimum=0)
    judge = copy(Spade() if detector is None else detector)
    judge.check_params()
    modes: dict[str, str] = {}
    opened = open_to_learn(images)
    source = ImageSource(_noting_modes(opened, modes), opened.n_images)
    run = Run(batch_size, n_workers, skip_bad, progress)
    run.calibrates = False
    judge._prepare(run)
    normal = extract(judge.backbone, source, judge._gallery(), run)
    with warnings.catch_warnings():  # near-duplicates are among what is returned
        warnings.filterwarnings("ignore", ".* near-duplicates among the others")
        judge._learn(normal, run)
    others = LeaveOneOut(normal, None)
    scores: dict[str, float] = {}
    highest: list[tuple[float, int, NDArray[np.float32]]] = []
    with Progress("comparing", len(others.ids), progress) as report:
        for index, id_ in enumerate(others.ids):
            place = int(normal.stored.places[index])
            found = judge._compare_normal(place, normal, others.left_out(index))
            if found is not None:
                one = judge._prediction(id_, normal.placement(id_), found, Stopwatch())
                scores[id_] = one.score
                heapq.heappush(highest, (one.score, -index, one.map))
                if len(highest) > n_odd:
                    heapq.heappop(highest)
            report.advance(1)
    limit = _limit(list(scores.values()))
    return ImageCheck(
        len(others.ids),
        scores,
        limit,
        [
            OddImage(others.ids[-index], score, map_, score > limit)
            for score, index, map_ in sorted(highest, key=lambda each: (-each[0], -each[1]))
        ],
        sorted((id_ for id_ in scores if scores[id_] > limit), key=lambda id_: -scores[id_]),
        copies := _groups(normal.digests),
        _apart(others.near_duplicates, copies),
        _unusual(normal.sizes),
        _unusual(modes),
    )


def _noting_modes(items: Iterable[ImageItem], modes: dict[str, str]) -> Iterable[ImageItem]:
    """Yield the same images; note the mode of those that are files which Pillow opens."""
    for item in items:
        if item.file is not None:
            try:
                with Image.open(item.file) as image:
                    modes[item.id] = image.mode
            except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError):
                pass  # who reads the image says what is wrong with it
        yield item


def _limit(scores: list[float]) -> float:
    if len(scores) < _FEWEST:
        return float("inf")
    lower, upper = np.quantile(scores, [0.25, 0.75])
    return float(upper + _FAR_OUT * (upper - lower))


def _groups(digests: Mapping[str, bytes]) -> list[list[str]]:
    """Return the images that have one digest."""
    by_digest: dict[bytes, list[str]] = defaultdict(list)
    for id_, digest in digests.items():
        by_digest[digest].append(id_)
    return [sorted(ids) for ids in by_digest.values() if len(ids) > 1]


def _apart(pairs: Iterable[tuple[str, str]], copies: list[list[str]]) -> list[tuple[str, str]]:
    """Return each pair once, but for copies."""
    group_of = {id_: number for number, group in enumerate(copies) for id_ in group}
    return sorted(
        {
            (min(pair), max(pair))
            for pair in pairs
            if pair[0] not in group_of or group_of[pair[0]] != group_of.get(pair[1])
        }
    )


def _unusual(of_images: Mapping[str, Value]) -> dict[Value, list[str]]:
    """Return the images by their value, but for the commonest value."""
    by_value: dict[Value, list[str]] = defaultdict(list)
    for id_, value in of_images.items():
        by_value[value].append(id_)
    commonest = max(by_value, key=lambda value: len(by_value[value]), default=None)
    return {value: sorted(ids) for value, ids in by_value.items() if value != commonest}
