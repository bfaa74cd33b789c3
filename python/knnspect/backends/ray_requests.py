"""What the shards of a gallery are asked for, and what their answers come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.backends.ray_host import Answer, Part
from knnspect.errors import StoreError
from knnspect.search import Neighbors, Search, SearchStats
from knnspect.search.shards import Shard, Shards
from knnspect.search.window import fewest_cells

__all__ = ["Request", "Requests", "TooFewCells", "merged"]


class TooFewCells(Exception):  # noqa: N818 - reads as what it says
    """Shards have fewer cells within a window than are asked for."""


@dataclass(frozen=True)
class Request:
    """What some shards are asked for together.

    Parameters
    ----------
    numbers : sequence of int
        Numbers of the shards that one process searches.
    shards : tuple of Shard
        These shards.
    asked : tuple of int
        Which of them hold images that are searched.
    parts : list of Part
        What is looked for.
    ranks : list of (ndarray of uint32, or None)
        For each part, the ranks of its images among all images of the search; None: they are all.
    """

    numbers: Sequence[int]
    shards: tuple[Shard, ...]
    asked: tuple[int, ...]
    parts: list[Part]
    ranks: list[NDArray[np.uint32] | None]


class Requests:
    """What a search asks of shards.

    Parameters
    ----------
    search : Search
        The search.
    shards : Shards
        All shards.
    owners : ndarray of int, shape (n_images,)
        The shard of each image of the search.
    """

    def __init__(self, search: Search, shards: Shards, owners: NDArray[np.intp]) -> None:
        self._search, self._owners = search, owners
        self._shards = shards.shards
        self._n_cells = fewest_cells(search.shapes, search.window)
        self._ranks = [search.ranks(image) for image in range(search.query.n_images)]
        counts = np.zeros(len(self._shards), np.intp)
        for ranks in self._ranks:
            counts += np.bincount(owners[ranks], minlength=len(self._shards))
        self._is_asked = counts > 0

    def of(self, numbers: Sequence[int], without: Sequence[str] = ()) -> Request | None:
        """Return what is asked of some shards, but those with some names; None if it is nothing.

        Raises
        ------
        TooFewCells
            If the shards have fewer cells within the window than are asked for. Their nearest
            would not do: cells that are not in the corner of the grid have more.
        """
        shards = tuple(self._shards[number] for number in numbers)
        asked = tuple(
            at
            for at, number in enumerate(numbers)
            if self._is_asked[number] and shards[at].name not in without
        )
        is_own = np.zeros(len(self._shards), bool)
        is_own[[numbers[at] for at in asked]] = True
        n_own = sum(shards[at].n_images for at in asked)
        parts: dict[tuple[int, bool], tuple[list[int], list[NDArray[np.uint32]]]] = {}
        for image, ranks in enumerate(self._ranks):
            own = ranks if is_own.all() else ranks[is_own[self._owners[ranks]]]
            if not len(own):
                continue
            k = min(self._search.k, self._n_cells * len(own))
            if k < self._search.k and self._search.window is not None:
                raise TooFewCells
            images, of_part = parts.setdefault((k, len(own) == n_own), ([], []))
            images.append(image)
            of_part.append(own)
        of_parts = [
            Part(images, k, None if is_all else self._ids(of_part))
            for (k, is_all), (images, of_part) in parts.items()
        ]
        in_all = [
            self._in_all(of_part[:1] if is_all else of_part)
            for (_, is_all), (_, of_part) in parts.items()
        ]
        return Request(numbers, shards, asked, of_parts, in_all) if parts else None

    def _ids(self, of_part: Sequence[NDArray[np.uint32]]) -> list[list[str]]:
        ids = self._search.image_ids
        return [[ids[rank] for rank in ranks.tolist()] for ranks in of_part]

    def _in_all(self, of_part: Sequence[NDArray[np.uint32]]) -> NDArray[np.uint32] | None:
        ranks = of_part[0] if len(of_part) == 1 else np.unique(np.concatenate(of_part))
        return None if len(ranks) == len(self._owners) else ranks


def merged(
    search: Search,
    answers: Sequence[tuple[Request, Sequence[Answer]]],
    missing: Sequence[str],
) -> Neighbors:
    """Return the nearest of what all shards have found.

    Raises
    ------
    StoreError
        If there are fewer than `k` without those that are missing.
    """
    height, width, _ = search.query.shapes[0]
    n_cells = height * width
    lists: list[list[tuple[NDArray[np.float64], NDArray[np.uint32], NDArray[np.uint32]]]]
    lists = [[] for _ in range(search.query.n_images)]
    pairs, stages = 0, Counter[str]()
    for request, of_request in answers:
        for answer, in_all in zip(of_request, request.ranks, strict=True):
            sq_distances, ranks, cells = answer.found
            if in_all is not None:
                ranks = in_all[ranks]
            for at, image in enumerate(answer.images):
                own = slice(at * n_cells, (at + 1) * n_cells)
                lists[image].append((sq_distances[own], ranks[own], cells[own]))
            pairs += answer.stats.pairs
            stages.update(answer.stats.stages)
    of_images = []
    for image, of_image in enumerate(lists):
        if sum(one[0].shape[1] for one in of_image) < search.k:
            raise StoreError(
                f"query image {image}: without the shards {', '.join(missing)} there are fewer "
                f"than k = {search.k} cells to search"
            )
        of_images.append(_core.merge_found(of_image, search.k))
    return search.found(
        np.concatenate([one.sq_distances for one in of_images]),
        np.concatenate([one.ranks for one in of_images]),
        np.concatenate([one.cells for one in of_images]),
        SearchStats(pairs, dict(stages)),
    )
