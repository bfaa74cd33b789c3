"""What a backend is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from knnspect.gallery import ReadOnlyGallery
    from knnspect.pyramid import FeaturePyramid
    from knnspect.search.neighbors import Neighbors

__all__ = ["Backend", "Capabilities", "ImageSubset"]

#: Which gallery images to search: all, or one list of ids per query image (a single list of one
#: serves them all).
ImageSubset = Sequence[Sequence[str]] | None


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do.

    Parameters
    ----------
    searches : str
        ``"pyramids"``: without the concatenated features of the whole gallery. ``"rows"``: by the
        upsampled, concatenated features of all cells, several times the gallery's memory.
    devices : tuple of str
        Where it can run here, in PyTorch's words: ``"cpu"``, ``"cuda:0"``, ...
    dtypes : tuple of str
        In which types it compares. What it returns is settled in float64, whatever these are.
    max_k : int, optional
        The largest k for which it does the work itself; above it the Rust core does. None: any.
    is_exact : bool
        Whether it gives the neighbours of the contract. A backend that does not is searched on
        request only, and measured by its recall.
    """

    searches: str
    devices: tuple[str, ...]
    dtypes: tuple[str, ...]
    max_k: int | None = None
    is_exact: bool = True


class Backend(Protocol):
    """Searches a gallery.

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
        """What it can do here."""
        ...

    def search(
        self,
        gallery: ReadOnlyGallery,
        query: FeaturePyramid,
        k: int,
        images: ImageSubset,
        threads: int | None,
    ) -> Neighbors:
        """Find the `k` nearest gallery cells of every cell of `query`; see `Gallery.search`.

        Of pyramids of one level only the channels need to agree; their cells may lie on any grids.
        """
        ...
