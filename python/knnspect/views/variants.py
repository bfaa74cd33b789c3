"""Variants of images: turned, mirrored, brighter and darker, each told by its name."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from knnspect.data.decoded import ImageArray
from knnspect.data.geometry import Geometry
from knnspect.data.own_size import OwnSize
from knnspect.errors import DTypeError, ImageError, ParameterError, ShapeError
from knnspect.validation import check_count, check_positive, some_ids
from knnspect.views.placement import Box
from knnspect.views.turning import brightened, mirrored, moves_pixels, reduced, turned, turned_back

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["StoredImages", "Variant", "Variants"]

#: One for each degree; more would differ by less than features can tell.
_MOST_ROTATIONS = 360
_SPELLING = "such as rotations=8,brightness=0.8:1.2,mirror"
#: Positions along each side of a box that are turned back, to know where it lies.
_SAMPLES = 64


@dataclass(frozen=True)
class Variant:
    """One way to change an image: first mirrored, then turned, then brighter or darker.

    Parameters
    ----------
    angle : float, default 0.0
        By how many degrees it is turned about its centre, counter-clockwise.
    is_mirrored : bool, default False
        Whether left and right change places.
    brightness : float, default 1.0
        What its values are multiplied by.

    Examples
    --------
    >>> Variant(45.0, is_mirrored=True, brightness=0.8).name
    'mirrored, rotated 45, brightness 0.8'
    >>> Variant(90.0).box_in_image(Box(0, 0, 2, 3), (10, 10))
    Box(top=0, left=8, bottom=3, right=10)
    """

    angle: float = 0.0
    is_mirrored: bool = False
    brightness: float = 1.0

    @property
    def name(self) -> str:
        """The variant in words; empty for the image as it is."""
        parts = [
            "mirrored" if self.is_mirrored else "",
            f"rotated {self.angle:.6g}" if self.angle else "",
            f"brightness {self.brightness!r}" if self.brightness != 1 else "",
        ]
        return ", ".join(part for part in parts if part)

    @property
    def moves(self) -> bool:
        """Whether what an image shows lies elsewhere in the variant."""
        return self.is_mirrored or self.angle != 0

    def of(self, image: ImageArray) -> ImageArray:
        """Return the variant of an image, of the same size and type."""
        if self.is_mirrored:
            image = mirrored(image)
        return brightened(turned(image, self.angle), self.brightness)

    def box_in_image(self, box: Box, size: tuple[int, int]) -> Box:
        """Return the smallest box of the image that holds what lies in a box of the variant.

        Parameters
        ----------
        box : Box
            Pixels of the variant.
        size : (int, int)
            Height and width of the image, which are those of the variant.
        """
        # Middles of pixels, and the border of the box; what lies beyond the image is reflected.
        rows, columns = (
            np.concatenate(
                [[first - 0.5], np.linspace(first, end - 1, _SAMPLES).round(), [end - 0.5]]
            )
            for first, end in ((box.top, box.bottom), (box.left, box.right))
        )
        at_rows, at_columns = turned_back(rows[:, None], columns, self.angle, size)
        if self.is_mirrored:
            at_columns = size[1] - 1 - at_columns
        spans = [
            (math.floor(at.min() + 0.5 + 1e-6), math.ceil(at.max() + 0.5 - 1e-6))
            for at in (at_rows, at_columns)
        ]
        (top, bottom), (left, right) = spans
        return Box(top, left, bottom, right)


@dataclass(frozen=True)
class Variants:
    """In which variants images are learnt, or judged; every image as it is, too.

    All combinations: ``rotations * (2 if mirror else 1) * (1 + len(brightness))`` of each image.

    Parameters
    ----------
    rotations : int, default 1
        In how many equal steps of a full turn images are turned; 8: by 0, 45, ... 315 degrees. An
        image is turned about its centre and keeps its height and width, as if the part turned below
        the camera. What comes from outside of it is its reflection at the border.
    brightness : sequence of float, default ()
        Factors of its values; what becomes brighter than white is white.
    mirror : bool, default False
        Whether images are mirrored, left and right, too.

    Raises
    ------
    ParameterError, DTypeError
        If a parameter lies outside these values; a factor must be above 0, not 1, and given once.

    Source
    ------
    Damm et al., "AnomalyDINO: Boosting Patch-based Few-shot Anomaly Detection with DINOv2" (2025),
    whose code turns each reference image by 8 angles, reflected at the border. It interpolates
    bilinearly; here it is bicubic, at twice the resolution of the network's input where the image
    has it, and the result is resized as every image is: features keep their fine detail.

    Examples
    --------
    >>> variants = Variants(rotations=4, brightness=(0.8,))
    >>> len(variants), [variant.name for variant in variants.each][:3]
    (8, ['', 'brightness 0.8', 'rotated 90'])
    >>> str(variants), Variants.parse("rotations=4,brightness=0.8") == variants
    ('rotations=4,brightness=0.8', True)
    """

    rotations: int = 1
    brightness: Sequence[float] = ()
    mirror: bool = False

    def __post_init__(self) -> None:
        n = check_count("rotations", self.rotations, maximum=_MOST_ROTATIONS)
        if isinstance(self.brightness, str) or not isinstance(self.brightness, Iterable):
            raise DTypeError(
                "brightness: expected a sequence of numbers, such as (0.8, 1.2), "
                f"got {self.brightness!r}",
                parameter="brightness",
            )
        factors = tuple(check_positive("brightness", factor) for factor in self.brightness)
        if len({1.0, *factors}) != len(factors) + 1:
            raise ParameterError(
                f"brightness: expected factors that differ from 1 and each other, got {factors}",
                parameter="brightness",
            )
        if not isinstance(self.mirror, (bool, np.bool_)):
            raise DTypeError(
                f"mirror: expected True or False, got {type(self.mirror).__name__}",
                parameter="mirror",
            )
        # Plain values, so that equal variants are equal.
        vars(self).update(rotations=n, brightness=factors, mirror=bool(self.mirror))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the variants that a text stands for: what `str` returns.

        Raises
        ------
        ParameterError, DTypeError
            If there are none.
        """
        given: dict[str, int | tuple[float, ...] | bool] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            if name not in ("rotations", "brightness", "mirror") or name in given:
                raise ParameterError(f"expected variants {_SPELLING}, got {text!r}")
            try:
                if name == "rotations":
                    given[name] = int(value)
                elif name == "brightness":
                    given[name] = tuple(float(factor) for factor in value.split(":"))
                else:
                    given[name] = {"": True, "true": True, "false": False}[value]
            except (KeyError, ValueError):
                raise ParameterError(f"expected variants {_SPELLING}, got {text!r}") from None
        return cls(**given)  # type: ignore[arg-type]

    def __str__(self) -> str:
        parts = [f"rotations={self.rotations}"] if self.rotations > 1 else []
        if self.brightness:
            parts.append("brightness=" + ":".join(map(repr, self.brightness)))
        if self.mirror:
            parts.append("mirror")
        return ",".join(parts) or "rotations=1"

    def __len__(self) -> int:
        return len(self.each)

    @cached_property
    def each(self) -> tuple[Variant, ...]:
        """The variants; the image as it is comes first."""
        angles = [360 * i / self.rotations for i in range(self.rotations)]
        mirrorings = (False, True) if self.mirror else (False,)
        return tuple(
            Variant(angle, is_mirrored, factor)
            for is_mirrored, angle, factor in product(mirrorings, angles, (1.0, *self.brightness))
        )

    @cached_property
    def _by_name(self) -> dict[str, Variant]:
        return {variant.name: variant for variant in self.each}

    def stored_id(self, image: str, variant: Variant) -> str:
        """Return the id under which a variant of an image is in a gallery.

        >>> Variants(2).stored_id("a.png", Variant(180.0))
        'a.png [rotated 180]'
        """
        return f"{image} [{variant.name}]" if variant.name else image

    def split(self, stored_id: str) -> tuple[str, Variant]:
        """Return the image and the variant of which `stored_id` made an id.

        >>> Variants(2).split("a.png [rotated 180]")
        ('a.png', Variant(angle=180.0, is_mirrored=False, brightness=1.0))
        """
        image, bracket, rest = stored_id.rpartition(" [")
        variant = self._by_name.get(rest[:-1]) if bracket and rest.endswith("]") else None
        if variant is None or not variant.name:
            return stored_id, self.each[0]
        return image, variant

    def stored_ids(self, image: str) -> list[str]:
        """Return the ids of all variants of an image.

        Raises
        ------
        ImageError
            If the image has an id that is that of a variant of another one.
        """
        other, variant = self.split(image)
        if variant.name:
            raise ImageError(
                f"image {image}: its id is what the variant {variant.name!r} of an image {other} "
                "is called: give it another one",
                image=image,
            )
        return [self.stored_id(image, variant) for variant in self.each]

    def prepare(
        self, id_: str, image: ImageArray, geometry: Geometry
    ) -> list[tuple[str, NDArray[np.float32]]]:
        """Return all variants of an image as the network sees them, with their ids.

        Parameters
        ----------
        id_ : str
            The image's id.
        image : ndarray
            Shape (height, width, 3), as `knnspect.data.read_image` returns it.
        geometry : Geometry
            How images meet the network.

        Raises
        ------
        ImageError
            If it cannot be turned, or has an id that it cannot have.
        """
        ids = self.stored_ids(id_)
        return list(zip(ids, self.prepared(id_, image, geometry), strict=True))

    def prepared(
        self, id_: str, image: ImageArray, geometry: Geometry
    ) -> list[NDArray[np.float32]]:
        """Return all variants of an image as the network sees them; see `prepare`."""
        size, small = (image.shape[0], image.shape[1]), None
        needed = size if isinstance(geometry, OwnSize) else geometry.image_size
        made = []
        try:
            for variant in self.each:
                if moves_pixels(variant.angle, size):
                    made.append(geometry.prepare(variant.of(image)))
                    continue
                small = reduced(image, needed) if small is None else small
                made.append(geometry.prepare(variant.of(small)))
        except ImageError as error:
            raise ImageError(f"image {id_}: {error}", image=id_) from None
        return made


