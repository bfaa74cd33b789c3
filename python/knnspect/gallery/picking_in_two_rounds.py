"""Coresets in two rounds: each shard picks by itself, and some of these rows are picked."""

from __future__ import annotations

import numpy as np

from knnspect import _core
from knnspect.cluster.crew import Crew
from knnspect.gallery.picking_over_shards import Picked, PickingTask, SpreadRows

__all__ = ["pick_in_two_rounds"]


def pick_in_two_rounds(crew: Crew, spread: SpreadRows, task: PickingTask, seed: int) -> Picked:
    """Pick rows among those that each shard picks by itself; see `ShardedGallery.coreset`.

    Each shard picks as many as are asked for in all. Both rounds are greedy, and begin with the
    task's first row; the other shards begin with one that the seed draws.

    Every row is within the radius of its shard of a row that this has picked, and that within the
    second radius of one that is picked in the end: together within the sum of both. With k + 1 rows
    at least r from each other, two share a centre of the best k, which covers with at least r / 2:
    so both radii are at most twice the best one, and the sum four times.
    """
    n_kept = [
        len(ranks) * spread.n_cells if task.kept is None else int(task.kept[ranks].sum())
        for ranks in spread.ranks
    ]
    parts = [part for part, n in enumerate(n_kept) if n]
    opening = {part: (crew.threads(part, task.threads),) for part in parts}
    crew.recall = lambda part: [("open", opening[part])]
    crew.ask("open", opening)
    first = np.array([task.first], np.uint64)
    (owner,) = spread.parts_of(first).tolist()
    asked: dict[int, tuple[int, int | None, int | None]] = {}
    for part in parts:
        place = int(np.random.default_rng([seed, part]).integers(n_kept[part]))
        begin = (None, task.first) if part == owner else (place, None)
        asked[part] = (min(task.count, n_kept[part]), *begin)
    found = crew.ask("coreset", asked)
    numbers = np.concatenate([found[part][0] for part in parts])
    by_number = np.argsort(numbers)
    numbers = numbers[by_number]
    rows = np.concatenate([found[part][1] for part in parts])[by_number]
    bank = _core.Gallery("bilinear", "float32")
    bank.add([rows[None, None]], ["rows"])
    again = (0, int(np.searchsorted(numbers, first[0])))
    how = (None, task.projection, task.threads, None, None)
    picks = _core.pick_rows(bank, min(task.count, len(rows)), again, *how)
    widest = max(found[part][2] for part in parts)
    return spread.picked(numbers[picks.cells], picks.rows, _sq_sum(widest, picks.sq_radius))


def _sq_sum(sq_one: float, sq_other: float) -> float:
    """Return the square of the sum of two roots, rounded up; 0 is exact."""
    return float((np.sqrt(sq_one) + np.sqrt(sq_other)) ** 2 * (1 + 1e-12))
