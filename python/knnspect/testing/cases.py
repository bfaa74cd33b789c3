"""Features to be searched: of many kinds, shapes and types, each case made once and then shared.

A `Case` is a recipe. Its features and the oracle's answer are made when they are first asked for
and kept, so that all backends that are checked in one process share them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.gallery import Gallery
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Window
from knnspect.testing.oracle import Oracle

__all__ = [
    "KINDS",
    "NESTED",
    "Case",
    "Levels",
    "Shapes",
    "feature_level",
    "random_pyramid",
    "shared_oracle",
]

Shapes = tuple[tuple[int, int, int], ...]
Levels = list[NDArray[Any]]

#: Kinds of features for which float64 arithmetic rounds, and for which it does not.
ROUNDED = ("normal", "sparse", "offset", "tiny", "huge", "scales", "copies", "constant", "periodic")
WITHOUT_ROUNDING = ("quantised", "zeros")
KINDS = ROUNDED + WITHOUT_ROUNDING
#: Kinds whose values do not fit into float16.
WIDE = ("offset", "tiny", "huge", "scales")

#: Three levels, the finest first, whose sides are no powers of two.
NESTED: Shapes = ((6, 8, 5), (3, 4, 7), (1, 2, 3))


def feature_level(
    kind: str, rng: np.random.Generator, n: int, shape: tuple[int, int, int], dtype: str
) -> NDArray[Any]:
    """Return a level of features.

    Parameters
    ----------
    kind : str
        One of `KINDS`: "normal" and "sparse" are normally distributed, "offset" lies far from zero,
        "tiny", "huge" and "scales" near the ends of the type, "copies" repeats whole images,
        "constant" and "periodic" repeat cells, "quantised" and "zeros" have a few values only.
    rng : numpy.random.Generator
        Draws the values.
    n : int
        Number of images.
    shape : (int, int, int)
        Height, width, channels.
    dtype : {"float32", "float16"}
        Their type.

    Returns
    -------
    ndarray of that type, shape (n, height, width, channels)
        Finite.

    Examples
    --------
    >>> feature_level("zeros", np.random.default_rng(0), 1, (1, 3, 1), "float16").shape
    (1, 1, 3, 1)
    """
    half = dtype == "float16"
    size = (n, *shape)
    values = rng.normal(size=size)
    if kind == "sparse":
        values *= rng.random(size) < 0.1
    elif kind == "offset":
        values += 1e3 if half else 1e6
    elif kind == "tiny":
        values *= 1e-6 if half else 1e-30
    elif kind == "huge":
        values *= 1e3 if half else 1e30
    elif kind == "scales":
        exponents = rng.integers(-3, 4, n) if half else rng.integers(-15, 16, n)
        values *= 10.0 ** exponents.reshape(n, 1, 1, 1)
    else:
        values = _repeated(kind, rng, values)
    return values.astype(dtype)


def _repeated(kind: str, rng: np.random.Generator, values: NDArray[Any]) -> NDArray[Any]:
    """Return features of the kinds that have some values again and again."""
    n, height, width, channels = values.shape
    if kind == "copies":
        copies: NDArray[Any] = values[rng.integers(0, 2, n) % n]
        return copies
    if kind == "constant":
        values = rng.integers(1, 3, (n, 1, 1, channels)) * np.full(values.shape, 0.1)
        values[:, : height // 2, : width // 2] += 0.1
        return values
    if kind == "periodic":
        return np.tile(values[:, :2, :2], (1, height, width, 1))[:, :height, :width]
    if kind == "quantised":
        return rng.integers(-1, 2, values.shape).astype(float)
    if kind == "zeros":
        return rng.choice([-0.0, 0.0, 0.0, -0.0, 1.0], values.shape)
    return values


@lru_cache(256)
def random_pyramid(seed: int, n: int, shapes: Shapes) -> FeaturePyramid:
    """Return normally distributed float32 features of `n` images, the same for the same seed.

    Examples
    --------
    >>> random_pyramid(0, 2, NESTED)
    FeaturePyramid(n_images=2, levels=6x8x5 + 3x4x7 + 1x2x3)
    """
    rng = np.random.default_rng(seed)
    return FeaturePyramid([rng.normal(size=(n, *shape)).astype("f4") for shape in shapes])


@dataclass(frozen=True)
class Case:
    """A query and a gallery.

    Parameters
    ----------
    shapes : tuple of (int, int, int)
        Height, width and channels of each level, finest first.
    kind : str
        One of `KINDS`; see `feature_level`.
    dtype : {"float32", "float16"}
        The type of the features that are given.
    stored : {"float32", "float16", "int8"}
        The type in which the gallery keeps them.
    upsample : {"bilinear", "block"}
        How coarse levels are brought to the resolution of the finest one.
    n_normal, n_queries : int
        Number of images of the gallery (at most 4) and of the query.
    seed : int
        Draws the values.
    is_stored : bool
        Whether the first query image is in the gallery.

    Examples
    --------
    >>> case = Case(NESTED, "copies", "float32", "int8", "bilinear", 3, 1, seed=0, is_stored=True)
    >>> from knnspect.testing import assert_same_neighbors
    >>> found = case.gallery().search(case.query, k=2)
    >>> assert_same_neighbors(found, case.oracle(), exact=case.is_without_rounding)
    """

    shapes: Shapes
    kind: str
    dtype: str
    stored: str
    upsample: str
    n_normal: int
    n_queries: int
    seed: int
    is_stored: bool

    @property
    def ids(self) -> list[str]:
        """Not in order, and not in the order of their numbers."""
        return ["b", "a10", "a9", "ä"][: self.n_normal]

    @property
    def n_cells(self) -> int:
        """Cells of an image, at the finest level."""
        height, width, _ = self.shapes[0]
        return height * width

    @property
    def is_without_rounding(self) -> bool:
        """Whether float64 arithmetic does not round: then the oracle's places are the only ones."""
        height, width, _ = self.shapes[0]
        ratios = [ratio for h, w, _ in self.shapes for ratio in (height // h, width // w)]
        powers_of_two = all(ratio & (ratio - 1) == 0 for ratio in ratios)
        return (
            self.kind in WITHOUT_ROUNDING
            and self.stored != "int8"
            and (self.upsample == "block" or powers_of_two)
        )

    @property
    def query(self) -> FeaturePyramid:
        """The images to look up."""
        return _made(self).query

    @property
    def normal(self) -> FeaturePyramid:
        """The images of the gallery, as they are given to it."""
        return _made(self).normal

    def gallery(self) -> Gallery:
        """Return a new gallery of the normal images."""
        gallery = Gallery(self.upsample, self.stored)
        gallery.add(self.normal, self.ids)
        return gallery

    def oracle(
        self, images: Sequence[Sequence[str]] | None = None, window: Window = None
    ) -> Oracle:
        """Return all distances; `images` names those searched for all or for each query image."""
        made = _made(self)
        if images is None and window is None:
            return made.oracle
        return Oracle.of(made.query.levels, made.decoded, self.ids, self.upsample, images, window)


class _Made:
    """What is made of a case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        rng = np.random.default_rng(case.seed)
        normal, query = (
            [feature_level(case.kind, rng, n, shape, case.dtype) for shape in case.shapes]
            for n in (case.n_normal, case.n_queries)
        )
        if case.is_stored:
            for to, source in zip(query, normal, strict=True):
                to[0] = source[-1]
        self.query, self.normal = FeaturePyramid(query), FeaturePyramid(normal)

    @cached_property
    def decoded(self) -> Levels:
        """The normal images as the gallery keeps them."""
        if self.case.stored == "int8":  # how these are made is a matter of other tests
            return list(self.case.gallery().pyramid(self.case.ids).levels)
        return [level.astype(self.case.stored) for level in self.normal.levels]

    @cached_property
    def oracle(self) -> Oracle:
        return Oracle.of(self.query.levels, self.decoded, self.case.ids, self.case.upsample)


@lru_cache(512)
def _made(case: Case) -> _Made:
    return _Made(case)


@dataclass(frozen=True)
class _Question:
    """What an oracle is asked, by its digest, and how it is made."""

    digest: bytes
    make: Callable[[], Oracle] = field(compare=False)


@lru_cache(512)
def _answer(question: _Question) -> Oracle:
    return question.make()


def shared_oracle(
    query: Sequence[NDArray[Any]],
    gallery: Sequence[NDArray[Any]],
    ids: Sequence[str],
    mode: str,
    images: Sequence[Sequence[str]] | None = None,
) -> Oracle:
    """Return what `Oracle.of` returns, made once for the same values and kept."""
    digest = hashlib.blake2b(repr((list(ids), mode, images, len(query))).encode())
    for level in (*query, *gallery):
        digest.update(repr((level.shape, level.dtype.str)).encode())
        digest.update(np.ascontiguousarray(level).tobytes())
    return _answer(_Question(digest.digest(), lambda: Oracle.of(query, gallery, ids, mode, images)))