class StoredImages:
    """Which of the ids in a gallery belong to which image.

    Parameters
    ----------
    ids : sequence of str
        The ids in the gallery.
    variants : Variants, optional
        In which variants the images are in it; None: each as it is.

    Attributes
    ----------
    variants : Variants or None
        The same.
    images : list of str
        The images, in the order of the ids.
    places : ndarray of intp, shape (n_images,)
        Where in `ids` each image is as it came.

    Examples
    --------
    >>> stored = StoredImages(["a", "a [rotated 180]", "b", "b [rotated 180]"], Variants(2))
    >>> stored.images, stored.places.tolist(), stored.ids_of(["b"])
    (['a', 'b'], [0, 2], ['b', 'b [rotated 180]'])
    >>> stored.nearest(np.array([[3], [4], [7], [2]], "f4"), np.array([0], "f4"), n=2)
    [('b', 4.0), ('a', 9.0)]
    """

    def __init__(self, ids: Sequence[str], variants: Variants | None) -> None:
        self.variants = variants
        self._ids: dict[str, list[str]] | None = None
        self.images = list(ids)
        self.places = self._image_of = np.arange(len(ids))
        if variants is None:
            return
        self._ids = {}
        places: dict[str, int] = {}
        for place, id_ in enumerate(ids):
            image, variant = variants.split(id_)
            self._ids.setdefault(image, []).append(id_)
            if not variant.name:
                places[image] = place
        if len(places) != len(self._ids):
            lacking = [image for image in self._ids if image not in places]
            raise ValueError(f"only variants are there of {some_ids(lacking)}")
        self.images = list(self._ids)
        numbers = {image: number for number, image in enumerate(self.images)}
        self._image_of = np.array([numbers[variants.split(id_)[0]] for id_ in ids], np.intp)
        self.places = np.array([places[image] for image in self.images], np.intp)

    def ids_of(self, images: Iterable[str]) -> list[str]:
        """Return the ids of all variants of some images."""
        if self._ids is None:
            return list(images)
        return [id_ for image in images for id_ in self._ids[image]]

    def nearest(
        self,
        rows: NDArray[np.float32],
        pooled: NDArray[np.float32],
        n: int,
        without: Collection[str] = (),
    ) -> list[tuple[str, float]]:
        """Return the images that are nearest by features; the nearest variant of each counts.

        Parameters
        ----------
        rows : ndarray of float32, shape (n_ids, n_features)
            Features, a row for each of `ids`.
        pooled : ndarray of float32, shape (n_features,)
            What they are compared with.
        n : int
            How many images at most.
        without : collection of str, default ()
            Images to leave out.

        Returns
        -------
        list of (str, float)
            Images and squared L2 distances, nearest first; ties go to the lowest id.

        Raises
        ------
        ShapeError
            If `pooled` has another shape.
        """
        if pooled.shape != rows.shape[1:]:
            raise ShapeError(
                f"pooled: expected shape {rows.shape[1:]}, got {pooled.shape}", parameter="pooled"
            )
        parts = np.array_split(rows, 1 + len(rows) // 1024)
        apart = (np.subtract(part, pooled, dtype=np.float64) for part in parts)
        sq_distances = np.concatenate([np.square(values).sum(axis=1) for values in apart])
        if self._ids is not None:
            of_ids, sq_distances = sq_distances, np.full(len(self.images), np.inf)
            np.minimum.at(sq_distances, self._image_of, of_ids)
        without = frozenset(without)
        order = sq_distances.argsort(kind="stable")  # images are in the order of their ids
        others = (int(place) for place in order if self.images[place] not in without)
        return [(self.images[at], float(sq_distances[at])) for at in islice(others, n)]
