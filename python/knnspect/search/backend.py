"""The protocol of backends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from knnspect.search.neighbors import Neighbors
from knnspect.search.request import Search

__all__ = ["Backend", "Capabilities"]


@dataclass(frozen=True)
class Capabilities:
    """The abilities of a backend.

    Parameters
    ----------
    searches : str
        ``"pyramids"``: without the concatenated features of the whole gallery. ``"rows"``: by the
        upsampled, concatenated features of all cells, several times the gallery's memory.
    devices : tuple of str
        Where it can run here, in PyTorch's words: ``"cpu"``, ``"cuda:0"``, ...
    dtypes : tuple of str
        The types in which it compares. The distances that it returns are those of float64.
    max_k : int, optional
        The largest k for which it searches itself; above it the Rust core does. None: any.
    is_exact : bool
        Whether it gives the neighbours of the contract. A backend that does not is searched on
        request only, and measured by its recall.
    windows : bool
        Whether it heeds `Search.window`. If not, the Rust core answers searches that have a window,
        and their `stats` have all pairs under ``"core"``.
    """

    searches: str
    devices: tuple[str, ...]
    dtypes: tuple[str, ...]
    max_k: int | None = None
    is_exact: bool = True
    windows: bool = False


class Backend(Protocol):
    """Answers searches.

    A third party registers one as an entry point of the group ``knnspect.backends``: its name is
    the word by which users choose it, its object is called without arguments, or with what follows
    a colon in that word, and returns the backend. `knnspect.backends.RowsBackend` does all but the
    search itself.
    """

    @property
    def name(self) -> str:
        """The word by which it is chosen."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """Its abilities on this machine."""
        ...

    def search(self, search: Search) -> Neighbors:
        """Find the `k` nearest gallery cells of every cell of the query; see `Gallery.search`.

        Of pyramids of one level only the channels need to agree; their cells may lie on any grids.
        `Search.found` makes `Neighbors` of distances and places.
        """
        ...
