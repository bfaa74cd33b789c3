"""The Rust core as a backend."""

from __future__ import annotations

from knnspect.search import Capabilities, Neighbors, Search

__all__ = ["RustBackend"]


class RustBackend:
    """Searches on the CPU, level by level, without building the concatenated features.

    Pairs of cells that the coarser levels show to be too far apart are never compared in full; what
    was compared is in `Neighbors.stats`. A gallery of one level is searched by a few of its
    principal directions first, which the first search finds (see `Gallery.search`).

    Parameters
    ----------
    instruction_set : str, optional
        Force the kernels of one instruction set, one of ``knnspect._core.instruction_sets()``; the
        best by default. The results are the same to the bit with every one.
    matcher : str, optional
        ``"exhaustive"`` looks at all pairs of cells, ``"pruned"`` at those that no cheap bound
        excludes, and ``"auto"``, the default, does what promises to be faster. The results are
        the same to the bit.

    Examples
    --------
    >>> RustBackend(matcher="exhaustive")
    RustBackend(instruction_set=None, matcher='exhaustive')
    """

    name = "rust"
    capabilities = Capabilities(
        "pyramids", devices=("cpu",), dtypes=("float32", "float16", "int8"), windows=True
    )

    def __init__(self, *, instruction_set: str | None = None, matcher: str = "auto") -> None:
        self.instruction_set = instruction_set
        self.matcher = matcher

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}(instruction_set={self.instruction_set!r}, matcher={self.matcher!r})"

    def search(self, search: Search) -> Neighbors:
        """Find the `k` nearest gallery cells of every cell of the query; see `Gallery.search`."""
        return search.by_core(self.instruction_set, self.matcher)
