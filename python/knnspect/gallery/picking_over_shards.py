"""Which rows of a gallery in shards a coreset keeps, each shard asked for its part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.cluster import Cluster
from knnspect.cluster.crew import Call, Crew, LocalCrew, RayCrew
from knnspect.cluster.shard_picker import ShardPicker
from knnspect.search.shards import Shards

__all__ = ["Picked", "PickingTask", "SpreadRows", "over_cluster", "pick_over_shards"]

#: Rows of all shards by whose directions distances are bounded.
_SAMPLE = 2048


@dataclass(frozen=True)
class PickingTask:
    """What is to be picked.

    Parameters
    ----------
    count : int
        How many rows.
    first : int
        The number of the first: image by image, cell by cell.
    kept : ndarray of bool, shape (n_images, height, width), or None
        Which cells there are to pick from.
    projection : ndarray of float32, shape (n_features, n), or None
        What rows are multiplied by before they are compared.
    threads : int, optional
        Number of threads, of each process.
    """

    count: int
    first: int
    kept: NDArray[np.bool_] | None
    projection: NDArray[np.float32] | None
    threads: int | None


class Picked(NamedTuple):
    """Rows in the order in which they were picked.

    Parameters
    ----------
    ranks, cells : ndarray, shape (n_picks,)
        The image of each, and its cell at the finest level.
    rows : ndarray of float32, shape (n_picks, n_features)
        Their features.
    sq_radius : float
        Squared distance within which every row is of one of them.
    """

    ranks: NDArray[np.uint32]
    cells: NDArray[np.uint32]
    rows: NDArray[np.float32]
    sq_radius: float


class SpreadRows:
    """The rows of a gallery, by the shards that hold them; shards without images are left out.

    Parameters
    ----------
    shards : Shards
        The folders.
    ids : sequence of str
        The images, sorted.
    n_cells : int
        Cells of each.
    """

    def __init__(self, shards: Shards, ids: list[str], n_cells: int) -> None:
        owners = shards.owners(ids)
        places = np.unique(owners)
        self.shards = [shards.shards[place] for place in places]
        self.ranks = [np.flatnonzero(owners == place).astype(np.uint32) for place in places]
        self.n_rows, self.n_cells = len(ids) * n_cells, n_cells
        self._parts = np.searchsorted(places, owners)

    def parts_of(self, numbers: NDArray[np.uint64]) -> NDArray[np.intp]:
        """Return the part that each row is in, by their numbers."""
        parts: NDArray[np.intp] = self._parts[(numbers // np.uint64(self.n_cells)).astype(int)]
        return parts

    def of_pickers(self, task: PickingTask) -> list[tuple[object, ...]]:
        """Return what the `ShardPicker` of each part is made with."""
        return [
            (shard, ranks, None if task.kept is None else task.kept[ranks], task.projection)
            for shard, ranks in zip(self.shards, self.ranks, strict=True)
        ]

    def picked(self, numbers: NDArray[np.uint64], rows: NDArray[np.float32], sq: float) -> Picked:
        """Return the picks that have some numbers."""
        ranks, cells = np.divmod(numbers, np.uint64(self.n_cells))
        return Picked(ranks.astype(np.uint32), cells.astype(np.uint32), rows, sq)


@contextmanager
def over_cluster(address: str | None, spread: SpreadRows, task: PickingTask) -> Iterator[Crew]:
    """Run a process of a cluster for each shard; without an address, ask them in this process."""
    if address is None:
        yield LocalCrew(ShardPicker, spread.of_pickers(task))
        return
    cluster = Cluster(address, "cluster of a coreset")
    with RayCrew(cluster, ShardPicker, spread.of_pickers(task)) as crew:
        yield crew


def pick_over_shards(
    crew: Crew, spread: SpreadRows, task: PickingTask, report: Callable[[int], object]
) -> Picked:
    """Pick rows by greedy k-centre selection: those that one process would pick, to the bit.

    Each shard keeps how far its own rows are from the picks. In a round it sends those that may be
    picked next, with their features, and the rows are picked here, as long as the farthest of all
    must be one of them; then the shards are told. (Why: ``rust/core/src/select/chooser.rs``.)
    """
    parts = range(len(spread.shards))
    opening = {part: (crew.threads(part, task.threads),) for part in parts}
    most = -(-_SAMPLE // len(parts))
    chooser: _core.Chooser | None = None

    def recall(part: int) -> Iterable[Call]:
        """Tell a process that was started anew of all picks."""
        yield "open", opening[part]
        if chooser is not None:
            yield "begin", (chooser.values_after(0), most)

    crew.recall = recall
    crew.ask("open", opening)
    first = np.array([task.first], np.uint64)
    (owner,) = spread.parts_of(first).tolist()
    picks = crew.ask("values", {owner: (first, True)})[owner]
    samples = crew.ask("begin", dict.fromkeys(parts, (picks, most)))
    sample = np.concatenate([samples[part] for part in parts])
    chooser = _core.Chooser(
        len(parts), spread.n_rows, task.count, task.first, picks[0], sample, None
    )
    none = (np.empty(0, np.uint64), np.empty(0), np.empty(0, np.uint32))
    shown, n_before = [none] * len(parts), 1
    while chooser.sq_radius is None:
        n_picks = len(chooser.rows)
        new = (n_before, chooser.values_after(n_before))
        told = {part: (*new, shown[part], chooser.step) for part in parts}
        known = crew.ask("advance", told)
        reach = chooser.reach(np.concatenate([known[part] for part in parts]))
        fronts = crew.ask("front", dict.fromkeys(parts, (reach, chooser.most)))
        in_order = [fronts[part] for part in parts]
        reached = chooser.choose(in_order)
        shown = [(front[2], sq, seen) for front, (sq, seen) in zip(in_order, reached, strict=True)]
        n_before = n_picks
        report(len(chooser.rows))
    return spread.picked(chooser.rows, _rows_of(crew, spread, chooser.rows), chooser.sq_radius)


def _rows_of(crew: Crew, spread: SpreadRows, numbers: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Return the features of some rows, in this order."""
    owners = spread.parts_of(numbers)
    owned = {int(part): np.flatnonzero(owners == part) for part in np.unique(owners)}
    found = crew.ask("values", {part: (numbers[at], False) for part, at in owned.items()})
    rows = np.empty((len(numbers), next(iter(found.values())).shape[1]), np.float32)
    for part, at in owned.items():
        rows[at] = found[part]
    return rows
