"""How many pairs of cells a search compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["SearchStats"]


@dataclass(frozen=True)
class SearchStats:
    """How many pairs of cells a search compared: why it was fast, or slow.

    Parameters
    ----------
    pairs : int
        All pairs: query cells times gallery cells at the finest level; with a window, those within
        it.
    stages : mapping of str to int
        How many pairs each stage compared, in the order of the stages. ``"exhaustive"``: in full.
        ``"level 2"``, ``"level 1"``, ... (pyramids, coarsest first): by the levels from this one;
        with block upsampling a cell counts once for all the finer cells in it. ``"filter 1"``,
        ``"filter 2"``, ``"float32"``, ``"float64"`` (galleries of one level, or of several of equal
        size): by a few leading coordinates, by more of them, and in full in either precision. Other
        backends: their own stages, such as ``"leading"`` (torch: products of leading coordinates)
        or ``"faiss"``, then ``"float64"``, and ``"core"`` for the pairs that they left to the Rust
        core.

    Examples
    --------
    >>> SearchStats(1000, {"level 1": 250, "level 0": 10}).shares
    {'level 1': 0.25, 'level 0': 0.01}
    """

    pairs: int
    stages: Mapping[str, int]

    @classmethod
    def sum_of(cls, each: Iterable[SearchStats | None]) -> SearchStats | None:
        """Return the sums over several searches; None if one of them does not count."""
        pairs, stages = 0, dict[str, int]()
        for one in each:
            if one is None:
                return None
            pairs += one.pairs
            for stage, n_pairs in one.stages.items():
                stages[stage] = stages.get(stage, 0) + n_pairs
        return cls(pairs, stages)

    @property
    def shares(self) -> dict[str, float]:
        """The share of all pairs that each stage compared; the others were left out."""
        return {stage: pairs / max(self.pairs, 1) for stage, pairs in self.stages.items()}
